"""Utility at matched forgetting, read off a run's path through the forget–utility plane.

A run is evaluated at a few steps; between two of them its path is taken as a straight line. The
utility that a run *attains* at a forget accuracy a is the largest utility on its path where forget
accuracy is at most a: for a path that only falls this is linear interpolation at a, and a path that
turns back counts at its best place. A path that never comes down to a has no number there.
Accepted cost: a maximum over noisy evaluations is a little optimistic, for every row alike.
"""

# Dims: B resamples, T evaluations of a run

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
AREA_LEVELS = 51


@dataclass(frozen=True, slots=True)
class Place:
    """A place on each path: `share` of the way from evaluation `index` to the next."""

    index_B: NDArray[np.int64]
    share_B: Floats
    reached_B: NDArray[np.bool_]
    """False where the path never comes down to the level; reading there gives NaN."""

    def read(self, values_BT: Floats) -> Floats:
        """Values (B,) at the places, by linear interpolation."""
        rows = np.arange(len(self.index_B))
        after = np.minimum(self.index_B + 1, values_BT.shape[1] - 1)
        low, high = values_BT[rows, self.index_B], values_BT[rows, after]
        found: Floats = np.where(self.reached_B, low + self.share_B * (high - low), np.nan)
        return found


def matched(forget_BT: Floats, utility_BT: Floats, level: float) -> Place:
    """Where each path attains its largest utility at a forget accuracy of at most `level`.

    On a piecewise linear path that is an evaluation at or below the level, or a crossing of it.
    Ties go to the earliest place.
    """
    resamples, evaluations = forget_BT.shape
    below_BT = forget_BT <= level
    value_BT = np.where(below_BT, utility_BT, -np.inf)
    first, last = forget_BT[:, :-1], forget_BT[:, 1:]
    crosses = below_BT[:, :-1] != below_BT[:, 1:]
    share = np.divide(first - level, first - last, out=np.zeros_like(first), where=crosses)
    crossing = utility_BT[:, :-1] + share * (utility_BT[:, 1:] - utility_BT[:, :-1])
    # One candidate per evaluation and one per segment, in the order of the path.
    candidates = np.full((resamples, 2 * evaluations - 1), -np.inf)
    candidates[:, 0::2] = value_BT
    candidates[:, 1::2] = np.where(crosses, crossing, -np.inf)
    shares = np.zeros_like(candidates)
    shares[:, 1::2] = share
    best_B = candidates.argmax(axis=1)
    rows = np.arange(resamples)
    return Place(best_B // 2, shares[rows, best_B], np.isfinite(candidates[rows, best_B]))


def attained(forget_BT: Floats, utility_BT: Floats, level: float) -> Floats:
    """Utility (B,) attained at `level`, NaN where a path never comes down to it."""
    return matched(forget_BT, utility_BT, level).read(utility_BT)


def area(forget_BT: Floats, utility_BT: Floats, low: float, high: float) -> Floats:
    """Area under the forget–utility curve (B,), over its width: the mean of the utility attained at
    51 equally spaced forget accuracies from `low` to `high`. NaN where a path never comes down to
    `low`.
    """
    levels = np.linspace(low, high, AREA_LEVELS)
    found: Floats = np.mean([attained(forget_BT, utility_BT, level) for level in levels], axis=0)
    return found
