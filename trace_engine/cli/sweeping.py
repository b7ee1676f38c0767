"""`trace-moe sweep` and `trace-moe sweeps …`: the same sweeps that the page shows.

In the foreground this process makes the runs; they are processes of their own all the same. Ctrl-C
stops them (they save), and `sweeps resume` goes on.
"""

import argparse
import contextlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trace_engine import sweeps
from trace_engine.cli.options import read_run
from trace_engine.cli.output import clear_progress, duration, emit_json, interval, note, print_table
from trace_engine.config import UnlearnConfig
from trace_engine.csvfile import csv_text
from trace_engine.disk import strict, write_json, write_text
from trace_engine.errors import InputError, TraceError
from trace_engine.evaluation.outcome import Figure
from trace_engine.regular import read_text
from trace_engine.runs.places import subfolder
from trace_engine.runs.stopping import StopFlag
from trace_engine.sweeps.drive import PointState, drive
from trace_engine.sweeps.file import is_sweep_file, parse_values, read_sweep
from trace_engine.sweeps.launcher import reopen_sweep
from trace_engine.sweeps.results import measure_of

_STOPPING = "\nStopping the runs, which save; press Ctrl-C again to leave them running.\n"


def sweep(options: argparse.Namespace) -> int:
    base, grids, name = _asked(options)
    plan = sweeps.plan_sweep(base, grids, name)
    if options.plan:
        return _plan(plan, sweeps.seconds_per_run(base), options.json)
    if options.out is not None:
        if options.background:
            raise InputError("--background keeps its points under the home; leave --out away.")
        _require_empty(options.out)
    for sentence in plan.sentences():
        note(sentence)
    if options.background:
        found = sweeps.open_sweep(sweeps.launch_sweep(base, grids, name))
        return _launched(found, options.json)
    found = sweeps.sweep(
        base, grids, name, stop=_listening(), on_look=Narrator(),
        on_start=lambda made: note(f"Sweep {made.id}: {len(plan.points)} runs."),
    )  # fmt: skip
    return _ended(found, options)


def _asked(options: argparse.Namespace) -> tuple[UnlearnConfig, list[sweeps.Grid], str]:
    """From a run's settings and `--set`, or from a sweep's own file, as the page shows it."""
    if is_sweep_file(options.config):
        if options.set:
            raise InputError(
                f"{options.config.name} is a sweep's file and says what varies; leave --set out, "
                "or edit its grids."
            )
        base, grids, name = read_sweep(options.config)
        return base, grids, options.name or name
    return read_run(options.config), [parse_values(options.set)], str(options.name)


def _listening() -> StopFlag:
    stop = StopFlag(_STOPPING)
    stop.install()
    return stop


def _plan(plan: sweeps.Plan, estimate: tuple[float, int] | None, as_json: bool) -> int:
    seconds = None if estimate is None else estimate[0] * len(plan.points)
    if as_json:
        labels = [point.label for point in plan.points]
        emit_json({"runs": labels, "repeats": plan.repeats, "seconds": seconds})
        return 0
    for point in plan.points:
        print(point.label)
    for sentence in plan.sentences():
        note(sentence)
    took = "no finished run like these yet tells how long" if seconds is None else duration(seconds)
    note(f"{len(plan.points)} runs, one after another: {took}.")
    return 0


class Narrator:
    """A line whenever a point begins or ends."""

    def __init__(self) -> None:
        self._known: dict[int, str] = {}

    def __call__(self, points: list[PointState]) -> None:
        for state in points:
            now = "" if state.run is None else state.run.state
            if now in ("running", "done", "failed", "stopped") and now != self._known.get(
                state.point.number
            ):
                self._known[state.point.number] = now
                note(f"{state.point.number + 1} of {len(points)}, {state.point.label}: {now}")


def _launched(found: sweeps.SweepDirectory, as_json: bool) -> int:
    if as_json:
        emit_json(_summary(found))
    else:
        print(found.id)
        note(f"In the background; `trace-moe sweeps show {found.id}` tells how far it is.")
    return 0


def _ended(found: sweeps.SweepDirectory, options: argparse.Namespace) -> int:
    clear_progress()
    if getattr(options, "out", None) is not None:
        write_points(found, options.out)
        note(f"In {options.out}: points.csv, points.json, sweep.yaml.")
    _show(found, options.json)
    state = found.status().state
    if state == "stopped":
        note(f"Continue with `trace-moe sweeps resume {found.id}`.")
    return {"done": 0, "stopped": 130}.get(state, 2)


def _show(found: sweeps.SweepDirectory, as_json: bool) -> None:
    if as_json:
        points = [outcome.to_dict() for outcome in sweeps.outcomes(found)]
        emit_json(_summary(found) | {"points": points, "repeats": found.repeats()})
        return
    status = found.status()
    print(f"{found.id} {found.name}: {status.state}. {status.message}".rstrip())
    kind = "accuracy" if measure_of(found.base()) == "accuracy" else "loss"
    rows = [
        {
            "point": outcome.label,
            f"forget {kind}": _interval(outcome.forget),
            f"utility {kind}" if kind == "accuracy" else "retain loss": _interval(outcome.utility),
            "front": "front" if outcome.front else "",
            "state": outcome.state,
            "run": outcome.run or "",
        }
        for outcome in sweeps.outcomes(found)
    ]
    print_table(rows, list(rows[0]))
    for left_out, kept in found.repeats():
        print(f"{left_out} is the same run as {kept}.")
    print(sweeps.OPTIMISM)


def _interval(figure: Figure) -> str:
    low, high = (None if end != end else end for end in (figure.low, figure.high))
    return interval(figure.value, low, high) if figure.known else ""


def _summary(found: sweeps.SweepDirectory) -> dict[str, Any]:
    status = found.status()
    return {
        "id": found.id,
        "name": found.name,
        "state": status.state,
        "message": status.message,
        "created": status.created,
        "path": str(found.path),
    }


def write_points(found: sweeps.SweepDirectory, folder: Path) -> None:
    """The points as CSV and JSON, and what was asked, in a new or empty folder."""
    _require_empty(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rows = [outcome.to_dict() for outcome in sweeps.outcomes(found)]
    write_text(folder / "points.csv", csv_of_points(rows))
    write_json(folder / "points.json", {"points": rows, "repeats": found.repeats()})
    write_text(folder / "sweep.yaml", read_text(found.path / "sweep.yaml"))


def csv_of_points(rows: Sequence[Mapping[str, Any]]) -> str:
    """Points as CSV, each setting that varies a column; a figure that is not there is empty."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    return csv_text(strict(list(rows)), columns)


def _require_empty(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder.name}: expected a new or empty folder. Nothing was written.")


def sweeps_list(options: argparse.Namespace) -> int:
    damaged = sweeps.damaged_sweeps()
    rows = []
    for one in sweeps.list_sweeps():
        try:
            rows.append(_summary(one) if options.json else _row(one))
        except TraceError as error:  # it was deleted, or damaged, after it was found
            damaged[one.id] = str(error)
    folder = subfolder("sweeps")
    if options.json:
        rows += [
            {"id": name, "name": "", "state": "damaged", "message": reason, "created": 0.0,
             "path": str(folder / name)}
            for name, reason in damaged.items()
        ]  # fmt: skip
        emit_json(rows)
        return 0
    rows += [
        {"id": name, "state": "damaged", "done": "", "started": "", "name": ""} for name in damaged
    ]
    print_table(rows, ["id", "state", "done", "started", "name"])
    for reason in damaged.values():
        note(reason)
    return 0


def _row(found: sweeps.SweepDirectory) -> dict[str, Any]:
    points, status = sweeps.outcomes(found), found.status()
    done = sum(point.state == "done" for point in points)
    started = time.strftime("%Y-%m-%d %H:%M", time.localtime(status.created))
    return {"id": found.id, "state": status.state, "done": f"{done}/{len(points)}",
            "started": started, "name": found.name[:40]}  # fmt: skip


def sweeps_show(options: argparse.Namespace) -> int:
    _show(sweeps.open_sweep(options.sweep), options.json)
    return 0


def sweeps_stop(options: argparse.Namespace) -> int:
    sweeps.stop_sweep(options.sweep)
    return _said(options, "asked to stop: its runs finish their steps and save")


def sweeps_resume(options: argparse.Namespace) -> int:
    found = sweeps.open_sweep(options.sweep)
    if options.background:
        sweeps.resume_sweep(found.id)
        return _launched(found, options.json)
    with reopen_sweep(found), contextlib.chdir(found.launch_folder()):
        drive(found, _listening(), on_look=Narrator())
    return _ended(found, options)


def sweeps_delete(options: argparse.Namespace) -> int:
    sweeps.delete_sweep(options.sweep)
    if options.json:
        emit_json({"id": options.sweep, "deleted": True})
    else:
        print(f"{options.sweep} forgotten; its runs stay")
    return 0


def _said(options: argparse.Namespace, text: str) -> int:
    if options.json:
        emit_json(_summary(sweeps.open_sweep(options.sweep)))
    else:
        print(f"{options.sweep} {text}")
    return 0
