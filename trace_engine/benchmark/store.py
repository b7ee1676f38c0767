"""A table's folder: one small file per run, written when it is finished and never changed.

A kill at any moment leaves finished runs only. Several processes share a folder: each claims a run
by a lock that the kernel frees at any death. It accepts that a run is repeated from its beginning
when its process dies.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from trace_engine.benchmark.plan import SCHEMA, Trial, same_question
from trace_engine.disk import read_json, write_json
from trace_engine.errors import RunError
from trace_engine.formats import require_known
from trace_engine.runs.lock import FileLock, LockedError

Result = dict[str, Any]
_DAMAGED = (
    "The finished run {} is damaged: it is not the result of a run. Remove its file from trials/, "
    "and the same command computes it again."
)


class TrialStore:
    """The finished runs of a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._trials = folder / "trials"

    def find(self, trial: Trial) -> Result | None:
        """The run's result, or None when it is not there.

        One that was computed when a setting had another default is not this run's. Raises RunError
        when the file is damaged.
        """
        found: Result | None = read_json(self._path(trial))
        if found is None:
            return None
        if not isinstance(found, dict):
            raise RunError(_DAMAGED.format(trial.key))
        # One of a newer version must not be computed again and written over.
        require_known(found, SCHEMA, f"The finished run {trial.key}", RunError, field="schema")
        if found.get("schema") != SCHEMA:
            return None
        if not isinstance(found.get("settings"), dict):
            raise RunError(_DAMAGED.format(trial.key))
        return found if same_question(found["settings"], trial.config) else None

    def keep(self, trial: Trial, result: Result) -> None:
        """Keep a finished run's result."""
        self._trials.mkdir(parents=True, exist_ok=True)
        write_json(self._path(trial), result)

    @contextmanager
    def claim(self, trial: Trial) -> Iterator[bool]:
        """Whether the run is this process's for the duration of the block."""
        self._trials.mkdir(parents=True, exist_ok=True)
        path = self._trials / f".{trial.key}.lock"
        try:
            lock = FileLock.take(path, "Another process computes this run.")
        except LockedError:
            yield False
            return
        with lock:
            # Whoever opened the file before it went away finds the result there after locking.
            try:
                yield True
            finally:
                with suppress(FileNotFoundError):
                    path.unlink()

    def _path(self, trial: Trial) -> Path:
        return self._trials / f"{trial.key}.json"
