"""What a run came to: forget accuracy against utility, and which runs no other beats.

Pure functions of evaluation rows, for pages, sweeps and model cards alike. Utility is pooled over
every question group that is not to be forgotten (right answers over all questions), with a Wilson
interval, so that it carries an n like any other figure.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from trace_engine.evaluation.estimate import wilson

Row = TypeVar("Row", bound=Mapping[str, Any])


def number(value: Any) -> float:
    """A float, or NaN for everything that is not a finite number (a gap in a plot)."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    return float(value) if math.isfinite(value) else math.nan


@dataclass(frozen=True, slots=True)
class Figure:
    """One number with its interval and n; NaN where it was not measured."""

    value: float
    low: float
    high: float
    n: int

    @property
    def known(self) -> bool:
        return not math.isnan(self.value)

    def sentence(self) -> str:
        """The figure as the tables print it."""
        if not self.known:
            return "not measured"
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}], n={self.n}"


NOT_MEASURED = Figure(math.nan, math.nan, math.nan, 0)


def pooled(cells: Iterable[Mapping[str, Any]]) -> Figure:
    """Accuracy over several groups together: right answers over all questions, Wilson 95 %.

    Each cell has `value` and `n`. Cells without a finite value make the whole unknown: an average
    over the groups that happen to be there would compare different things.
    """
    right, total = 0.0, 0
    for cell in cells:
        value, n = number(cell.get("value")), number(cell.get("n"))
        if math.isnan(value) or math.isnan(n) or n < 1:
            return NOT_MEASURED
        right += round(value * n)
        total += int(n)
    if total == 0:
        return NOT_MEASURED
    interval = wilson(int(right), total)
    return Figure(interval.value, number(interval.low), number(interval.high), total)


def figure_of(cell: Mapping[str, Any] | None) -> Figure:
    """A recorded estimate as a Figure; an absent or unfinished one is not measured."""
    if not cell or math.isnan(number(cell.get("value"))):
        return NOT_MEASURED
    n = number(cell.get("n"))
    return Figure(
        number(cell.get("value")),
        number(cell.get("low")),
        number(cell.get("high")),
        0 if math.isnan(n) else int(n),
    )


def forget_and_utility(
    accuracy: Mapping[str, Mapping[str, Any]] | None, forget_category: str
) -> tuple[Figure, Figure]:
    """Forget accuracy and pooled utility of one evaluation."""
    accuracy = accuracy or {}
    return (
        figure_of(accuracy.get(forget_category)),
        pooled(cell for group, cell in accuracy.items() if group != forget_category),
    )


def up_to_saved(evaluations: Sequence[Row], facts: Mapping[str, Any]) -> list[Row]:
    """A run's evaluations up to that of the model that it saved: all of them, unless its facts say
    that it kept an earlier step."""
    step = (facts.get("kept") or {}).get("step")
    return [row for row in evaluations if step is None or row["step"] <= step]


def undominated(outcomes: Sequence[tuple[float, float]]) -> set[int]:
    """Positions of the (forget, utility) pairs that no other beats: the Pareto front.

    One beats another with at most its forget accuracy and at least its utility, one of the two
    strictly. Equal pairs do not beat each other.
    """
    return {
        here
        for here, (forget, utility) in enumerate(outcomes)
        if not any(
            f <= forget and u >= utility and (f < forget or u > utility) for f, u in outcomes
        )
    }
