"""Attacks that only ask, as parts of an audit: every model gets the same treatment.

What follows from their marks is computed by `marks`, as for those that train (`trained`).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from trace_engine.attacks.asking import ask_in_other_words, ask_quantised
from trace_engine.attacks.wordings import Wording, paraphrases, prefixes
from trace_engine.audit.case import Case, hash_of
from trace_engine.audit.marks import attack_figures
from trace_engine.audit.result import Result
from trace_engine.audit.settings import ROLES, PartName, Role
from trace_engine.errors import InputError
from trace_engine.progress import ProgressCallback
from trace_engine.sets import Question

Right = Mapping[str, Mapping[str, str]]
"""Model -> way of asking -> marks."""


def attacked(case: Case) -> tuple[Role, ...]:
    """The models that an attack is tried on, of those that are there."""
    roles: tuple[Role, ...] = ("model", "reference")
    return tuple(role for role in roles if role in case.models)


def worded(case: Case) -> tuple[Role, ...]:
    """The models that are asked in other ways: the start model too, which knows, so that a way
    which hides what is there is told from knowledge that is gone."""
    return tuple(role for role in ROLES if role in case.models)


def quantisation(case: Case, report: ProgressCallback) -> Result:
    """Weights rounded to few bits."""
    config, asked = case.config.quantisation, case.forget_questions()
    right: dict[str, dict[str, str]] = {
        role: ask_quantised(case.open(role), asked, config, case.config.style, report)
        for role in attacked(case)
    }
    sentence = (
        "A CPU stand-in for quantised deployment: round-to-nearest on a symmetric grid, one scale "
        f"a row for 8 bits and one for {config.group} weights below, of linear layers and routed "
        "experts; embeddings, head and routers keep their precision."
    )
    return _asked(case, right, [sentence], "quantisation")


def other_words(case: Case, report: ProgressCallback) -> Result:
    """The questions paraphrased."""
    asked = case.forget_questions()
    wordings = paraphrases(asked, case.config.asking, case.config.questions)
    return _worded(case, wordings, "paraphrases", report)


def behind_prefixes(case: Case, report: ProgressCallback) -> Result:
    """The questions behind jailbreak-style prefixes."""
    wordings = prefixes(case.forget_questions(), case.config.asking)
    return _worded(case, wordings, "prefixes", report)


def _worded(
    case: Case,
    wordings: Sequence[Wording],
    part: PartName,
    report: ProgressCallback,
) -> Result:
    if not wordings:
        raise InputError("There is no other wording: give asking.paraphrases or asking.templates.")
    asked, style = case.forget_questions(), case.config.style
    right: dict[str, dict[str, str]] = {
        role: ask_in_other_words(case.open(role), asked, wordings, style, report)
        for role in worded(case)
    }
    told = [
        f"{wording.name}: {wording.words} (n={len(wording.questions):,})" for wording in wordings
    ]
    return _asked(case, right, told, part)


def _asked(case: Case, right: Right, sentences: Sequence[str], part: PartName) -> Result:
    """Marks as items, and the figures that follow from them."""
    flat = {f"{role}, {way}": marks for role, of in right.items() for way, marks in of.items()}
    items = items_of(case.forget_questions()) | {"right": flat}
    return Result({"sentences": list(sentences)} | attack_figures(part, case.config, items), items)


def items_of(questions: Mapping[int, Question]) -> dict[str, Any]:
    return {
        "number": [number + 1 for number in questions],
        "hash": [hash_of(question) for question in questions.values()],
        "choices": [len(question.choices) for question in questions.values()],
    }
