"""Extraction strength and exact memorisation: how much of a text the model completes by itself.

Both are read off one teacher-forced pass: a suffix that is the likeliest token at every step, given
the true text before it, is what greedy decoding from there would write.
"""

# Dims: T tokens of a document

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trace_engine.evaluation.measured import Alone, Measured
from trace_engine.evaluation.resampling import bootstrap_mean
from trace_engine.evaluation.tokens import TokenScores, token_scores
from trace_engine.models import OpenModel
from trace_engine.progress import ProgressCallback, ignore_progress
from trace_engine.sets import Document

IMPLEMENTATION = "TRACE, after locuslab/open-unlearning evals/metrics/memorization.py"


def extraction_strength(greedy_T: NDArray[np.bool_]) -> float:
    """1 - k/T with k the fewest leading tokens after which greedy decoding writes the whole rest.

    0 where even the last token is wrong: then all T tokens have to be given. (open-unlearning's
    loop ends one earlier and gives 1/T there; everywhere else the two agree.) Source: N. Carlini et
    al., Extracting Training Data from Large Language Models (2021); locuslab/open-unlearning,
    src/evals/metrics/memorization.py, `extraction_strength`. Raises ValueError if T is 0.
    """
    if not len(greedy_T):
        raise ValueError("no token")
    wrong = np.flatnonzero(~greedy_T)
    return 1.0 if not len(wrong) else 1.0 - (int(wrong[-1]) + 1) / len(greedy_T)


def exact_memorisation(greedy_T: NDArray[np.bool_]) -> float:
    """Share of tokens that are the likeliest one, given the true text before them.

    Source: K. Tirumala et al., Memorization Without Overfitting (2022), section 3;
    locuslab/open-unlearning, src/evals/metrics/memorization.py. Raises ValueError if T is 0.
    """
    if not len(greedy_T):
        raise ValueError("no token")
    return float(greedy_T.mean())


@dataclass(frozen=True, slots=True)
class Memorisation(Alone):
    """Both figures over a list of documents; an item is a document with a token to predict."""

    documents: Sequence[Document]
    on: str = "forget"
    max_length: int = 256

    def collect(
        self, opened: OpenModel, report: ProgressCallback = ignore_progress
    ) -> list[TokenScores]:
        """One forward over the documents."""
        return token_scores(
            opened, self.documents, self.max_length, phase="measuring memorisation", report=report
        )

    def rows(
        self, collected: list[TokenScores], reference: list[TokenScores] | None = None
    ) -> list[Measured]:
        """Two rows. Raises InputError when no document has a token."""
        scored = [scores.greedy_T for scores in collected if len(scores)]
        return [
            Measured(
                name, self.on, bootstrap_mean([of(greedy) for greedy in scored]), IMPLEMENTATION
            )
            for name, of in (
                ("extraction strength", extraction_strength),
                ("exact memorisation", exact_memorisation),
            )
        ]
