"""Asking one model the same questions in several ways: right or wrong per question and way.

A question that a way does not ask (a paraphrase that is not there) is a space in its marks.
"""

from collections.abc import Mapping, Sequence

from trace_engine.attacks.quantising import quantised
from trace_engine.attacks.settings import QuantisationConfig
from trace_engine.attacks.wordings import Wording
from trace_engine.evaluation.multiple_choice import Style, score_questions
from trace_engine.models import OpenModel
from trace_engine.progress import ProgressCallback, ignore_progress
from trace_engine.sets import Question

NOT_ASKED = " "
Marks = dict[str, str]
"""Name of the way -> a character per question: 1 right, 0 wrong, a space where it was not asked."""


def marks_of(
    opened: OpenModel,
    places: Sequence[int],
    asked: Mapping[int, Question],
    style: Style,
    report: ProgressCallback = ignore_progress,
) -> str:
    """Ask those of `places` that are in `asked`."""
    there = [place for place in places if place in asked]
    scores = score_questions(
        opened.model, opened.tokenizer, [asked[place] for place in there], style=style,
        report=report,
    )  # fmt: skip
    right = dict(zip(there, scores.correct.tolist(), strict=True))
    return "".join(
        ("1" if right[place] else "0") if place in right else NOT_ASKED for place in places
    )


def ask_in_other_words(
    opened: OpenModel,
    questions: Mapping[int, Question],
    wordings: Sequence[Wording],
    style: Style = "continuation",
    report: ProgressCallback = ignore_progress,
) -> Marks:
    """As they are (`plain`), and in every wording."""
    places = list(questions)
    ways = [Wording("plain", dict(questions)), *wordings]
    return {way.name: marks_of(opened, places, way.questions, style, report) for way in ways}


def ask_quantised(
    opened: OpenModel,
    questions: Mapping[int, Question],
    config: QuantisationConfig,
    style: Style = "continuation",
    report: ProgressCallback = ignore_progress,
) -> Marks:
    """With the weights as they are (`plain`), and at every precision (`4 bits`). The weights are as
    they were, afterwards."""
    places = list(questions)
    found = {"plain": marks_of(opened, places, questions, style, report)}
    for bits in config.bits:
        with quantised(opened, bits, config.group):
            found[f"{bits} bits"] = marks_of(opened, places, questions, style, report)
    return found
