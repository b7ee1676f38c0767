"""Runs that survive: directories, locks, detached workers, a queue, a cache of profiles. Loads no
torch."""

from pathlib import Path

from trace_engine.runs.directory import RunDirectory, RunStatus
from trace_engine.runs.importing import import_run
from trace_engine.runs.launcher import (
    delete,
    delete_directory,
    launch,
    resume,
    resume_directory,
    stop,
    stop_directory,
)
from trace_engine.runs.listing import RunSummary, list_runs
from trace_engine.runs.lock import LockedError
from trace_engine.runs.places import find_profile, home, run_path, store_set


def open_run(run_id: str, home: Path | None = None) -> RunDirectory:
    """The run with this id. Raises RunError when there is none, or when it is not an id."""
    return RunDirectory(run_path(run_id, home))


__all__ = [
    "LockedError",
    "RunDirectory",
    "RunStatus",
    "RunSummary",
    "delete",
    "delete_directory",
    "find_profile",
    "home",
    "import_run",
    "launch",
    "list_runs",
    "open_run",
    "resume",
    "resume_directory",
    "run_path",
    "stop",
    "stop_directory",
    "store_set",
]
