"""Making a sweep's runs one after another, as many at once as the machine's slots allow.

Every run is a detached process of its own and outlives this loop; killed and resumed, the loop goes
on where the runs are. It accepts looking twice a second.
"""

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from trace_engine.errors import RunError, TraceError
from trace_engine.runs import launch, open_run, resume
from trace_engine.runs import stop as stop_run
from trace_engine.runs.directory import RunStatus
from trace_engine.runs.process import ProcessName
from trace_engine.runs.queue import capacity
from trace_engine.runs.stopping import StopFlag
from trace_engine.sweeps.directory import SweepDirectory, SweepPoint

_LOOK_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class PointState:
    """A point and the state of its run; None while it has none (or it was deleted)."""

    point: SweepPoint
    run: RunStatus | None

    @property
    def done(self) -> bool:
        return self.run is not None and self.run.state == "done"

    @property
    def active(self) -> bool:
        return self.run is not None and self.run.active


def look(sweep: SweepDirectory) -> list[PointState]:
    """Every point with the state of its run now."""
    found = []
    for point in sweep.points():
        status = None
        if point.run is not None:
            with contextlib.suppress(TraceError):  # deleted, or damaged: as good as not there
                status = open_run(point.run, sweep.home).status()
        found.append(PointState(point, status))
    return found


def drive(
    sweep: SweepDirectory,
    stop: StopFlag,
    on_look: Callable[[list[PointState]], None] = lambda points: None,
) -> str:
    """Make what is missing and record the end; returns the final state. The caller holds the lock.

    A run that failed or was stopped before is continued once, unless it would fail again of its
    settings. Asked to stop, it stops its runs (they save) and ends.
    """
    tried: set[int] = set()
    refusals: dict[int, str] = {}
    try:
        sweep.update(state="running", message="", process=ProcessName.own().to_dict())
        while True:
            points = look(sweep)
            on_look(points)
            active = [state for state in points if state.active]
            if stop.requested:
                if not active:
                    break
                _stop(active, sweep.home)
            else:
                missing = [s for s in points if s.point.number not in tried and not s.done]
                waiting = [s for s in missing if not s.active]
                if not waiting and not active:
                    break
                for state in waiting[: max(0, capacity("unlearn") - len(active))]:
                    tried.add(state.point.number)
                    try:
                        _start(sweep, state)
                    except TraceError as error:
                        refusals[state.point.number] = str(error)
            time.sleep(_LOOK_SECONDS)
    except TraceError as error:
        sweep.end("failed", str(error))
        return "failed"
    end, message = _end(points, refusals, stopped=stop.requested)
    sweep.end(end, message)
    return end


def _start(sweep: SweepDirectory, state: PointState) -> None:
    point = state.point
    if state.run is not None and point.run is not None:
        if not (state.run.resumable and not state.run.repeats):
            raise RunError(state.run.message)
        resume(point.run, sweep.home, owner=sweep.owner)
        return
    # The token makes a start that was killed before it was recorded find its run again.
    token = f"sweep {sweep.id} {point.number}"
    run = launch(point.config, sweep.home, token, sweep=sweep.id, owner=sweep.owner)
    sweep.record_run(point.number, run)
    found = open_run(run, sweep.home).status()
    if found.state == "interrupted":  # it was killed before the run had a process of its own
        resume(run, sweep.home)


def _stop(active: list[PointState], home: Path) -> None:
    for state in active:
        # One that is only just starting refuses, and is asked again at the next look.
        with contextlib.suppress(RunError):
            stop_run(str(state.point.run), home)


def _end(points: list[PointState], refusals: dict[int, str], *, stopped: bool) -> tuple[str, str]:
    done = sum(state.done for state in points)
    if done == len(points):
        return "done", f"All {done} runs are done."
    message = f"{done} of {len(points)} runs are done."
    if stopped:
        return "stopped", f"Stopped: {message}"
    first = next(state for state in points if not state.done)
    reason = refusals.get(first.point.number) or (
        first.run.message if first.run is not None else "its run was deleted"
    )
    return "failed", f"{message} {first.point.label}: {reason}"
