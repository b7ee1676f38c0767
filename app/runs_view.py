"""Runs in words: what state a run is in, how far it is, how long still, and what one may do with
it.

Pure functions of `RunStatus`, `progress.json` and rows. The page only reads; the worker alone
writes. Accepted trade-off: a rate is taken over the recorded steps, so the first seconds of a run
show none.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from app import wording
from app.curves import Row, last_per_step, number
from trace_engine.config import UnlearnConfig
from trace_engine.runs import RunStatus

WORDS = {
    "starting": "starting",
    "queued": "queued",
    "running": "running",
    "done": "done",
    "stopped": "stopped",
    "failed": "failed",
    "interrupted": "interrupted",
}
ICONS = {
    "starting": ":material/hourglass_top:",
    "queued": ":material/hourglass_empty:",
    "running": ":material/play_arrow:",
    "done": ":material/check_circle:",
    "stopped": ":material/pause_circle:",
    "failed": ":material/error:",
    "interrupted": ":material/power_off:",
}
COLORS = {
    "starting": "blue",
    "queued": "gray",
    "running": "blue",
    "done": "green",
    "stopped": "orange",
    "failed": "red",
    "interrupted": "orange",
}


@dataclass(frozen=True, slots=True)
class Pace:
    """How far a run is and how fast it goes."""

    done: int
    total: int
    steps_per_second: float | None
    eta_seconds: float | None

    @property
    def share(self) -> float:
        return min(1.0, self.done / self.total) if self.total > 0 else 0.0


def pace(status: RunStatus, rows: Sequence[Row], now: float | None = None) -> Pace:
    """Progress by optimizer steps; the rate is steps over their recorded seconds, evaluation
    included.

    Rows carry `seconds`, the duration of the step. None while fewer than two steps are recorded.
    """
    seconds = [number(row.get("seconds")) for row in last_per_step(rows, "train")[-30:]]
    known = [value for value in seconds if value == value and value > 0]
    rate = len(known) / sum(known) if len(known) > 1 else None
    left = max(0, status.max_steps - status.step)
    return Pace(status.step, status.max_steps, rate, left / rate if rate else None)


def progress_sentence(progress: Mapping[str, Any] | None) -> str | None:
    """What the worker is doing now: phase, how far, rate and time left; None when nothing is
    known.
    """
    if not progress:
        return None
    done, total = int(progress.get("done", 0)), int(progress.get("total", 0))
    unit = str(progress.get("unit", ""))
    parts = [f"{progress.get('phase', 'working')}: {wording.count(done)}"]
    if total:
        parts[0] += f" of {wording.count(total)} {unit}"
    rate = number(progress.get("per_second"))
    if rate == rate:
        parts.append(f"{rate:,.0f} {unit}/s" if rate >= 10 else f"{rate:.2g} {unit}/s")
    eta = number(progress.get("eta_seconds"))
    if eta == eta:
        parts.append(f"about {wording.duration(eta)} left")
    return ", ".join(parts)


def pace_sentence(pace: Pace) -> str:
    """Step of steps, steps a second and time left, as one line."""
    text = f"step {pace.done} of {pace.total}"
    if pace.steps_per_second is not None:
        text += f", {pace.steps_per_second:.2g} steps/s"
    if pace.eta_seconds is not None and pace.done < pace.total:
        text += f", about {wording.duration(pace.eta_seconds)} left"
    return text


def state_sentence(status: RunStatus, ahead: int | None = None) -> str:
    """The state as one sentence a person can act on."""
    if status.state == "queued":
        if ahead is None:
            return "Queued: another run is using the machine; this one starts by itself."
        return (
            f"Queued at position {ahead + 1}: "
            f"{'one run is' if ahead == 1 else f'{ahead} runs are'} ahead; it starts by itself."
        )
    if status.state == "starting":
        return "Starting: the worker is opening the model and the sets."
    if status.state == "running":
        text = f"Running since attempt {status.attempt}." if status.attempt > 1 else "Running."
        if status.stalled and status.silent_seconds is not None:
            text += f" No word for {wording.duration(status.silent_seconds)}: slow, or hanging."
        return text
    if status.state == "done":
        return f"Done after {status.step} steps."
    if status.state == "stopped":
        return (
            f"Stopped at step {status.step}; resume continues from there. {status.message}".strip()
        )
    if status.state == "failed":
        return f"Failed at step {status.step}: {status.message}"
    return status.message or f"Interrupted at step {status.step}."


def label_of(run_id: str, name: str) -> str:
    """The run's label, or its id where it has none."""
    return name.strip() or run_id


def run_line(run_id: str, config: UnlearnConfig | None, status: RunStatus) -> dict[str, Any]:
    """One line of the list of past runs."""
    method = None if config is None else config.method
    return {
        "run": label_of(run_id, config.name if config else ""),
        "state": WORDS.get(status.state, status.state),
        "step": f"{status.step} / {status.max_steps}",
        "method": method or "unreadable settings",
        "weights": config.weights.rule if config else "",
        "trains": config.trainable.kind.replace("_", " ") if config else "",
        "started": time.strftime("%Y-%m-%d %H:%M", time.localtime(status.created)),
        "id": run_id,
    }


def runs_frame(lines: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """The list of past runs, in the order given."""
    columns = ["run", "state", "step", "method", "weights", "trains", "started", "id"]
    return pd.DataFrame(lines, columns=columns)
