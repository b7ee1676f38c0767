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
_DRAWN_AT_A_TIME = 2**17
"""Items: a megabyte of positions, which stays in a processor's cache."""

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
    return _estimate(value, drawn_R, sum(sizes))


def bootstrap_mean(
    values: Sequence[float] | NDArray[np.float64], *, seed: int = 0, resamples: int = RESAMPLES
) -> Estimate:
    """Mean over items with its interval. Raises InputError when there is no item.

    The same bits as `bootstrap` of the mean, many resamples at a time.
    """
    values_N = np.ascontiguousarray(values, dtype=np.float64)
    count = len(values_N)
    if count < 2:
        return bootstrap(lambda _: float(values_N.mean()), [count])
    generator = np.random.default_rng(seed)
    at_a_time = max(1, _DRAWN_AT_A_TIME // count)
    blocks = [min(at_a_time, resamples - done) for done in range(0, resamples, at_a_time)]
    drawn_R = np.concatenate(
        [values_N[generator.integers(0, count, (block, count))].mean(axis=1) for block in blocks]
    )
    return _estimate(float(values_N.mean()), drawn_R, count)


def _estimate(value: float, drawn_R: NDArray[np.float64], count: int) -> Estimate:
    if not np.isfinite(drawn_R).all():
        return Estimate(value, None, None, count, f"{METHOD}: not defined in every resample")
    low, high = np.quantile(drawn_R, [0.025, 0.975])
    return Estimate(value, float(low), float(high), count, METHOD)
