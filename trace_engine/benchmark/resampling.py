"""Intervals over seeds and questions: the pigeonhole bootstrap (A. B. Owen 2007, Annals of Applied
Statistics 1(2), 386-411).

Every run answers the same questions, so seeds and questions are crossed: both are drawn with
replacement, independently of each other, and every row of a table sees the same draws, which makes
differences paired. Accepted cost: with two or three seeds their share of the variance is
underestimated, by (S - 1) / S.
"""

# Dims: B resamples, S seeds, Q questions of a group

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np

from trace_engine.benchmark.curves import Floats

MISSING_TOLERATED = 0.05
"""Share of resamples without a value up to which an interval is given, over the others."""


@dataclass(frozen=True, slots=True)
class Draws:
    """The resamples of a table."""

    weights: dict[str, Floats]
    """Per group how often each question was drawn, (B, Q)."""
    resamples: int
    seed: int

    @classmethod
    def of(cls, sizes: Mapping[str, int], resamples: int, seed: int) -> Self:
        """Draws for groups of these sizes."""
        weights = {}
        for number, group in enumerate(sorted(sizes)):
            size = sizes[group]
            rng = np.random.default_rng([seed, 0, number])
            counts = rng.multinomial(size, np.full(size, 1 / size), size=resamples)
            weights[group] = counts.astype(np.float64)
        return cls(weights, resamples, seed)

    def seeds(self, count: int) -> Floats:
        """Weight of each of `count` seeds in each resample, (B, S); rows sum to 1."""
        rng = np.random.default_rng([self.seed, 1, count])
        counts = rng.multinomial(count, np.full(count, 1 / count), size=self.resamples)
        found: Floats = counts / count
        return found


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """A figure of one row: its value per seed, and per seed in each resample."""

    value_S: Floats
    value_BS: Floats

    @property
    def seeds(self) -> int:
        return len(self.value_S)

    def first(self, seeds: int) -> "Sample":
        """The figure over the first so many seeds."""
        return Sample(self.value_S[:seeds], self.value_BS[:, :seeds])

    def mean(self) -> float:
        """Mean over seeds; NaN when one of them has no value."""
        return float(self.value_S.mean())

    def means(self, draws: Draws) -> Floats:
        """Mean over the drawn seeds, (B,); NaN where a drawn one has no value."""
        weight_BS = draws.seeds(self.seeds)
        used_BS = np.where(weight_BS > 0, weight_BS * self.value_BS, 0.0)
        found: Floats = used_BS.sum(axis=1)
        return found


@dataclass(frozen=True, slots=True)
class Interval:
    """A value with its 95 % bootstrap interval; None where there is none."""

    value: float | None
    low: float | None
    high: float | None


def interval(value: float, resampled_B: Floats) -> Interval:
    """Percentile interval. No value, no interval; none either when more than 5 % of the resamples
    have no value.
    """
    if not np.isfinite(value):
        return Interval(None, None, None)
    known = resampled_B[np.isfinite(resampled_B)]
    if len(known) < (1 - MISSING_TOLERATED) * len(resampled_B):
        return Interval(value, None, None)
    low, high = np.quantile(known, [0.025, 0.975])
    return Interval(value, float(low), float(high))


def estimate(sample: Sample, draws: Draws) -> Interval:
    """Mean over seeds with its interval."""
    return interval(sample.mean(), sample.means(draws))


def difference(first: Sample, second: Sample, draws: Draws) -> Interval:
    """First minus second, paired by seed and question, over the seeds that both have."""
    seeds = min(first.seeds, second.seeds)
    one, two = first.first(seeds), second.first(seeds)
    return interval(one.mean() - two.mean(), one.means(draws) - two.means(draws))


def relative_gain(first: Sample, second: Sample, draws: Draws) -> Interval:
    """First over second, minus 1, paired in the same way."""
    seeds = min(first.seeds, second.seeds)
    one, two = first.first(seeds), second.first(seeds)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = np.divide(one.mean(), two.mean()) - 1
        resampled = one.means(draws) / two.means(draws) - 1
    return interval(float(value), resampled)
