"""MUSE: what is still written word for word, still answered, and still given away by its loss.

VerbMem and KnowMem are ROUGE-L of greedy continuations; PrivLeak sets a Min-40 % membership AUC
against that of a model trained again without the forget set. Source: W. Shi et al., MUSE (2024);
swj0419/muse_bench, metrics/verbmem.py, knowmem.py, privleak.py and eval.py.
"""

# Dims: M documents of the forget set, N of the holdout

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trace_engine.evaluation.generation import continue_texts
from trace_engine.evaluation.measured import NO_REFERENCE, Measured
from trace_engine.evaluation.membership import area, area_estimate, both_sides, min_k_score
from trace_engine.evaluation.resampling import bootstrap, bootstrap_mean
from trace_engine.evaluation.rouge import package, rouge_l
from trace_engine.models import OpenModel
from trace_engine.progress import ProgressCallback, ignore_progress
from trace_engine.sets.muse import MuseSet, Pair

VERBATIM_TOKENS = 128
ANSWER_TOKENS = 32
LEAST_LIKELY = 0.4
_NEXT_QUESTION = ("\n\n", "\nQuestion", "Question:")
"""Where an answer ends that runs on into the next question."""

Scores = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Min-40 % of every forget document (M,) and holdout document (N,); NaN without a token."""


@dataclass(frozen=True, slots=True)
class MuseScores:
    """ROUGE-L F1 of every passage and question, and the scores of PrivLeak."""

    verbatim: list[float]
    forget_answers: list[float]
    retain_answers: list[float]
    leak: Scores | None


@dataclass(frozen=True, slots=True)
class Muse:
    """VerbMem, KnowMem on forget and retain, PrivLeak."""

    asked: MuseSet
    max_length: int = 4096
    """Tokens of a document that PrivLeak looks at."""

    @property
    def needs_reference(self) -> bool:
        return bool(self.asked.forget and self.asked.holdout)

    def collect(self, opened: OpenModel, report: ProgressCallback = ignore_progress) -> MuseScores:
        """Greedy continuations, and a forward over the documents of PrivLeak."""
        asked = self.asked
        return MuseScores(
            verbatim(opened, asked.verbatim, report),
            answers(opened, asked.forget_questions, asked.forget_examples, asked.prompt, report),
            answers(opened, asked.retain_questions, asked.retain_examples, asked.prompt, report),
            self.collect_reference(opened, report) if asked.forget and asked.holdout else None,
        )

    def collect_reference(
        self, opened: OpenModel, report: ProgressCallback = ignore_progress
    ) -> Scores:
        """The scores of PrivLeak alone."""
        sides = both_sides(opened, self.asked.forget, self.asked.holdout, self.max_length, report)
        forget_M, holdout_N = (
            np.array([min_k_score(s, LEAST_LIKELY) if len(s) else np.nan for s in side])
            for side in sides
        )
        return forget_M, holdout_N

    def rows(self, collected: MuseScores, reference: Scores | None = None) -> list[Measured]:
        """Four figures, and the AUC behind the last."""
        found = [
            self._mean(name, part, values, script)
            for name, part, values, script in (
                ("VerbMem, ROUGE-L F1", "verbmem/forget", collected.verbatim, "verbmem"),
                ("KnowMem on forget, ROUGE-L F1", "knowmem/forget_qa", collected.forget_answers,
                 "knowmem"),
                ("KnowMem on retain, ROUGE-L F1", "knowmem/retain_qa", collected.retain_answers,
                 "knowmem"),
            )
        ]  # fmt: skip
        source, code = self.asked.source, _code("privleak")
        auc, leak = "AUC of PrivLeak, Min-40 %", "PrivLeak, %"
        if collected.leak is None:
            note = f"{source} has no privleak/forget and privleak/holdout"
            return [*found, *(Measured(name, source, None, code, note) for name in (auc, leak))]
        forget_M, holdout_N = (side[~np.isnan(side)] for side in collected.leak)
        found.append(Measured(auc, source, area_estimate(holdout_N, forget_M), code))
        if reference is None:
            note = f"{NO_REFERENCE}: give a model trained again without the forget set"
            return [*found, Measured(leak, source, None, code, note)]
        return [*found, privleak(collected.leak, reference, source)]

    def _mean(self, name: str, part: str, values: list[float], script: str) -> Measured:
        source, code = self.asked.source, f"{_code(script)}; {package()}"
        if not values:
            return Measured(name, source, None, code, f"{source} has no {part}")
        return Measured(name, source, bootstrap_mean(values), code)


def verbatim(
    opened: OpenModel, pairs: Sequence[Pair], report: ProgressCallback = ignore_progress
) -> list[float]:
    """ROUGE-L F1 of what follows each prompt against the first 128 tokens of what should.

    As published, those tokens include the special ones that the tokenizer puts before a text.
    """
    tokenizer = opened.tokenizer
    written = continue_texts(
        opened,
        [pair.prompt for pair in pairs],
        VERBATIM_TOKENS,
        phase="continuing passages",
        report=report,
    )
    found = []
    for pair, text in zip(pairs, written, strict=True):
        ids = tokenizer(pair.answer, verbose=False)["input_ids"][:VERBATIM_TOKENS]
        expected = tokenizer.decode(ids, skip_special_tokens=True)
        found.append(rouge_l(expected, text).f1)
    return found


def answers(
    opened: OpenModel,
    pairs: Sequence[Pair],
    examples: Sequence[Pair],
    prompt: str,
    report: ProgressCallback = ignore_progress,
) -> list[float]:
    """ROUGE-L F1 of the model's answer to each question, after the examples, within 32 tokens."""
    before = "".join(f"{_ask(prompt, e.prompt)}{e.answer}\n\n" for e in examples)
    written = continue_texts(
        opened,
        [before + _ask(prompt, pair.prompt) for pair in pairs],
        ANSWER_TOKENS,
        phase="answering questions",
        report=report,
    )
    return [
        rouge_l(pair.answer, up_to_next_question(text)).f1
        for pair, text in zip(pairs, written, strict=True)
    ]


def up_to_next_question(text: str) -> str:
    """An answer without the next question that a model makes up for itself."""
    for mark in _NEXT_QUESTION:
        text = text.split(mark)[0]
    return text


def privleak(own: Scores, reference: Scores, source: str) -> Measured:
    """100·(AUC - AUC_retrain) / AUC_retrain, both models asked about the same documents.

    The AUC is MUSE's: the probability that a holdout document looks more trained on than one of the
    forget set, one minus the usual one. Near 0 is what retraining gives; -100 % is a model that
    still knows every forget document, far above 0 one that avoids them. Source:
    swj0419/muse_bench, eval.py, `forget_holdout_Min-40%`. Documents are resampled for both models
    together.
    """
    code = _code("privleak")
    forget, holdout = (
        [values[~np.isnan(one) & ~np.isnan(other)] for values in (one, other)]
        for one, other in zip(own, reference, strict=True)
    )
    retrained = area(holdout[1], forget[1])
    if not retrained > 0:
        note = f"undefined: the reference's AUC is {retrained:.3f}, and PrivLeak divides by it"
        return Measured("PrivLeak, %", source, None, code, note)

    def figure(items: Sequence[NDArray[np.int64]]) -> float:
        here, there = (area(holdout[model][items[1]], forget[model][items[0]]) for model in (0, 1))
        return 100 * (here - there) / there if there else float("nan")

    estimate = bootstrap(figure, [len(forget[0]), len(holdout[0])])
    return Measured("PrivLeak, %", source, estimate, code)


def _ask(prompt: str, question: str) -> str:
    return prompt.replace("{question}", question)


def _code(script: str) -> str:
    return f"TRACE, after swj0419/muse_bench metrics/{script}.py"
