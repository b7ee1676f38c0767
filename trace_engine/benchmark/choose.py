"""A row's hyperparameters, from validation runs alone.

This module is handed finished validation runs and nothing else. The score of a setting is the
utility it attains at the table's first level, averaged over tuning seeds. Only a setting whose
every tuning run forgets `margin` beyond that level can be chosen, so that test runs reach it too;
where no setting does, none is chosen and the row says so.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from trace_engine.benchmark.answers import Answers
from trace_engine.benchmark.curves import attained
from trace_engine.benchmark.plan import Point, Trial
from trace_engine.benchmark.settings import BenchConfig
from trace_engine.benchmark.store import Result
from trace_engine.errors import RunError


@dataclass(frozen=True, slots=True)
class Choice:
    """What was chosen for a row, and from what."""

    number: int | None
    """Which of the row's settings; None where none forgets far enough."""
    point: Point | None
    score: float | None
    """Validation utility at the first level, mean over tuning seeds."""
    scores: tuple[float | None, ...]
    """The same for every setting tried; None where it cannot be chosen."""
    lowest: tuple[float | None, ...]
    """Lowest validation forget accuracy of every setting, the worst of its tuning seeds."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def choose(config: BenchConfig, finished: Sequence[tuple[Trial, Result]]) -> Choice:
    """The best of a row's settings; ties go to the one tried first."""
    scores: list[float | None] = []
    lowest: list[float | None] = []
    points: list[Point] = []
    for number in range(config.budget):
        runs = [(trial, result) for trial, result in finished if trial.number == number]
        if len(runs) != config.tuning_seeds or any(t.phase != "validation" for t, _ in runs):
            raise RunError(
                f"Setting {number} of row {finished[0][0].row} needs {config.tuning_seeds} "
                f"validation runs and has {len(runs)}."
            )
        points.append(runs[0][0].point)
        found = [_judge(config, result) for _, result in runs]
        reached = [low for _, low in found if low is not None]
        lowest.append(max(reached) if len(reached) == len(found) else None)
        usable = [value for value, _ in found if value is not None]
        scores.append(float(np.mean(usable)) if len(usable) == len(found) else None)
    known = [(score, -number) for number, score in enumerate(scores) if score is not None]
    if not known:
        return Choice(None, None, None, tuple(scores), tuple(lowest))
    score, number = max(known)
    return Choice(-number, points[-number], score, tuple(scores), tuple(lowest))


def _judge(config: BenchConfig, result: Result) -> tuple[float | None, float | None]:
    """Utility at the first level (None where the run cannot be chosen) and lowest forget
    accuracy."""
    if result["failed"] or not result["evaluations"]:
        return None, None
    answers = Answers.of(result["evaluations"], config.forget_category)
    once = answers.once()
    forget_BT, utility_BT = answers.forget(once), answers.utility(once)
    low = float(forget_BT.min())
    level = config.levels[0]
    if low > level - config.margin:
        return None, low
    return float(attained(forget_BT, utility_BT, level)[0]), low
