"""`trace-moe doctor`, `trace-moe status` and `trace-moe runs log`: is the machine fit, what is it
doing, and what happened to a run.

The same functions as in Python and on the page *Unlearn*. It accepts a table for a log: who wants
to filter takes `--json`.
"""

import argparse
from dataclasses import asdict
from typing import Any

from trace_engine import health
from trace_engine.cli.output import duration, emit_json, note, plain, print_table
from trace_engine.cli.running import find
from trace_engine.health import ActiveJob, Check
from trace_engine.runs.events import line_of

_NAME_WIDTH, _STATE_WIDTH = 16, 7


def doctor(options: argparse.Namespace) -> int:
    """Exit code 0 where there is no fault, else 1."""
    say = _nothing if options.json else print_check
    report = health.doctor(self_test=options.self_test, on_check=say)
    if options.json:
        emit_json(report.to_dict())
    elif not report.ok:
        note("Something is at fault above; runs may fail until it is repaired.")
    return 0 if report.ok else 1


def _nothing(check: Check) -> None:
    """With --json the whole report comes at once."""


def print_check(check: Check) -> None:
    said = " ".join(filter(None, [check.found, check.advice]))
    print(f"{check.state:<{_STATE_WIDTH}}  {check.name:<{_NAME_WIDTH}}  {plain(said)}", flush=True)


def status(options: argparse.Namespace) -> int:
    found = health.status()
    if options.json:
        emit_json(found.to_dict())
        return 0
    columns = ["id", "kind", "state", "step", "for", "name"]
    lines = [_active(asdict(run)) for run in found.active] + [_job(job) for job in found.jobs]
    print_table(lines, columns)
    for sentence in found.sentences():
        print(sentence)
    return 0


def _active(run: dict[str, Any]) -> dict[str, Any]:
    step = f"{run['step']}/{run['max_steps']}" if run["max_steps"] else ""
    return run | {"step": step, "for": duration(run["age_seconds"]), "name": run["name"][:40]}


def _job(job: ActiveJob) -> dict[str, Any]:
    done = job.progress or {}
    step = f"{done.get('done')}/{done.get('total')} {done.get('unit')}" if done else ""
    return asdict(job) | {
        "step": step,
        "for": duration(job.age_seconds),
        "name": job.name[:40],
    }


def runs_log(options: argparse.Namespace) -> int:
    run = find(options.run)
    run.status()  # refuses what is no run
    events = run.events()
    if options.json:
        emit_json(events)
        return 0
    if not events:
        note(f"Run {run.id} has no events: it was made before they were recorded.")
    print_table([line_of(event) for event in events], ["time", "attempt", "event", "what"])
    return 0
