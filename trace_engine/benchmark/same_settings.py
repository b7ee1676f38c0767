"""Each weighting against the compared one at the same hyperparameters: all tuning runs, in pairs.

The table compares rows at the settings that were chosen for each, so that a lucky choice can look
like a gain. Here nothing is chosen: a pair shares setting, seed and validation questions and
differs in the weights alone. Pairs in which one of the two never comes down to the level have no
difference; how many there are, and which of the two it was, is told beside it.
"""

# Dims: B resamples, P pairs

from typing import Any

import numpy as np
import pandas as pd

from trace_engine.benchmark.answers import Answers
from trace_engine.benchmark.curves import Floats, attained
from trace_engine.benchmark.plan import RowId
from trace_engine.benchmark.resampling import Draws, Interval, Sample, difference
from trace_engine.benchmark.results import Measured
from trace_engine.benchmark.settings import BenchConfig

COLUMNS = [
    "retain", "method", "weighting", "role", "level", "pairs", "both", "only_this",
    "only_compared", "higher", "value", "low", "high",
]  # fmt: skip
_Run = tuple[float, Floats]
"""Utility at the level on the questions once each, and on each resample of them (B,)."""


def same_settings(config: BenchConfig, tuned: list[Measured]) -> pd.DataFrame:
    """One line per row that is compared: pairs, how many reach the level, mean paired difference.

    `higher` counts the pairs of `both` in which this row has the larger utility. The interval
    resamples pairs and questions (as the table's does seeds and questions); none for fewer than two
    pairs.
    """
    sizes = _sizes(config, tuned)
    if not sizes:
        return pd.DataFrame(columns=COLUMNS)
    draws = Draws.of(sizes, config.resamples, config.seed)
    runs: dict[RowId, dict[tuple[int, int], _Run]] = {}
    for trial, result in tuned:
        at = runs.setdefault(trial.row, {})
        at[trial.number, trial.seed] = _attained(config, draws, result)
    lines = []
    for row, mine in runs.items():
        other = runs.get(row._replace(weighting=config.compare_to))
        if row.weighting == config.compare_to or other is None:
            continue
        lines.append(_line(config, draws, row, mine, other))
    return pd.DataFrame(lines, columns=COLUMNS)


def _line(
    config: BenchConfig,
    draws: Draws,
    row: RowId,
    mine: dict[tuple[int, int], _Run],
    other: dict[tuple[int, int], _Run],
) -> dict[str, Any]:
    shared = sorted(mine.keys() & other.keys())
    reaches = [(np.isfinite(mine[key][0]), np.isfinite(other[key][0])) for key in shared]
    both = [key for key, found in zip(shared, reaches, strict=True) if all(found)]
    one, two = _sample(mine, both), _sample(other, both)
    found = Interval(None, None, None)
    if both:
        found = difference(one, two, draws)
        if len(both) < 2:
            found = Interval(found.value, None, None)
    return {
        **row._asdict(),
        "role": config.weightings[row.weighting].role,
        "level": config.levels[0],
        "pairs": len(shared),
        "both": len(both),
        "only_this": sum(this and not compared for this, compared in reaches),
        "only_compared": sum(compared and not this for this, compared in reaches),
        "higher": int((one.value_S > two.value_S).sum()),
        "value": found.value,
        "low": found.low,
        "high": found.high,
    }


def _sample(runs: dict[tuple[int, int], _Run], keys: list[tuple[int, int]]) -> Sample:
    if not keys:
        return Sample(np.empty(0), np.empty((0, 0)))
    values = [runs[key] for key in keys]
    return Sample(
        np.array([value for value, _ in values]), np.stack([many for _, many in values], axis=1)
    )


def _attained(config: BenchConfig, draws: Draws, result: dict[str, Any]) -> _Run:
    if result["failed"] or not result["evaluations"]:
        return float("nan"), np.full(draws.resamples, np.nan)
    answers = Answers.of(result["evaluations"], config.forget_category)
    once, many = (
        attained(answers.forget(weights), answers.utility(weights), config.levels[0])
        for weights in (answers.once(), draws.weights)
    )
    return float(once[0]), many


def _sizes(config: BenchConfig, tuned: list[Measured]) -> dict[str, int]:
    for _, result in tuned:
        if result["evaluations"]:
            return Answers.of(result["evaluations"], config.forget_category).sizes()
    return {}
