"""Does the hidden state at a question's end still point to its answer? A linear map from states to
answers, cross-validated, beside the same map trained on shuffled answers.

The map is a ridge regression from the state after a question's last token to the output embedding
of its right answer's first token; of a question it was not trained on it picks the choice whose
embedding the mapped state is nearest to. Its strength is fixed, so that nothing is tuned on what is
reported. Trade-off: a map may also learn which answers are plausible at all; shuffled answers, and
a model that never saw the knowledge, say how much that is.
"""

# Dims: Q questions, R choices of all questions, D hidden, B shuffles

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trace_engine.errors import InputError
from trace_engine.evaluation.estimate import Estimate, wilson

Array = NDArray[np.float64]

FOLDS = 5
SHUFFLES = 199


@dataclass(frozen=True, slots=True)
class Probed:
    """Accuracy of the probe on questions it was not trained on."""

    accuracy: Estimate
    picked: tuple[bool, ...]
    """Per tested question, whether the probe picked the right choice."""
    shuffled: tuple[float, ...]
    """Accuracies with the answers shuffled within each question, in training and test."""


def probe(
    state_QD: Array,
    choice_RD: Array,
    sizes_Q: NDArray[np.int64],
    answer_Q: NDArray[np.int64],
    tested_Q: NDArray[np.bool_],
    *,
    shuffles: int = SHUFFLES,
    folds: int = FOLDS,
    seed: int = 0,
) -> Probed:
    """Train on the other folds' questions, tested or not, and pick a choice of each tested one.

    `choice_RD` has the embedding of each choice, question by question; `sizes_Q` choices of each.
    States are standardised, embeddings centred and scaled to length 1; the ridge is the mean of the
    training Gram matrix's diagonal. Raises InputError with fewer tested questions than folds.
    """
    tested = int(tested_Q.sum())
    if tested < folds:
        raise InputError(f"A probe needs at least {folds} questions; found {tested}.")
    first_Q = np.concatenate([[0], np.cumsum(sizes_Q)[:-1]])
    state_QD, choice_RD = _standard(state_QD), _directions(choice_RD)
    generator = np.random.default_rng(seed)
    fold_Q = np.empty(len(sizes_Q), dtype=np.int64)
    for group_Q in (tested_Q, ~tested_Q):
        fold_Q[group_Q] = generator.permutation(int(group_Q.sum())) % folds
    shuffled_BQ = generator.integers(0, sizes_Q, size=(shuffles, len(sizes_Q)))
    weights = [_weights(state_QD, fold_Q, tested_Q, fold) for fold in range(folds)]
    right_BQ = np.array(
        [
            _right(weights, choice_RD, first_Q, sizes_Q, answers_Q)[tested_Q]
            for answers_Q in (answer_Q, *shuffled_BQ)
        ]
    )
    return Probed(
        wilson(int(right_BQ[0].sum()), tested),
        tuple(bool(right) for right in right_BQ[0]),
        tuple(float(share) for share in right_BQ[1:].mean(axis=1)),
    )


Weights = tuple[NDArray[Any], NDArray[Any], Array]
"""Tested questions, training questions, and how much each of these counts for each of those."""


def _weights(
    state_QD: Array, fold_Q: NDArray[np.int64], tested_Q: NDArray[np.bool_], fold: int
) -> Weights:
    tested = np.flatnonzero((fold_Q == fold) & tested_Q)
    trained = np.flatnonzero(fold_Q != fold)
    gram = state_QD[trained] @ state_QD[trained].T
    ridge = float(np.diagonal(gram).mean()) or 1.0
    gram[np.diag_indices_from(gram)] += ridge
    across = state_QD[trained] @ state_QD[tested].T
    weight = np.asarray(np.linalg.solve(gram, across).T, dtype=np.float64)
    return np.asarray(tested), np.asarray(trained), weight


def _right(
    weights: list[Weights],
    choice_RD: Array,
    first_Q: NDArray[np.int64],
    sizes_Q: NDArray[np.int64],
    answer_Q: NDArray[np.int64],
) -> NDArray[np.bool_]:
    right_Q = np.zeros(len(sizes_Q), dtype=bool)
    for tested, trained, weight in weights:
        mapped = weight @ choice_RD[first_Q[trained] + answer_Q[trained]]
        for question, point_D in zip(tested, mapped, strict=True):
            start = first_Q[question]
            scores = choice_RD[start : start + sizes_Q[question]] @ point_D
            right_Q[question] = int(scores.argmax()) == answer_Q[question]
    return right_Q


def _standard(state_QD: Array) -> Array:
    centred_QD = state_QD - state_QD.mean(axis=0)
    spread_D = centred_QD.std(axis=0)
    return np.asarray(
        np.divide(centred_QD, spread_D, out=np.zeros_like(centred_QD), where=spread_D > 1e-12)
    )


def _directions(choice_RD: Array) -> Array:
    centred_RD = choice_RD - choice_RD.mean(axis=0)
    length_R = np.linalg.norm(centred_RD, axis=1, keepdims=True)
    return np.asarray(
        np.divide(centred_RD, length_R, out=np.zeros_like(centred_RD), where=length_R > 1e-12)
    )
