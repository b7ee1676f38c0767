"""A run as a directory: what each file in it is, and the one derivation of its state.

Readers open it by path, anywhere, and never write. Everything that changes it holds its lock. It
accepts reading small files again at every look; only settings are kept, by their file's stamp.
"""

import hashlib
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from trace_engine import formats
from trace_engine.config import ProfileConfig, UnlearnConfig, read_config, to_yaml
from trace_engine.disk import (
    LAST_WORDS,
    Stamp,
    fsync_path,
    is_leftover,
    open_own,
    read_json,
    read_last_line,
    read_lines,
    remove_leftovers,
    require_no_link,
    reserve_last_words,
    saying_when_full,
    sha256_file,
    size,
    stamp,
    write_json,
    write_text,
)
from trace_engine.errors import RunError, TraceError
from trace_engine.regular import read_text
from trace_engine.runs import events, shapes
from trace_engine.runs.checkpoints import Checkpoint, list_checkpoints
from trace_engine.runs.curve import KIND_ORDER
from trace_engine.runs.lock import FileLock, is_locked
from trace_engine.runs.preflight import require_possible

FINAL_STATES = ("done", "stopped", "failed")
"""States that a worker writes as its last word; without one, a free lock means `interrupted`."""
ACTIVE_STATES = ("starting", "queued", "running")
STALLED_SECONDS = 60.0
_BEFORE_THE_FIRST_STEP = frozenset(
    {"config.yaml", "status.json", "launch.json", "facts.json", "progress.json", "metrics.jsonl"}
    | {"log.txt", "lock", "checkpoints", "profile-before", "trackers", events.NAME}
)
"""What a run may hold that has not made an update; with a stop request beside it."""
_APPENDED = ("metrics.jsonl", "log.txt", events.NAME)
_BEFORE_THE_STATUS = frozenset({"config.yaml", "launch.json", "lock"})
"""What one holds that was killed while it was made."""


@dataclass(frozen=True, slots=True)
class RunStatus:
    state: str
    """starting, queued, running, done, stopped, failed or interrupted."""
    message: str
    """One sentence for a person; empty when there is nothing to say."""
    attempt: int
    step: int
    """The last optimizer update that was recorded."""
    max_steps: int
    stalled: bool
    """Active, but silent for a minute: slow or hanging. Never a reason to call it dead."""
    silent_seconds: float | None
    """Since the worker last reported; None when it has ended."""
    notes: tuple[str, ...] = ()
    """What happened on the way, e.g. a damaged checkpoint that was passed over."""
    process: dict[str, Any] | None = None
    """Id and start time of the worker."""
    created: float = 0.0
    """When the run was first launched, in seconds since the epoch."""
    updated: float = 0.0
    started: float = 0.0
    """When the last attempt left the queue; 0 where that was not recorded."""
    repeats: bool = False
    """Failed of something that a new attempt with the same settings would meet again."""

    @property
    def active(self) -> bool:
        """Whether a worker holds the run now."""
        return self.state in ACTIVE_STATES

    @property
    def resumable(self) -> bool:
        """Whether a new attempt may continue it."""
        return self.state in ("stopped", "failed", "interrupted")

    def to_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__} | {
            "notes": list(self.notes),
            "active": self.active,
            "resumable": self.resumable,
        }


@contextmanager
def _reading(run: str, name: str) -> Iterator[None]:
    """Turns what a value of the wrong kind raises into a RunError that names the file."""
    try:
        yield
    except TraceError:
        raise
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError):
        raise RunError(f"Run {run} is damaged: {name} holds what no run writes there.") from None


def _why_silent(folder: Path) -> str:
    free = shutil.disk_usage(folder).free
    if free < LAST_WORDS:
        return f"its disk is full, with {size(free)} free, and may have left no room for one"
    return "killed, often out of memory, or the machine went down"


@lru_cache(maxsize=1024)
def _settings(path: Path, stamp: Stamp | None) -> ProfileConfig | UnlearnConfig:
    """A settings file is read once for as long as it stays as it is: YAML takes milliseconds, and
    a page asks for hundreds of them."""
    return read_config(path, recorded=True)


@dataclass(frozen=True, slots=True)
class RunDirectory:
    path: Path
    id: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", Path(self.path).absolute())
        object.__setattr__(self, "id", self.path.name)

    # ---- reading -------------------------------------------------------------------------------

    def config(self) -> ProfileConfig | UnlearnConfig:
        """The settings the run was launched with. Raises InputError when they were damaged,
        RunError when a newer version wrote them."""
        recorded = read_json(self.path / "status.json")
        if isinstance(recorded, dict):
            self._require_known(recorded)
        path = self.path / "config.yaml"
        return _settings(path, stamp(path))

    def label(self) -> tuple[str, str]:
        """Kind and name: as noted beside the settings while those are unchanged, which is a
        hundred times as fast as reading them. Raises as `config` does."""
        recorded = read_json(self.path / "status.json")
        noted = recorded.get("settings") if isinstance(recorded, dict) else None
        try:
            if isinstance(noted, dict):
                self._require_known(recorded)
                if noted.get("sha256") == sha256_file(self.path / "config.yaml"):
                    return str(noted["kind"]), str(noted["name"])
        except (OSError, KeyError):
            pass  # what is wrong with the file is said by reading it
        config = self.config()
        return config.kind, config.name

    def status(self) -> RunStatus:
        """The state now, derived from the lock and the worker's last word. Raises RunError if there
        is no run."""
        locked = is_locked(self.lock_path)
        recorded = self._recorded()
        state = recorded["state"]
        # The lock was free before the file was read, so a final state would be in it, unless a new
        # attempt began in between: then the lock is held by now.
        if state not in FINAL_STATES and not locked and not is_locked(self.lock_path):
            state = "interrupted"
        return self._status(state, recorded)

    def _recorded(self) -> dict[str, Any]:
        recorded = read_json(self.path / "status.json")
        if not isinstance(recorded, dict) or not isinstance(recorded.get("state"), str):
            raise RunError(f"{self.path.name} is not a run: it has no status.json.")
        self._require_known(recorded)
        with _reading(self.id, "status.json"):
            shapes.require_status(recorded)
        return recorded

    def _require_known(self, recorded: dict[str, Any]) -> None:
        formats.require_known(recorded, formats.RUN, f"Run {self.id}", RunError)

    def _status(self, state: str, recorded: dict[str, Any]) -> RunStatus:
        with _reading(self.id, "status.json"):
            return self._derived(state, recorded)

    def _derived(self, state: str, recorded: dict[str, Any]) -> RunStatus:
        step = int(recorded.get("step", 0))
        updated = float(recorded.get("updated", 0.0))
        reported = stamp(self.path / "progress.json")
        last = read_last_line(self.path / "metrics.jsonl")
        if last is not None and last.get("attempt") == recorded.get("attempt"):
            with _reading(self.id, "metrics.jsonl"):
                shapes.require_row(last)
            step = last["step"]
        if state not in FINAL_STATES and reported is not None:
            updated = max(updated, reported[2] / 1e9)
        # Runs of earlier versions repeat their state in front of the sentence.
        message = str(recorded.get("message", "")).removeprefix("failed: ")
        if state == "interrupted":
            message = (
                f"The worker ended without a word at step {step}: {_why_silent(self.path)}. Resume "
                "continues from the last complete checkpoint."
            )
        silent = max(0.0, time.time() - updated) if state in ACTIVE_STATES else None
        return RunStatus(
            state=state,
            message=message,
            attempt=int(recorded.get("attempt", 1)),
            step=step,
            max_steps=int(recorded.get("max_steps", 0)),
            stalled=state == "running" and silent is not None and silent > STALLED_SECONDS,
            silent_seconds=silent,
            notes=tuple(recorded.get("notes", ())),
            process=recorded.get("process"),
            created=float(recorded.get("created", 0.0)),
            updated=updated,
            started=float(recorded.get("started", 0.0)),
            repeats=state == "failed" and bool(recorded.get("repeats", False)),
        )

    def rows(self, kind: str | None = None) -> list[dict[str, Any]]:
        """The curve: one row per (kind, step), the last written, in order of step; `kind` filters.

        Each row carries `attempt`. Raises RunError naming a damaged line.
        """
        last: dict[tuple[str, int], dict[str, Any]] = {}
        with _reading(self.id, "metrics.jsonl"):
            for row in read_lines(self.path / "metrics.jsonl"):
                shapes.require_row(row)
                last[row["kind"], row["step"]] = row
            rows = [row for row in last.values() if kind is None or row["kind"] == kind]
            return sorted(rows, key=lambda row: (row["step"], KIND_ORDER.get(row["kind"], 2)))

    def facts(self) -> dict[str, Any]:
        """What the run found out before training: model, sets, selection, weights; empty until it
        has. Raises RunError when they are damaged."""
        found: dict[str, Any] = read_json(self.path / "facts.json") or {}
        with _reading(self.id, "facts.json"):
            shapes.require_facts(found)
        return found

    def progress(self) -> dict[str, Any] | None:
        """The last `Progress` as a mapping, or None. Raises RunError when it is damaged."""
        found: dict[str, Any] | None = read_json(self.path / "progress.json")
        if found is not None:
            with _reading(self.id, "progress.json"):
                shapes.require_progress(found)
        return found

    def log_tail(self, count: int = 50) -> list[str]:
        """The last lines of the worker's log."""
        try:
            text = read_text(self.path / "log.txt", errors="replace")
        except FileNotFoundError:
            return []
        except OSError as error:
            raise RunError(f"log.txt cannot be read ({error.strerror}).") from None
        return text.splitlines()[-count:]

    def events(self) -> list[dict[str, Any]]:
        """What happened and when, oldest first: `time` (UTC), `event`, `attempt` and what belongs
        to it; empty for a run of a version that recorded none. Raises RunError when they are
        damaged."""
        found = events.read(self.path)
        with _reading(self.id, events.NAME):
            for event in found:
                shapes.require_event(event)
        return found

    def checkpoints(self) -> list[Checkpoint]:
        """The complete checkpoints, oldest first."""
        return list_checkpoints(self.path / "checkpoints")

    def profile_before(self) -> Path | None:
        """The folder of the profile that the run calibrated on, once it is there."""
        return self._finished("profile-before")

    def profile_after(self) -> Path | None:
        """The folder of the changed model's profile, once the run is done."""
        return self._finished("profile-after")

    def model_folder(self) -> Path | None:
        """The folder of the changed model, once the run is done."""
        return self._finished("model")

    def _finished(self, name: str) -> Path | None:
        # Folders are renamed into place when they are complete.
        path = self.path / name
        return path if path.is_dir() else None

    # ---- writing, under the lock ---------------------------------------------------------------

    @property
    def lock_path(self) -> Path:
        return self.path / "lock"

    def lock(self) -> FileLock:
        """Take the run. Raises LockedError when a worker has it, RunError when there is no such
        run."""
        if not (self.path / "config.yaml").exists():
            raise RunError(f"{self.path.name} is not a run: it has no config.yaml.")
        refusal = f"Run {self.id} is in use by its worker. Stop it first."
        return FileLock.take_over(
            self.lock_path, refusal, lambda: self._recorded()["state"] in FINAL_STATES
        )

    def create(
        self, config: ProfileConfig | UnlearnConfig, launched: Mapping[str, Any] | None = None
    ) -> FileLock:
        """Make the directory and take its lock before anyone can find it. Raises RunError if it is
        there, unless it is a run that ended before its first update: that one starts anew; and
        ModelError for what the model cannot be trained as (see `preflight`). `launched` is kept:
        who asked.
        """
        require_possible(config)
        try:
            with saying_when_full(self.path.parent):
                self.path.mkdir(parents=True)
        except FileExistsError:
            if not self.path.is_dir() or not (self._empty() or self._nothing_computed()):
                raise RunError(
                    f"{self.path.name} exists and is not empty. Name another folder, or continue "
                    "what is in it with `trace-moe runs resume`. Nothing was changed."
                ) from None
        lock = FileLock.take(self.lock_path, f"Run {self.id} is in use by another process.")
        with lock.handing_over():
            self._make(config, launched or {})
        return lock

    def _make(self, config: ProfileConfig | UnlearnConfig, launched: Mapping[str, Any]) -> None:
        if (self.path / "config.yaml").exists() and not self._nothing_computed():
            raise RunError(f"{self.path.name} was made into a run by another process meanwhile.")
        self._clear()
        reserve_last_words(self.path)
        noted = self._write_settings(config)
        # Relative names in the settings start here, wherever a later attempt is started from.
        write_json(self.path / "launch.json", {"folder": os.getcwd(), **launched})
        now = time.time()
        write_json(
            self.path / "status.json",
            {
                formats.FIELD: formats.RUN,
                "state": "starting",
                "message": "",
                "attempt": 1,
                "step": 0,
                "max_steps": getattr(config, "max_steps", 0),
                "settings": noted,
                "notes": [],
                "process": None,
                "created": now,
                "updated": now,
            },
        )
        self.event("starting", max_steps=getattr(config, "max_steps", 0))
        fsync_path(self.path.parent)

    def _empty(self) -> bool:
        """Nothing is there but perhaps the lock of a launch that got no further."""
        return all(path.name == "lock" for path in self.path.iterdir())

    def unmade(self) -> bool:
        """Whether it is only what a process left that was killed while it made the directory."""
        names = {path.name for path in self.path.iterdir() if not is_leftover(path.name)}
        return not names or ("lock" in names and names <= _BEFORE_THE_STATUS)

    def _nothing_computed(self) -> bool:
        """Whether it is a run, and nothing but a run, that ended before its first update."""
        if self.unmade():
            return True
        names = {path.name for path in self.path.iterdir() if not is_leftover(path.name)}
        foreign = {n for n in names - _BEFORE_THE_FIRST_STEP if not re.fullmatch(r"stop-\d+", n)}
        if foreign or not {"config.yaml", "status.json"} <= names:
            return False
        try:
            done, trained = self._recorded()["state"] == "done", self.rows("train")
        except RunError:
            return False
        return not (done or trained or list_checkpoints(self.path / "checkpoints"))

    def _clear(self) -> None:
        """Remove what an attempt without a result left. The caller holds the lock."""
        for path in self.path.iterdir():
            if path.name != "lock":
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def launch_folder(self) -> Path:
        """Where the settings' relative names start: where the run was launched, or the current
        folder where that one is not on this machine."""
        folder = self.launched().get("folder")
        return Path(folder) if folder and os.path.isdir(folder) else Path.cwd()

    def launched(self) -> dict[str, Any]:
        """Who asked for the run, where, and with what question; empty where that is not recorded.
        Raises RunError when it is damaged."""
        found = read_json(self.path / "launch.json")
        found = {} if found is None else found
        with _reading(self.id, "launch.json"):
            shapes.require_launched(found)
        return dict(found)

    def sweep(self) -> str | None:
        """The sweep that asked for the run, a label; None for a run of its own."""
        return self._label("sweep")

    def owner(self) -> str | None:
        """Who asked for the run or resumed it last, a label; None where nobody had to say who they
        are."""
        return self._label("owner")

    def _set_owner(self, owner: str) -> None:
        write_json(self.path / "launch.json", self.launched() | {"owner": owner})

    def _label(self, name: str) -> str | None:
        try:
            return self.launched().get(name)
        except RunError:
            return None  # a label decides nothing

    def update(self, **changes: Any) -> None:
        """Change fields of status.json. The caller holds the lock. `done` is never overwritten."""
        recorded = self._recorded()
        if recorded["state"] == "done":
            raise RunError(f"Run {self.id} is done; a finished run is never changed.")
        changed = recorded | {"updated": time.time()} | changes
        write_json(self.path / "status.json", changed)
        before, after = (self._status(data["state"], data) for data in (recorded, changed))
        for note in after.notes[len(before.notes) :]:
            self.event("note", message=note)
        if (after.state, after.attempt) != (before.state, before.attempt):
            said = {"message": after.message} if after.message else {}
            self.event(after.state, step=after.step, **said)

    def event(self, event: str, **facts: Any) -> None:
        """Add an event to the run's structured log. The caller holds the lock."""
        events.record(self.path, event, attempt=int(self._recorded().get("attempt", 1)), **facts)

    def settle(self, config: ProfileConfig | UnlearnConfig) -> None:
        """Put what was measured where settings ask for a measurement, before anything is computed.
        The caller holds the lock."""
        self.update(settings=self._write_settings(config))

    def _write_settings(self, config: ProfileConfig | UnlearnConfig) -> dict[str, str]:
        """Write config.yaml, and return what a list of runs shows of it."""
        text = to_yaml(config)
        write_text(self.path / "config.yaml", text)
        digest = hashlib.sha256(text.encode()).hexdigest()
        return {"sha256": digest, "kind": config.kind, "name": config.name}

    def log(self, text: str) -> None:
        """Add a line, or a traceback, to log.txt. The caller holds the lock."""
        descriptor = open_own(self.path / "log.txt", os.O_WRONLY | os.O_APPEND)
        with open(descriptor, "a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text.rstrip()}\n")

    def begin_attempt(self, owner: str | None = None) -> int:
        """Open the next attempt of a run that ended; with `owner` it is that person's from now on.
        The caller holds the lock. Raises RunError when done or when a file to append to is a link,
        DiskFullError when there is no room for it to say how it ends."""
        recorded = self._recorded()
        if recorded["state"] == "done":
            raise RunError(f"Run {self.id} is done; there is nothing to resume.")
        for name in _APPENDED:
            require_no_link(self.path / name)
        attempt = int(recorded["attempt"]) + 1
        remove_leftovers(self.path)
        reserve_last_words(self.path)
        if owner is not None:
            self._set_owner(owner)
        # Its last report is from the attempt before, and would look like a stall.
        (self.path / "progress.json").unlink(missing_ok=True)
        self.update(state="starting", message="", attempt=attempt, process=None)
        return attempt
