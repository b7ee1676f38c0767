"""Starting, stopping and continuing sweeps, in the foreground or by a detached process.

It loads no torch: the runs that compute are processes of their own.
"""

import contextlib
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from trace_engine.config import UnlearnConfig
from trace_engine.disk import (
    delete_folder,
    read_json,
    remove_leftovers,
    reserve_last_words,
    write_json,
)
from trace_engine.errors import RunError
from trace_engine.runs.detach import start_detached
from trace_engine.runs.lock import FileLock, LockedError
from trace_engine.runs.places import subfolder
from trace_engine.runs.preflight import require_possible
from trace_engine.runs.process import ProcessName
from trace_engine.runs.stopping import StopFlag
from trace_engine.runs.unmade import remove_unmade
from trace_engine.sets import check_answers
from trace_engine.sweeps.directory import SweepDirectory, list_sweeps, new_sweep, open_sweep
from trace_engine.sweeps.drive import PointState, drive
from trace_engine.sweeps.plan import Grid, plan_sweep
from trace_engine.trackers import check_trackers

WORKER = [sys.executable, "-m", "trace_engine.sweeps.worker"]


def launch_sweep(
    base: UnlearnConfig,
    grids: Sequence[Grid],
    name: str = "",
    home: Path | None = None,
    token: str | None = None,
    *,
    owner: str | None = None,
) -> str:
    """Start a detached process that makes the sweep's runs; returns the sweep's id.

    One `token` (a press of a button) is one sweep; its runs carry the label `owner`. Raises
    InputError as `plan_sweep` does, RunError when no process starts.
    """
    if token is not None:
        for known in list_sweeps(home):
            with contextlib.suppress(RunError):  # deleted just now
                if known.token == token:
                    return known.id
    sweep, lock = _create(base, grids, name, home, token, owner)
    _detach(sweep, lock)
    return sweep.id


def sweep(
    base: UnlearnConfig,
    grids: Sequence[Grid] | Grid,
    name: str = "",
    home: Path | None = None,
    *,
    stop: StopFlag | None = None,
    on_look: Callable[[list[PointState]], None] = lambda points: None,
    on_start: Callable[[SweepDirectory], None] = lambda sweep: None,
) -> SweepDirectory:
    """Make every run of a grid, here: returns when they have ended. The runs are ordinary ones.

    `sweep(base, {"selection.top_k": (1, 2), "weights.rule": ("mean", "exact")})`. What came of it:
    `trace_engine.sweeps.outcomes(found)`. Raises InputError as `plan_sweep` does.
    """
    several = [grids] if isinstance(grids, Mapping) else list(grids)
    made, lock = _create(base, several, name, home, None)
    on_start(made)
    with lock:
        drive(made, stop or StopFlag(), on_look)
    return made


def resume_sweep(sweep_id: str, home: Path | None = None, *, owner: str | None = None) -> None:
    """Make what is missing of a sweep that ended before it was done, by a detached process. With
    `owner` it is that person's from now on.

    Raises LockedError while it is at work, RunError when it is done.
    """
    found = open_sweep(sweep_id, home)
    _detach(found, reopen_sweep(found, owner))


def reopen_sweep(found: SweepDirectory, owner: str | None = None) -> FileLock:
    """Take a sweep that ended. Raises as `resume_sweep` does; then nothing was changed."""
    lock = found.lock()
    with lock.handing_over():
        if found.status().state == "done":
            raise RunError(f"Sweep {found.id} is done; there is nothing to resume.")
        reserve_last_words(found.path)
        theirs = {} if owner is None else {"owner": owner}
        found.update(state="running", message="", process=None, **theirs)
    return lock


def stop_sweep(sweep_id: str, home: Path | None = None) -> None:
    """Ask a sweep to stop its runs, which save, and to end. Raises RunError when it is not at
    work."""
    found = open_sweep(sweep_id, home)
    status = found.status()
    if not status.active:
        raise RunError(f"Sweep {found.id} is {status.state}; there is nothing to stop.")
    if status.process is None:
        raise RunError(f"Sweep {found.id} is only just starting. Stop it in a moment.")
    request = found.path / "stop.json"
    process = ProcessName.of(status.process)
    # A second signal would end the process before its runs have stopped.
    if read_json(request) != process.to_dict():
        write_json(request, process.to_dict())
        process.terminate()


def delete_sweep(sweep_id: str, home: Path | None = None) -> None:
    """Forget a sweep; its runs stay. Raises LockedError while it is at work."""
    found = open_sweep(sweep_id, home)
    try:
        lock = found.lock()
    except LockedError:
        raise LockedError(f"Sweep {found.id} is at work. Stop it first.") from None
    with lock:
        delete_folder(found.path)


def _create(
    base: UnlearnConfig,
    grids: Sequence[Grid],
    name: str,
    home: Path | None,
    token: str | None,
    owner: str | None = None,
) -> tuple[SweepDirectory, FileLock]:
    check_trackers(base.trackers)
    name = " ".join(name.split())
    plan = plan_sweep(base, grids, name)
    for point in plan.points:
        require_possible(point.config)
    for config in {point.config.method: point.config for point in plan.points}.values():
        check_answers(config)  # by the method alone, and it may read the forget set
    _tidy(home)
    found = new_sweep(home)
    return found, found.create(base, list(grids), plan, name, token, owner)


def _tidy(home: Path | None) -> None:
    """Remove what killed launches and deletes left; what cannot be removed is in nobody's way."""
    folder = subfolder("sweeps", home)
    with contextlib.suppress(OSError):
        remove_leftovers(folder, of="deleted-")
    remove_unmade(folder, lambda path: SweepDirectory(path).unmade())


def _detach(found: SweepDirectory, lock: FileLock) -> None:
    with lock.handing_over():
        command = [*WORKER, str(found.path)]
        try:
            start_detached(command, lock, found.path / "log.txt", found.launch_folder())
        except OSError as error:
            with contextlib.suppress(RunError):
                found.end("failed", f"its process could not be started ({error}).")
            raise RunError(f"Sweep {found.id} could not be started ({error}).") from error
