"""Statistics of the same questions answered before and after: effect, interval, test, correction.

Accuracy is tested by McNemar's exact test and corrected by Holm's method; the loss of the right
answer by flipping signs, corrected by the largest statistic over all cells. Neither assumes a
distribution. Trade-off: the exact test is conservative, because few questions change their answer.
"""

# Dims: N questions, C cells (ablations tested together), B sign flips

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trace_engine.errors import InputError
from trace_engine.evaluation.estimate import Z_95, Estimate
from trace_engine.evaluation.resampling import bootstrap

Array = NDArray[np.float64]

TESTS = {
    "accuracy": "McNemar's exact test on the same questions, Holm's correction",
    "loss": "sign flips of the questions' differences, corrected by the largest of all",
}
"""Which test stands behind a p-value, and what corrects it over all ablations tested together."""
TESTS_OF_ONE = {
    "accuracy": "McNemar's exact test on the same questions",
    "loss": "sign flips of the questions' differences",
    "corrected": "Holm's, over all groups of questions and both figures",
}
"""The same where one ablation is tested on several groups of questions."""
INTERVALS = {
    "accuracy": "Agresti and Min's for a paired difference",
    "loss": "Student's t over questions' differences",
}
PERMUTATIONS = 9_999
_FLIPS_AT_ONCE = 512


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """How a model in one state answered a list of questions, in the list's order."""

    correct_N: NDArray[np.bool_]
    loss_N: Array
    """Negative log-likelihood of the right answer, in nats per token of it."""


@dataclass(frozen=True, slots=True)
class Change:
    """One figure of the same questions before and after, `change` being after minus before."""

    before: float
    after: float
    change: float
    low: float | None
    """95 % interval of the change; None where n does not allow one."""
    high: float | None
    p: float
    """Two-sided, of this ablation by itself."""
    p_corrected: float
    """The same, corrected over all tests that were made together."""


@dataclass(frozen=True, slots=True)
class Effect:
    """What an ablation did to one group of questions."""

    group: str
    n: int
    """Questions."""
    lost: int
    """Questions that were answered right before and wrong after."""
    gained: int
    """Questions that were answered wrong before and right after."""
    accuracy: Change
    loss: Change
    """Nats per token of the right answer; up is worse."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def effects_of(
    group: str,
    before: Answers,
    after: list[Answers],
    *,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> list[Effect]:
    """The effect of each of several ablations on one group of questions, tested together.

    All hold the same questions in the same order. Raises InputError when there is none.
    """
    n = len(before.correct_N)
    if n == 0:
        raise InputError(f"The group {group!r} has no question.")
    lost_C = np.array([int((before.correct_N & ~a.correct_N).sum()) for a in after], dtype=int)
    gained_C = np.array([int((~before.correct_N & a.correct_N).sum()) for a in after], dtype=int)
    p_C = np.array([mcnemar(*pair) for pair in zip(lost_C, gained_C, strict=True)])
    holm_C = holm(p_C)
    moved_NC = np.array([a.loss_N - before.loss_N for a in after]).reshape(len(after), n).T
    flipped_C, largest_C = sign_flips(moved_NC, permutations, seed)
    start, loss = float(before.correct_N.mean()), float(before.loss_N.mean())
    found = []
    for c in range(len(after)):
        low, high = agresti_min(int(lost_C[c]), int(gained_C[c]), n)
        mean, mean_low, mean_high = mean_interval(moved_NC[:, c])
        step = float(gained_C[c] - lost_C[c]) / n
        end = float(after[c].correct_N.mean())
        found.append(
            Effect(
                group=group,
                n=n,
                lost=int(lost_C[c]),
                gained=int(gained_C[c]),
                accuracy=Change(start, end, step, low, high, float(p_C[c]), float(holm_C[c])),
                loss=Change(
                    loss,
                    float(after[c].loss_N.mean()),
                    mean,
                    mean_low,
                    mean_high,
                    float(flipped_C[c]),
                    float(largest_C[c]),
                ),
            )
        )
    return found


def mcnemar(lost: int, gained: int) -> float:
    """Exact two-sided p of McNemar's test: of the questions that changed, were as many lost as
    gained?

    Source: Q. McNemar (1947), Psychometrika 12, 153-157; exact by the binomial distribution.
    """
    # Imported here: an app page that only reads results needs no scipy.
    from scipy.special import bdtr

    changed = int(lost) + int(gained)
    if changed == 0:
        return 1.0
    return min(1.0, 2 * float(bdtr(min(int(lost), int(gained)), changed, 0.5)))


def agresti_min(lost: int, gained: int, n: int) -> tuple[float, float]:
    """95 % interval of the change of a share on n paired items, half an item added to each of the
    four cells, within [-1, 1].

    Source: A. Agresti and Y. Min (2005), Statistics in Medicine 24, 729-740.
    """
    total, down, up = n + 2.0, lost + 0.5, gained + 0.5
    change = (up - down) / total
    half = Z_95 * math.sqrt((up + down) - (up - down) ** 2 / total) / total
    return max(-1.0, change - half), min(1.0, change + half)


def returned_share(
    before_N: NDArray[np.bool_],
    after_N: NDArray[np.bool_],
    restored_N: NDArray[np.bool_],
    *,
    seed: int = 0,
) -> Estimate | None:
    """(restored - after) / (before - after) in accuracy, its interval by bootstrap over questions.

    None where no accuracy was lost.
    """

    def share(items: Sequence[NDArray[np.int64]]) -> float:
        [places] = items
        lost = float(before_N[places].mean() - after_N[places].mean())
        back = float(restored_N[places].mean() - after_N[places].mean())
        return back / lost if lost > 0 else float("nan")

    if not before_N.mean() > after_N.mean():
        return None
    return bootstrap(share, [len(before_N)], seed=seed)


def mean_interval(values_N: Array) -> tuple[float, float | None, float | None]:
    """Mean with Student's 95 % interval; without one for a single value."""
    mean, n = float(values_N.mean()), len(values_N)
    if n < 2:
        return mean, None, None
    from scipy.special import stdtrit

    half = float(stdtrit(n - 1, 0.975)) * float(values_N.std(ddof=1)) / math.sqrt(n)
    return mean, mean - half, mean + half


def holm(p_C: Array) -> Array:
    """p-values corrected for the family-wise error, shape (C,).

    Source: S. Holm (1979), Scandinavian Journal of Statistics 6, 65-70.
    """
    order = np.argsort(p_C, kind="stable")
    stepped = np.maximum.accumulate(p_C[order] * np.arange(len(p_C), 0, -1))
    corrected = np.empty(len(p_C))
    corrected[order] = np.minimum(1.0, stepped)
    return corrected


def corrected_together(effects: Sequence[Effect]) -> tuple[Effect, ...]:
    """One ablation's effects with p corrected by Holm's method over every group and figure."""
    pairs = [(effect.accuracy, effect.loss) for effect in effects]
    p_C = np.array([change.p for pair in pairs for change in pair])
    corrected = iter(holm(p_C).tolist())
    return tuple(
        replace(
            effect,
            accuracy=replace(accuracy, p_corrected=next(corrected)),
            loss=replace(loss, p_corrected=next(corrected)),
        )
        for effect, (accuracy, loss) in zip(effects, pairs, strict=True)
    )


def sign_flips(moved_NC: Array, permutations: int, seed: int) -> tuple[Array, Array]:
    """Two-sided p of "as likely up as down" per cell, alone and against the largest of all cells.

    Under the null each question's differences (one row) keep their size and may have either sign,
    in all cells at once. The statistic is |sum| / sqrt(sum of squares), in which a t-statistic is
    monotone. Source: P. Westfall and S. Young, Resampling-Based Multiple Testing (1993), single
    step. Cells without any difference have p 1.
    """
    n, cells = moved_NC.shape
    size_C = np.sqrt((moved_NC**2).sum(axis=0))
    scaled_NC = np.divide(moved_NC, size_C, out=np.zeros_like(moved_NC), where=size_C > 0)
    # A permutation that repeats the data's own signs must count, whatever the order of summing.
    observed_C = np.abs(scaled_NC.sum(axis=0)) * (1 - 1e-9)
    alone_C, largest_C = np.zeros(cells), np.zeros(cells)
    generator = np.random.default_rng(seed)
    for start in range(0, permutations, _FLIPS_AT_ONCE):
        rows = min(_FLIPS_AT_ONCE, permutations - start)
        signs_BN = 2.0 * generator.integers(0, 2, size=(rows, n)) - 1.0
        drawn_BC = np.abs(signs_BN @ scaled_NC)
        alone_C += (drawn_BC >= observed_C).sum(axis=0)
        largest_C += (drawn_BC.max(axis=1, initial=0.0)[:, None] >= observed_C).sum(axis=0)
    return (1 + alone_C) / (permutations + 1), (1 + largest_C) / (permutations + 1)
