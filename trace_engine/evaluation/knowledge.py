"""Before a run: does the model know the forget set at all, in plain words?

Forgetting what was never known looks like success. With questions the answer is accuracy against
chance; without them it is only whether the text is predicted better than by its own word
frequencies, which is weaker, and says so.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from trace_engine.errors import InputError
from trace_engine.evaluation.estimate import Estimate, cluster_mean
from trace_engine.evaluation.loss import encode_documents
from trace_engine.evaluation.multiple_choice import Style, score_questions
from trace_engine.evaluation.nll import document_nll
from trace_engine.models import Encoded, OpenModel
from trace_engine.progress import Meter, ProgressCallback, ignore_progress
from trace_engine.sets import Document
from trace_engine.sets.questions import Question
from trace_engine.spelling import NINETY_FIVE, percent

CHANCE_MARGIN = 0.10
"""An accuracy whose whole interval is at most this far above chance counts as not knowing."""


@dataclass(frozen=True, slots=True)
class KnowledgeCheck:
    knows: bool | None
    """True: knows; False: does not know; None: cannot tell."""
    sentence: str
    """The finding for a person, with its numbers."""
    estimate: Estimate
    """Accuracy, or nats per token."""
    baseline: float
    """Chance, or the set's unigram entropy in nats per token."""
    measure: str
    """`accuracy` or `nats_per_token`."""

    def to_dict(self) -> dict[str, Any]:
        return {
            "knows": self.knows,
            "sentence": self.sentence,
            "estimate": self.estimate.to_dict(),
            "baseline": self.baseline,
            "measure": self.measure,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`."""
        return cls(**{**data, "estimate": Estimate(**data["estimate"])})


def knowledge_check(
    opened: OpenModel,
    forget: Sequence[Document],
    questions: Sequence[Question] | None = None,
    forget_category: str = "hazard",
    *,
    style: Style = "continuation",
    max_length: int = 256,
    report: ProgressCallback = ignore_progress,
) -> KnowledgeCheck:
    """Whether the model knows the forget set: by its questions, or by the loss on its documents.

    Raises InputError when questions are given and none has `forget_category`.
    """
    if questions:
        chosen = [question for question in questions if question.category == forget_category]
        if not chosen:
            known = ", ".join(sorted({question.category for question in questions}))
            raise InputError(
                f"No question has the forget category {forget_category!r}. The file has: {known}."
            )
        meter = Meter("checking what the model knows", len(chosen), "questions", report)
        scores = score_questions(opened.model, opened.tokenizer, chosen, style=style)
        meter.add(len(chosen))
        return judge_accuracy(scores.accuracy(), scores.chance())
    encoded = encode_documents(opened, forget, max_length)
    nll_D, labels_D = document_nll(
        opened, encoded, phase="checking what the model knows", report=report
    )
    return judge_loss(cluster_mean(nll_D, labels_D), unigram_entropy(encoded))


def judge_accuracy(estimate: Estimate, chance: float) -> KnowledgeCheck:
    """The verdict on an accuracy with its interval against chance."""
    low, high = _bounds(estimate)
    numbers = (
        f"{percent(estimate.value, 0)} of {estimate.n} questions right "
        f"({NINETY_FIVE} interval {percent(low, 0)} to {percent(high, 0)}; guessing gives "
        f"{percent(chance, 0)})"
    )
    if low > chance:
        knows, verdict = True, "The model knows the forget set"
    elif high <= chance + CHANCE_MARGIN:
        knows, verdict = False, "The model does not know the forget set"
    else:
        knows, verdict = None, "Whether the model knows the forget set cannot be told"
    hint = {
        True: "",
        False: " There is nothing to unlearn that these questions would show.",
        None: " More questions would narrow the interval.",
    }[knows]
    return KnowledgeCheck(knows, f"{verdict}: {numbers}.{hint}", estimate, chance, "accuracy")


def judge_loss(estimate: Estimate, entropy: float) -> KnowledgeCheck:
    """The verdict on a loss with its interval against the set's unigram entropy."""
    low, high = _bounds(estimate)
    sample = (
        f"{estimate.n} documents ({NINETY_FIVE} interval {low:.2f} to {high:.2f})"
        if estimate.low is not None
        else "one document, so no interval"
    )
    numbers = (
        f"{estimate.value:.2f} nats per token over {sample}; "
        f"the set's word frequencies alone give {entropy:.2f}"
    )
    if high < entropy:
        knows = True
        text = (
            f"The model knows text like the forget set: {numbers}. Without questions, knowing "
            "these particular "
            f"facts cannot be told from knowing the style."
        )
    elif low >= entropy:
        knows = False
        text = (
            f"The model does not know the forget set: {numbers}. There is little here to unlearn."
        )
    else:
        knows = None
        text = f"Whether the model knows the forget set cannot be told: {numbers}."
    return KnowledgeCheck(knows, text, estimate, entropy, "nats_per_token")


def unigram_entropy(encoded: Sequence[Encoded]) -> float:
    """Entropy in nats of the labels' own token distribution (plug-in estimate).

    The best any context-free code can do on exactly this set; too low for a small set, so beating
    it is a demanding test there. Raises InputError when there is no label.
    """
    labels = [token for document in encoded for token in document.ids[document.label_start :]]
    if not labels:
        raise InputError("No document of the forget set has a token to predict.")
    _, counts = np.unique(np.asarray(labels), return_counts=True)
    shares = counts / counts.sum()
    return float(-(shares * np.log(shares)).sum())


def _bounds(estimate: Estimate) -> tuple[float, float]:
    low = -float("inf") if estimate.low is None else estimate.low
    high = float("inf") if estimate.high is None else estimate.high
    return low, high
