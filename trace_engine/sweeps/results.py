"""What came of a sweep's points: forgetting against utility, the front, how long the rest takes.

With questions both are accuracies; without, losses on documents, of which more is forgotten and
less is kept. It accepts that only finished runs are points: half-way is not a setting's result.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from statistics import median
from typing import Any, Literal

from trace_engine.config import UnlearnConfig
from trace_engine.errors import TraceError
from trace_engine.evaluation.outcome import (
    NOT_MEASURED,
    Figure,
    figure_of,
    forget_and_utility,
    undominated,
    up_to_saved,
)
from trace_engine.runs import list_runs, open_run
from trace_engine.runs.directory import RunDirectory
from trace_engine.sweeps.directory import SweepDirectory
from trace_engine.sweeps.drive import PointState, look
from trace_engine.sweeps.plan import MOST_RUNS

Measure = Literal["accuracy", "loss"]
OPTIMISM = (
    "The best of these points is chosen on the very questions it is drawn with, so it looks a "
    "little better than it is: ask the test questions once, of the one you choose."
)
_SIMILAR = 5
"""Runs that an estimate of time is the median of, at most."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """A point of the plane, or one that is still to come."""

    number: int
    label: str
    values: dict[str, Any]
    run: str | None
    state: str
    """Of its run; `waiting` before it has one."""
    step: int
    forget: Figure
    utility: Figure
    front: bool
    """Whether no other finished point beats it."""

    @property
    def known(self) -> bool:
        return self.forget.known and self.utility.known

    def to_dict(self) -> dict[str, Any]:
        """One row of a table; NaN where a figure was not measured."""
        return {
            "point": self.label,
            "state": self.state,
            "forget": self.forget.value,
            "forget_low": self.forget.low,
            "forget_high": self.forget.high,
            "forget_n": self.forget.n,
            "utility": self.utility.value,
            "utility_low": self.utility.low,
            "utility_high": self.utility.high,
            "utility_n": self.utility.n,
            "front": self.front,
            "run": self.run,
            **self.values,
        }


def measure_of(base: UnlearnConfig) -> Measure:
    """What the points are judged by."""
    return "loss" if base.evaluation.questions is None else "accuracy"


def outcomes(sweep: SweepDirectory) -> list[Outcome]:
    """All points in order, finished ones with the evaluation of the model they saved."""
    measure = measure_of(sweep.base())
    states = look(sweep)
    figures = [_figures(state, measure, sweep.home) for state in states]
    known = [n for n, (forget, utility) in enumerate(figures) if forget.known and utility.known]
    # Of losses a large one is forgotten and a small one is kept: both signs turn.
    sign = 1.0 if measure == "accuracy" else -1.0
    best = undominated([(sign * figures[n][0].value, sign * figures[n][1].value) for n in known])
    front = {known[position] for position in best}
    return [
        Outcome(
            state.point.number,
            state.point.label,
            state.point.values,
            state.point.run if state.run is not None else None,
            "waiting" if state.run is None else state.run.state,
            0 if state.run is None else state.run.step,
            *figures[position],
            position in front,
        )
        for position, state in enumerate(states)
    ]


def _figures(state: PointState, measure: Measure, home: Path) -> tuple[Figure, Figure]:
    if not state.done or state.point.run is None:
        return NOT_MEASURED, NOT_MEASURED
    goal = state.point.config.evaluation.forget_category
    try:
        run = open_run(state.point.run, home)
        files = [run.path / name for name in ("metrics.jsonl", "facts.json")]
        stamps = tuple(file.stat().st_mtime_ns for file in files if file.exists())
        return _read_figures(run, measure, goal, stamps)
    except (TraceError, OSError):
        return NOT_MEASURED, NOT_MEASURED


@lru_cache(maxsize=16 * MOST_RUNS)
def _read_figures(
    run: RunDirectory, measure: Measure, goal: str, stamps: tuple[int, ...]
) -> tuple[Figure, Figure]:
    """A page looks every two seconds, and a finished run's rows (of these `stamps`) stay."""
    rows = up_to_saved(run.rows("eval"), run.facts())
    if not rows:
        return NOT_MEASURED, NOT_MEASURED
    if measure == "accuracy":
        return forget_and_utility(rows[-1].get("accuracy"), goal)
    return figure_of(rows[-1].get("forget_nll")), figure_of(rows[-1].get("retain_nll"))


def seconds_per_run(base: UnlearnConfig, home: Path | None = None) -> tuple[float, int] | None:
    """How long such a run takes here: the median of finished runs alike, and of how many.

    Alike: same model, method, what trains, batch and evaluation; scaled by the number of updates.
    None when there is no such run yet.
    """
    found: list[float] = []
    for summary in list_runs(home):
        status = summary.status
        if summary.kind != "unlearn" or status.state != "done" or status.attempt != 1:
            continue
        if not (status.started and status.max_steps):
            continue
        try:
            config = open_run(summary.id, home).config()
        except TraceError:
            continue  # its settings are damaged, or it was deleted just now
        if isinstance(config, UnlearnConfig) and _cost(config) == _cost(base):
            per_step = (status.updated - status.started) / status.max_steps
            found.append(per_step * base.max_steps)
        if len(found) == _SIMILAR:
            break
    return (median(found), len(found)) if found else None


def _cost(config: UnlearnConfig) -> tuple[Any, ...]:
    return (
        config.model,
        config.method,
        config.retain_term,
        config.trainable.kind,
        config.batch_size,
        config.max_length,
        config.evaluation.questions,
        config.evaluation.max_questions,
        config.evaluation.every,
    )
