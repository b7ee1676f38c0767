"""The list of runs: every directory that an id opens, newest first.

Pages ask for it every few seconds, so what a finished run's files say is kept for as long as they
stay as they are; who holds a lock is looked up each time. Accepted trade-off: a few kilobytes of
memory a run, for at most `MOST_KEPT` of them.
"""

import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from trace_engine.disk import Stamp, stamp
from trace_engine.errors import TraceError
from trace_engine.runs import places
from trace_engine.runs.directory import FINAL_STATES, RunDirectory, RunStatus

MOST_KEPT = 4096


@dataclass(frozen=True, slots=True)
class RunSummary:
    """One row of a list of runs."""

    id: str
    kind: str
    name: str
    """The label; show it as text, never as a path."""
    status: RunStatus

    def to_dict(self) -> dict[str, Any]:
        return {"id": self.id, "kind": self.kind, "name": self.name, **self.status.to_dict()}


def list_runs(home: Path | None = None) -> list[RunSummary]:
    """Every run under the home that its id opens, newest first; a damaged one is listed with state
    `damaged` and the reason."""
    folder = places.subfolder("runs", home)
    with os.scandir(folder) as entries:
        names = [
            entry.name
            for entry in entries
            if places.is_run_id(entry.name) and entry.is_dir(follow_symlinks=False)
        ]
    found = (_summary(RunDirectory(folder / name)) for name in sorted(names, reverse=True))
    return [summary for summary in found if summary is not None]


def not_listed(home: Path | None = None) -> list[str]:
    """Names of folders among the runs that no id opens, such as a copy under a name of its own."""
    return [
        path.name
        for path in sorted(places.subfolder("runs", home).iterdir())
        if not path.name.startswith(".") and path.is_dir() and not places.is_run_id(path.name)
    ]


def _summary(run: RunDirectory) -> RunSummary | None:
    files = ("config.yaml", "status.json", "metrics.jsonl")
    try:
        kept = _ended(run, *(stamp(run.path / name) for name in files))
        if kept is not None:
            return kept
        return RunSummary(run.id, *run.label(), run.status())
    except (TraceError, OSError) as error:
        if _goes_or_comes(run):
            return None
        said = str(error)
        if isinstance(error, OSError):
            said = f"Its folder cannot be read ({error.strerror})."
        broken = RunStatus("damaged", said, 0, 0, 0, False, None)
        return RunSummary(run.id, "", "", broken)


def _goes_or_comes(run: RunDirectory) -> bool:
    """Whether it was deleted while it was read, or is a launch that is under way or was killed."""
    try:
        return run.unmade()
    except FileNotFoundError:
        return True
    except OSError:
        return False


@lru_cache(maxsize=MOST_KEPT)
def _ended(
    run: RunDirectory, config: Stamp | None, status: Stamp | None, rows: Stamp | None
) -> RunSummary | None:
    """The summary of a run that has ended: nothing but these three files can change it."""
    found = run.status()
    if found.state not in FINAL_STATES:
        return None
    return RunSummary(run.id, *run.label(), found)
