"""A number with its uncertainty: proportions by Wilson's interval, means by a cluster interval.

The document, not the token, is the unit of resampling: tokens of one document share its author,
topic and routing. The cluster interval is the linearised (sandwich) one of a ratio mean with
Student's t, so it needs no random numbers and the same data give the same bits; with very few
documents it is wide, and with one it is unbounded.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trace_engine.errors import InputError

Z_95 = 1.959963984540054


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its 95 % interval. `low` and `high` are None where n does not allow an
    interval.
    """

    value: float
    low: float | None
    high: float | None
    n: int
    """What was resampled: questions for an accuracy, documents for a loss."""
    method: str
    """Name of the interval's method, for the footnote of a chart or table."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def wilson(successes: int, n: int) -> Estimate:
    """Share of successes with Wilson's 95 % score interval.

    Source: E. B. Wilson (1927), JASA 22, 209-212. Raises InputError when n is 0 or the counts are
    impossible.
    """
    if n < 1 or not 0 <= successes <= n:
        raise InputError(
            f"An accuracy needs at least one question; found {successes} right of {n} scored."
        )
    share = successes / n
    squared = Z_95**2
    centre = (share + squared / (2 * n)) / (1 + squared / n)
    half = Z_95 / (1 + squared / n) * math.sqrt(share * (1 - share) / n + squared / (4 * n * n))
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return Estimate(share, low, high, n, "wilson")


def cluster_mean(
    values: Sequence[float] | NDArray[Any], weights: Sequence[float] | NDArray[Any]
) -> Estimate:
    """Mean per unit of weight over clusters, sum(values) / sum(weights), with a 95 % cluster
    interval.

    values: (D,) total per document, for example its summed NLL. weights: (D,) size of each
    document, for example its number of labels. n is the number of documents with weight > 0. The
    variance is that of a ratio estimator, D / (D - 1) * sum((v - mean * w)^2) / sum(w)^2, with
    Student's t on D - 1 degrees of freedom (W. G. Cochran, Sampling Techniques, 3rd ed., section
    6.4). Raises InputError when nothing has weight.
    """
    values_D = np.asarray(values, dtype=np.float64)
    weights_D = np.asarray(weights, dtype=np.float64)
    if values_D.shape != weights_D.shape or values_D.ndim != 1:
        raise InputError(
            f"A mean over documents needs one value and one weight each; found shapes "
            f"{values_D.shape} and {weights_D.shape}."
        )
    kept_D = weights_D > 0
    values_D, weights_D = values_D[kept_D], weights_D[kept_D]
    n = len(values_D)
    if n == 0:
        raise InputError("No document of the set has a token to score, so its loss is undefined.")
    total = float(weights_D.sum())
    mean = float(values_D.sum()) / total
    if n == 1:
        return Estimate(mean, None, None, 1, "cluster_t")
    residual_D = values_D - mean * weights_D
    error = math.sqrt(n / (n - 1) * float((residual_D**2).sum())) / total
    # Student's t quantile. Imported here, and not from scipy.stats: the app's first page needs
    # Wilson's interval only, and would wait half a second for it.
    from scipy.special import stdtrit

    half = float(stdtrit(n - 1, 0.975)) * error
    return Estimate(mean, mean - half, mean + half, n, "cluster_t")
