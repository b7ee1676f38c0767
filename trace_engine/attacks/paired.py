"""Per-question results and what is computed from them: accuracies and paired differences.

The question is the unit: two models, or two treatments, are compared question by question, and a
question's figure may itself be a mean over seeds or wordings.
"""

# Dims: N questions

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from trace_engine.evaluation.estimate import Estimate, wilson
from trace_engine.evaluation.resampling import bootstrap_mean

METHOD = "bootstrap over questions, paired"

Shares = NDArray[np.float64]
"""(N,) a question's share of right answers: 0 or 1 where it is asked once."""


def marks(right: Sequence[bool] | NDArray[np.bool_]) -> str:
    """Right and wrong as a string of 1 and 0, in the questions' order."""
    return "".join("1" if is_right else "0" for is_right in right)


def shares(text: str) -> Shares:
    """The inverse of `marks`."""
    return np.array([character == "1" for character in text], dtype=np.float64)


def mean_shares(texts: Sequence[str]) -> Shares:
    """Each question's mean over several askings."""
    return np.asarray(np.mean([shares(text) for text in texts], axis=0))


def accuracy(text: str) -> Estimate:
    """Share of right answers with Wilson's interval. Raises InputError when there is none."""
    return wilson(text.count("1"), len(text))


def mean(values_N: Shares, seed: int = 0) -> Estimate:
    """Mean of shares over questions, with a bootstrap interval."""
    return bootstrap_mean(values_N, seed=seed)


def difference(values_N: Shares, others_N: Shares, seed: int = 0) -> Estimate:
    """Mean of the paired differences over questions, with a percentile bootstrap interval."""
    found = bootstrap_mean(values_N - others_N, seed=seed)
    return Estimate(found.value, found.low, found.high, found.n, METHOD)


def beyond_chance(text: str, chance: float) -> Estimate:
    """How far an accuracy lies above guessing: Wilson's interval, moved."""
    found = accuracy(text)
    low = None if found.low is None else found.low - chance
    high = None if found.high is None else found.high - chance
    return Estimate(found.value - chance, low, high, found.n, "wilson, less chance")
