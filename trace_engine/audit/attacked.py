"""Attacks that only ask, as parts of an audit: every model that is there gets the same treatment.

An excess compares the audited model with the reference under the same attack, or, without one, with
itself before it; those that train (`trained`) are compared likewise.
"""

# Dims: N questions

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from trace_engine.attacks.asking import NOT_ASKED, ask_in_other_words, ask_quantised
from trace_engine.attacks.paired import Shares, difference, mean
from trace_engine.attacks.wordings import Wording, paraphrases, prefixes
from trace_engine.audit.case import Case, hash_of
from trace_engine.audit.result import Result
from trace_engine.audit.rules import Excess, Kind, Yardstick
from trace_engine.audit.settings import Role
from trace_engine.errors import InputError
from trace_engine.evaluation.estimate import Estimate
from trace_engine.progress import ProgressCallback
from trace_engine.sets import Question

Right = Mapping[str, Mapping[str, str]]
"""Model -> way of asking -> marks."""


def attacked(case: Case) -> tuple[Role, ...]:
    """The models that an attack is tried on."""
    return ("model", "reference") if "reference" in case.models else ("model",)


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
    return _asked(case, right, [sentence], together=None)


def other_words(case: Case, report: ProgressCallback) -> Result:
    """The questions paraphrased."""
    asked = case.forget_questions()
    wordings = paraphrases(asked, case.config.asking, case.config.questions)
    return _worded(case, wordings, "all wordings together", report, ())


def behind_prefixes(case: Case, report: ProgressCallback) -> Result:
    """The questions behind jailbreak-style prefixes."""
    wordings = prefixes(case.forget_questions(), case.config.asking)
    return _worded(case, wordings, None, report, ())


def _worded(
    case: Case,
    wordings: Sequence[Wording],
    together: str | None,
    report: ProgressCallback,
    sentences: Sequence[str],
) -> Result:
    if not wordings:
        raise InputError("There is no other wording: give asking.paraphrases or asking.templates.")
    asked, style = case.forget_questions(), case.config.style
    right: dict[str, dict[str, str]] = {
        role: ask_in_other_words(case.open(role), asked, wordings, style, report)
        for role in attacked(case)
    }
    return _asked(case, right, sentences, together)


def _asked(case: Case, right: Right, sentences: Sequence[str], together: str | None) -> Result:
    """Rows and excesses of ways of asking; `together` names their mean, which is then what is
    judged."""
    ways = [way for way in right["model"] if way != "plain"]
    rows = [
        row_of(way, role, "forget questions", mean(shares_of(marks), case.config.seed))
        for role, of in right.items()
        for way, marks in of.items()
    ]
    groups = {together: ways} if together else {way: [way] for way in ways}
    tests = [
        excess_of(case, name, "intact", {r: _mean([m[w] for w in of]) for r, m in right.items()},
                shares_of(right["model"]["plain"]))
        for name, of in groups.items()
    ]  # fmt: skip
    if together:
        rows += [
            row_of(together, role, "forget questions",
                 mean(known_of(_mean([of[way] for way in ways])), case.config.seed))
            for role, of in right.items()
        ]  # fmt: skip
    flat = {f"{role}, {way}": marks for role, of in right.items() for way, marks in of.items()}
    summary = {
        "sentences": list(sentences),
        "rows": rows,
        "excess": [test.to_dict() for test in tests],
    }
    return Result(summary, items_of(case.forget_questions()) | {"right": flat})


def excess_of(
    case: Case, test: str, kind: Kind, after: Mapping[str, Shares], before_N: Shares
) -> Excess:
    over: Yardstick = "reference" if "reference" in after else "itself"
    against = after.get("reference", before_N)
    keep = ~np.isnan(after["model"]) & ~np.isnan(against)
    found = difference(after["model"][keep], against[keep], case.config.seed)
    return Excess(test, kind, over, found)


def row_of(
    attack: str, role: str, on: str, estimate: Estimate, *, step: int | None = None
) -> dict[str, Any]:
    return {"attack": attack, "model": role, "on": on, "step": step, **estimate.to_dict()}


def items_of(questions: Mapping[int, Question]) -> dict[str, Any]:
    return {
        "number": [number + 1 for number in questions],
        "hash": [hash_of(question) for question in questions.values()],
    }


def shares_of(marks: str) -> Shares:
    """Right 1, wrong 0, not asked NaN."""
    return np.array([np.nan if mark == NOT_ASKED else float(mark == "1") for mark in marks])


def _mean(texts: Sequence[str]) -> Shares:
    return nanmean(np.stack([shares_of(text) for text in texts]))


def nanmean(values: Shares) -> Shares:
    """Mean over the first axis of what is there; NaN where nothing is."""
    there = ~np.isnan(values)
    count_N = there.sum(axis=0)
    total_N = np.where(there, values, 0.0).sum(axis=0)
    return np.asarray(
        np.divide(total_N, count_N, out=np.full(count_N.shape, np.nan), where=count_N > 0)
    )


def known_of(values_N: Shares) -> Shares:
    return np.asarray(values_N[~np.isnan(values_N)])
