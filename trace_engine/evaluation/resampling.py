"""Percentile bootstrap over items: for a mean, an AUC, anything that is computed from items.

Items (documents, questions) are drawn with replacement, each group from its own, a thousand times
with a fixed seed, so that the same items give the same bits. Accepted trade-off: the interval of a
figure at its bound (an AUC of 1) has no width; with a handful of items it is too narrow.
"""

# Dims: N items of a group, R resamples

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from trace_engine.errors import InputError
from trace_engine.evaluation.estimate import Estimate

RESAMPLES = 1_000
METHOD = "bootstrap over items"

Statistic = Callable[[Sequence[NDArray[np.int64]]], float]
"""From the positions of each group's items, in whatever number and order, to the figure."""


def bootstrap(
    statistic: Statistic, sizes: Sequence[int], *, seed: int = 0, resamples: int = RESAMPLES
) -> Estimate:
    """A figure of one or several groups of items with its 95 % percentile interval.

    `n` is the number of items of all groups together. A group of one item allows no interval.
    Source: B. Efron and R. Tibshirani, An Introduction to the Bootstrap (1993), chapters 8 and 13.
    Raises InputError when a group is empty.
    """
    if not sizes or min(sizes) < 1:
        raise InputError("No item has anything to score, so there is no figure.")
    value = float(statistic([np.arange(size) for size in sizes]))
    if min(sizes) < 2:
        return Estimate(value, None, None, sum(sizes), METHOD)
    generator = np.random.default_rng(seed)
    drawn_R = np.array(
        [statistic([generator.integers(0, size, size) for size in sizes]) for _ in range(resamples)]
    )
    if not np.isfinite(drawn_R).all():
        return Estimate(value, None, None, sum(sizes), f"{METHOD}: not defined in every resample")
    low, high = np.quantile(drawn_R, [0.025, 0.975])
    return Estimate(value, float(low), float(high), sum(sizes), METHOD)


def bootstrap_mean(
    values: Sequence[float] | NDArray[np.float64], *, seed: int = 0, resamples: int = RESAMPLES
) -> Estimate:
    """Mean over items with its interval. Raises InputError when there is no item."""
    values_N = np.asarray(values, dtype=np.float64)
    return bootstrap(
        lambda items: float(values_N[items[0]].mean()),
        [len(values_N)],
        seed=seed,
        resamples=resamples,
    )
