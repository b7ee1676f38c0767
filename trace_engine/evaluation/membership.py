"""Membership attacks: can documents that were trained on be told from documents that were not?

An attack gives every document a score, low where the document looks trained on; its AUC is the
probability that a member scores lower than a non-member: 0.5 tells nothing apart, 1 everything. The
non-members must be like the members in all else; what they differ in besides is measured too.
"""

# Dims: M members, N non-members, T tokens of a document, U distinct scores

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from trace_engine.errors import InputError
from trace_engine.evaluation.estimate import Estimate
from trace_engine.evaluation.measured import NO_REFERENCE, Measured
from trace_engine.evaluation.resampling import bootstrap
from trace_engine.evaluation.tokens import TokenScores, token_scores
from trace_engine.models import OpenModel
from trace_engine.progress import ProgressCallback, ignore_progress
from trace_engine.sets import Document

IMPLEMENTATION = "TRACE, after locuslab/open-unlearning evals/metrics/mia"
SHARE = 0.2
"""Of the tokens that Min-K and Min-K++ look at, as in open-unlearning."""
_SMALLEST_VARIANCE = 1e-6


def loss_score(scores: TokenScores) -> float:
    """Mean negative log-likelihood in nats. Source: S. Yeom et al., Privacy Risk in Machine
    Learning (2018)."""
    return float(-scores.logprob_T.mean())


def zlib_score(scores: TokenScores) -> float:
    """The loss over the length of the text's zlib compression, in bytes. Source: N. Carlini et al.,
    Extracting Training Data from Large Language Models (2021), section 5.1."""
    return loss_score(scores) / len(zlib.compress(scores.text.encode()))


def min_k_score(scores: TokenScores, share: float = SHARE) -> float:
    """Minus the mean log-probability of the least likely `share` of the tokens, at least one.

    Source: W. Shi et al., Detecting Pretraining Data from Large Language Models (2023), Eq. 1.
    """
    return float(-_lowest(scores.logprob_T, share).mean())


def min_k_plus_plus_score(scores: TokenScores, share: float = SHARE) -> float:
    """As Min-K, of log-probabilities standardised by the model's own distribution at each place.

    Source: J. Zhang et al., Min-K%++ (2024), Eq. 4. A variance below 1e-6 counts as 1e-6, as in
    open-unlearning.
    """
    least = _SMALLEST_VARIANCE**0.5
    standard_T = (scores.logprob_T - scores.mean_T) / np.maximum(scores.deviation_T, least)
    return float(-_lowest(standard_T, share).mean())


def _lowest(values_T: NDArray[np.float64], share: float) -> NDArray[np.float64]:
    return np.sort(values_T)[: max(1, int(len(values_T) * share))]


ATTACKS: Final[dict[str, Callable[[TokenScores], float]]] = {
    "loss": loss_score,
    "zlib": zlib_score,
    "Min-K": min_k_score,
    "Min-K++": min_k_plus_plus_score,
}
"""Those that need the model alone; `reference` is the loss minus that of a reference model."""


def area(members_M: NDArray[np.float64], others_N: NDArray[np.float64]) -> float:
    """Probability that a member scores lower than a non-member, ties counting half (AUC).

    NaN when a score is. Raises InputError when a side is empty.
    """
    if not len(members_M) or not len(others_N):
        raise InputError("An AUC needs documents on both sides; one side has none to score.")
    values, index = np.unique(np.concatenate([members_M, others_N]), return_inverse=True)
    if np.isnan(values).any():
        return float("nan")
    return _area(index[: len(members_M)], index[len(members_M) :], len(values))


def _area(members_M: NDArray[np.int64], others_N: NDArray[np.int64], distinct: int) -> float:
    """The AUC from the ranks of scores among the distinct ones."""
    members_U = np.bincount(members_M, minlength=distinct)
    others_U = np.bincount(others_N, minlength=distinct)
    higher_U = len(others_N) - np.cumsum(others_U)
    return float((members_U * (higher_U + 0.5 * others_U)).sum() / len(members_M) / len(others_N))


def area_estimate(
    members: Sequence[float] | NDArray[np.float64],
    others: Sequence[float] | NDArray[np.float64],
    *,
    seed: int = 0,
) -> Estimate:
    """`area` with a bootstrap interval, members and non-members resampled apart."""
    members_M, others_N = np.asarray(members, np.float64), np.asarray(others, np.float64)
    value = area(members_M, others_N)
    if np.isnan(value):
        return Estimate(value, None, None, len(members_M) + len(others_N), "not a number")
    values, index = np.unique(np.concatenate([members_M, others_N]), return_inverse=True)
    ranks_M, ranks_N = index[: len(members_M)], index[len(members_M) :]
    return bootstrap(
        lambda items: _area(ranks_M[items[0]], ranks_N[items[1]], len(values)),
        [len(members_M), len(others_N)],
        seed=seed,
    )


Sides = tuple[list[TokenScores], list[TokenScores]]
"""Token scores of the members and of the non-members."""


@dataclass(frozen=True, slots=True)
class Membership:
    """Five attacks, on documents of the forget set against documents never trained on."""

    members: Sequence[Document]
    others: Sequence[Document]
    on: str = "forget, holdout"
    max_length: int = 256

    @property
    def needs_reference(self) -> bool:
        return True

    def collect(self, opened: OpenModel, report: ProgressCallback = ignore_progress) -> Sides:
        """One forward over both sides."""
        return both_sides(opened, self.members, self.others, self.max_length, report)

    collect_reference = collect

    def rows(self, collected: Sides, reference: Sides | None = None) -> list[Measured]:
        """A row per attack. Raises InputError when a side has no token."""
        sides = [[scores for scores in side if len(scores)] for side in collected]
        found = []
        for name, attack in ATTACKS.items():
            members, others = ([attack(scores) for scores in side] for side in sides)
            found.append(
                Measured(_title(name), self.on, area_estimate(members, others), IMPLEMENTATION)
            )
        if reference is None:
            return [*found, Measured(_title("reference"), self.on, None, IMPLEMENTATION, _WITHOUT)]
        members, others = (
            [
                loss_score(own) - loss_score(theirs)
                for own, theirs in zip(side, known, strict=True)
                if len(own) and len(theirs)
            ]
            for side, known in zip(collected, reference, strict=True)
        )
        estimate = area_estimate(members, others)
        return [*found, Measured(_title("reference"), self.on, estimate, IMPLEMENTATION)]


def withheld(on: str, why: str) -> list[Measured]:
    """A row per attack without a figure: one that would mislead is worse than none."""
    names = (*ATTACKS, "reference")
    return [Measured(_title(name), on, None, IMPLEMENTATION, why) for name in names]


_WITHOUT = f"{NO_REFERENCE}: this attack compares with a second model"


def _title(attack: str) -> str:
    return f"membership AUC, {attack}"


def both_sides(
    opened: OpenModel,
    members: Sequence[Document],
    others: Sequence[Document],
    max_length: int,
    report: ProgressCallback,
) -> Sides:
    """Token scores of members and non-members, scored together. Raises InputError if one side is
    empty."""
    if not members or not others:
        raise InputError("Membership needs documents on both sides: a forget set and a holdout.")
    found = token_scores(
        opened, [*members, *others], max_length, phase="attacking membership", report=report
    )
    return found[: len(members)], found[len(members) :]
