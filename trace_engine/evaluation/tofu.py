"""TOFU: does the model answer as one that was trained again, and what did that cost?

Forget quality is the p-value of a Kolmogorov-Smirnov test between the truth ratios of the model and
of the retrained one; model utility is the harmonic mean of probability, ROUGE-L recall and truth
ratio on three sets. Source: P. Maini et al., TOFU (2024), section 3; locuslab/tofu,
evaluate_util.py and aggregate_eval_stat.py, whose truth ratio takes the geometric mean over the
false answers. All questions of a set are asked (the authors' configuration takes the first 300),
and a model writes up to 200 new tokens (theirs stops at 200 with the prompt and its padding in a
batch, so that a long question leaves less room for an answer).
"""

# Dims: N questions of a set

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from trace_engine.errors import InputError
from trace_engine.evaluation.estimate import Estimate
from trace_engine.evaluation.generation import continue_texts
from trace_engine.evaluation.loss import encode_documents
from trace_engine.evaluation.measured import NO_REFERENCE, Measured
from trace_engine.evaluation.nll import document_nll
from trace_engine.evaluation.resampling import bootstrap, bootstrap_mean
from trace_engine.evaluation.rouge import package, rouge_l
from trace_engine.models import OpenModel
from trace_engine.progress import ProgressCallback, ignore_progress
from trace_engine.sets import Document
from trace_engine.sets.tofu import TofuQuestion, TofuSet

ANSWER_TOKENS = 200
CODE = "TRACE, after locuslab/tofu aggregate_eval_stat.py"
KEPT: Final = {
    "retain": "retain",
    "real_authors": "real authors",
    "world_facts": "world facts",
}
"""The sets of model utility, by the name of their part."""


@dataclass(frozen=True, slots=True)
class TofuScores:
    """Three values of every question of a set."""

    probability_N: NDArray[np.float64]
    """Of the answer, per token (geometric mean); where the false answers are options (real authors,
    world facts), over the sum of that of all."""
    recall_N: NDArray[np.float64]
    """ROUGE-L recall of what the model writes, with a stemmer."""
    log_ratio_N: NDArray[np.float64]
    """Natural logarithm of the truth ratio."""


@dataclass(frozen=True, slots=True)
class Tofu:
    """Forget quality, model utility, and what they are made of."""

    asked: TofuSet
    max_length: int = 512

    @property
    def needs_reference(self) -> bool:
        return bool(self.asked.forget)

    def collect(
        self, opened: OpenModel, report: ProgressCallback = ignore_progress
    ) -> dict[str, TofuScores]:
        """The scores of every set that is there, by the name of its part."""
        return {
            part: self._scores(opened, part, questions, report)
            for part in ("forget", *KEPT)
            if (questions := getattr(self.asked, part))
        }

    def collect_reference(
        self, opened: OpenModel, report: ProgressCallback = ignore_progress
    ) -> NDArray[np.float64]:
        """Log truth ratios of the questions to forget."""
        losses = self._losses(opened, self.asked.forget, report)
        return np.array([log_truth_ratio(of) for of in losses])

    def rows(
        self, collected: dict[str, TofuScores], reference: NDArray[np.float64] | None = None
    ) -> list[Measured]:
        """Forget quality and model utility first, then their parts."""
        return [
            *self._forget_quality(collected.get("forget"), reference),
            self._utility(collected),
            *(row for part, scores in collected.items() for row in self._parts(part, scores)),
        ]

    def _scores(
        self,
        opened: OpenModel,
        part: str,
        questions: Sequence[TofuQuestion],
        report: ProgressCallback,
    ) -> TofuScores:
        losses = self._losses(opened, questions, report)
        written = continue_texts(
            opened,
            [self._ask(question) for question in questions],
            ANSWER_TOKENS,
            phase="answering questions",
            report=report,
        )
        options = part in ("real_authors", "world_facts")
        return TofuScores(
            np.array([probability(of, options=options) for of in losses]),
            np.array(
                [
                    rouge_l(question.answer, text, stemmer=True).recall
                    for question, text in zip(questions, written, strict=True)
                ]
            ),
            np.array([log_truth_ratio(of) for of in losses]),
        )

    def _ask(self, question: TofuQuestion) -> str:
        return self.asked.prompt.replace("{question}", question.question)

    def _losses(
        self, opened: OpenModel, questions: Sequence[TofuQuestion], report: ProgressCallback
    ) -> list[AnswerLosses]:
        documents: list[Document] = []
        for question in questions:
            ask = self._ask(question)
            gap = "" if ask[-1:].isspace() else " "
            documents += [
                Document("", f"{ask}{gap}{answer}", ask)
                for answer in (question.answer, question.reworded, *question.perturbed)
            ]
        nll_D, labels_D = document_nll(
            opened,
            encode_documents(opened, documents, self.max_length),
            phase="weighing answers",
            report=report,
        )
        if not labels_D.all():
            place = documents[int(np.flatnonzero(labels_D == 0)[0])].text[:60]
            raise InputError(
                f"No token of the answer is left within {self.max_length} tokens: {place!r}… Give "
                "a larger max_length (--max-length)."
            )
        mean_D = nll_D / labels_D
        found, start = [], 0
        for question in questions:
            end = start + 2 + len(question.perturbed)
            found.append(AnswerLosses(mean_D[start], mean_D[start + 1], mean_D[start + 2 : end]))
            start = end
        return found

    def _forget_quality(
        self, scores: TofuScores | None, reference: NDArray[np.float64] | None
    ) -> list[Measured]:
        source = self.asked.source
        names = ("forget quality, KS p-value", "log truth ratio minus the reference's")
        if scores is None or reference is None:
            note = (
                f"{source} has no such forget set"
                if scores is None
                else f"{NO_REFERENCE}: give a model trained again without the forget set"
            )
            return [Measured(name, source, None, CODE, note) for name in names]
        quality = Estimate(
            forget_quality(scores.log_ratio_N, reference),
            None,
            None,
            len(reference),
            "two-sample KS test; a p-value has no interval",
        )
        shift = bootstrap_mean(scores.log_ratio_N - reference)
        return [
            Measured(name, source, estimate, CODE)
            for name, estimate in zip(names, (quality, shift), strict=True)
        ]

    def _utility(self, collected: dict[str, TofuScores]) -> Measured:
        source, name = self.asked.source, "model utility, harmonic mean of nine"
        code = f"{CODE}; {package()}"
        missing = [label for part, label in KEPT.items() if part not in collected]
        if missing:
            note = f"{source} has not all of its sets: no {', '.join(missing)}"
            return Measured(name, source, None, code, note)
        return Measured(name, source, model_utility([collected[part] for part in KEPT]), code)

    def _parts(self, part: str, scores: TofuScores) -> list[Measured]:
        on = f"{self.asked.source}, {KEPT.get(part, part)}"
        truth = (
            ("truth ratio, 1 where true and false are alike", np.exp(-np.abs(scores.log_ratio_N)))
            if part == "forget"
            else ("truth ratio, max(0, 1 - R)", told_apart(scores.log_ratio_N))
        )
        return [
            Measured("probability of the answer", on, bootstrap_mean(scores.probability_N), CODE),
            Measured("ROUGE-L recall", on, bootstrap_mean(scores.recall_N), f"{CODE}; {package()}"),
            Measured(truth[0], on, bootstrap_mean(truth[1]), CODE),
        ]


@dataclass(frozen=True, slots=True)
class AnswerLosses:
    """Mean loss per token, in nats, of a question's answers, the end of sequence included."""

    answer: float
    reworded: float
    perturbed: NDArray[np.float64]


def probability(losses: AnswerLosses, *, options: bool) -> float:
    """exp(-loss) of the answer; with `options` over its sum with that of the false answers.

    Source: locuslab/tofu, aggregate_eval_stat.py, `get_model_utility`.
    """
    if not options:
        return float(np.exp(-losses.answer))
    # Over the sum, so that no exponential can underflow to 0 / 0.
    return float(1 / (1 + np.exp(losses.answer - losses.perturbed).sum()))


def log_truth_ratio(losses: AnswerLosses) -> float:
    """ln R, R = (geometric mean of exp(-loss) of the false answers) / exp(-loss) of the reworded
    true one.

    Below 0 the model prefers the truth. Source: locuslab/tofu, aggregate_eval_stat.py (its
    `curr_stat_1` is 1/R).
    """
    return float(losses.reworded - losses.perturbed.mean())


def told_apart(log_ratio_N: NDArray[np.float64]) -> NDArray[np.float64]:
    """max(0, 1 - R) of each question: how far the model prefers the truth."""
    preferred: NDArray[np.float64] = -np.expm1(np.minimum(log_ratio_N, 0.0))
    return preferred


def forget_quality(own_N: NDArray[np.float64], reference_N: NDArray[np.float64]) -> float:
    """p-value of the two-sample Kolmogorov-Smirnov test between truth ratios; 1 where they are the
    same, small where the model can be told from the retrained one.

    The test sees ranks only, so that logarithms will do. Source: locuslab/tofu,
    aggregate_eval_stat.py, `get_forget_quality`.
    """
    # Imported here: scipy.stats takes half a second.
    from scipy.stats import ks_2samp

    return float(ks_2samp(own_N, reference_N).pvalue)


def model_utility(kept: Sequence[TofuScores]) -> Estimate:
    """Harmonic mean of probability, ROUGE-L recall and truth ratio over the sets; 0 where one is 0.

    Questions are resampled within each set, the three values of a question together.
    """
    values = [
        np.stack([scores.probability_N, scores.recall_N, told_apart(scores.log_ratio_N)])
        for scores in kept
    ]

    def figure(items: Sequence[NDArray[np.int64]]) -> float:
        means = np.concatenate(
            [of[:, chosen].mean(axis=1) for of, chosen in zip(values, items, strict=True)]
        )
        return float(len(means) / (1 / means).sum()) if means.all() else 0.0

    return bootstrap(figure, [of.shape[1] for of in values])
