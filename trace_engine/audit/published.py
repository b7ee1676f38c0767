"""MUSE and TOFU as parts of an audit: every model that is there is asked alike.

What is kept are the scores of every passage, question and document, by number and hash and without
a word of them; every figure follows from those (`figures_of`), so that `verify` computes it again.
Accepted trade-off: the reference is asked everything too, though PrivLeak and forget quality need a
part of it: its own figures are what not knowing looks like.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from trace_engine.audit.case import Case
from trace_engine.audit.result import Result
from trace_engine.audit.settings import PublishedName
from trace_engine.evaluation.measured import NO_REFERENCE, Measured
from trace_engine.evaluation.muse import Muse, MuseScores
from trace_engine.evaluation.tofu import Tofu, TofuScores
from trace_engine.models import OpenModel
from trace_engine.progress import ProgressCallback
from trace_engine.sets.muse import MuseSet
from trace_engine.sets.tofu import TofuSet

Items = Mapping[str, Any]
Scores = dict[str, dict[str, list[float | None]]]
"""Piece of a benchmark -> score -> one of every item, None where it has none."""
PIECES: Final[Mapping[PublishedName, Mapping[str, str]]] = {
    "muse": {
        "verbmem/forget": "verbatim",
        "knowmem/forget_qa": "forget_questions",
        "knowmem/retain_qa": "retain_questions",
        "privleak/forget": "forget",
        "privleak/holdout": "holdout",
    },
    "tofu": {name: name for name in ("forget", "retain", "real_authors", "world_facts")},
}
"""What is asked, by its published name, and where it is in the set."""
_F1, _LEAK = "ROUGE-L F1", "Min-40 %"
_RECALL = "ROUGE-L recall"
_TOFU: Final = {
    "probability": "probability_N",
    _RECALL: "recall_N",
    "log truth ratio": "log_ratio_N",
}
WRITTEN: Final = (_F1, _RECALL)
"""Scores of what a model wrote; the others are of how likely a text is."""
_ITSELF = "this is the reference"


def muse(case: Case, report: ProgressCallback) -> Result:
    """VerbMem, KnowMem and PrivLeak of every model."""
    return _measured(case, "muse", report)


def tofu(case: Case, report: ProgressCallback) -> Result:
    """Truth ratio, forget quality and model utility of every model."""
    return _measured(case, "tofu", report)


def _measured(case: Case, name: PublishedName, report: ProgressCallback) -> Result:
    numbers = asked_numbers(case, name)
    asked = some_of(case, name, {piece: [n - 1 for n in of] for piece, of in numbers.items()})
    items = {
        "number": numbers,
        "hash": hashes_of(name, asked),
        "scores": {
            role: scores_of(case, name, asked, case.open(role), report) for role in case.models
        },
    }
    return Result({"source": asked.source, "rows": figures_of(name, asked.source, items)}, items)


def asked_numbers(case: Case, name: PublishedName) -> dict[str, list[int]]:
    """Per piece the numbers, from 1, of what is asked: at most `max_items`, drawn with the seed."""
    found = {}
    for place, (piece, field) in enumerate(PIECES[name].items()):
        n, most = len(getattr(getattr(case, name), field)), case.config.published.max_items
        order = np.arange(n)
        if most is not None and n > most:
            rng = np.random.default_rng([case.config.seed, 31, place])
            order = np.sort(rng.permutation(n)[:most])
        if n:
            found[piece] = [int(number) + 1 for number in order]
    return found


def some_of(
    case: Case, name: PublishedName, places: Mapping[str, Sequence[int]]
) -> MuseSet | TofuSet:
    """The set with these items of each piece, by their places."""
    whole: Any = getattr(case, name)
    chosen: dict[str, Any] = {
        field: tuple(getattr(whole, field)[place] for place in places.get(piece, ()))
        for piece, field in PIECES[name].items()
    }
    some: MuseSet | TofuSet = replace(whole, **chosen)
    return some


def hashes_of(name: PublishedName, asked: MuseSet | TofuSet) -> dict[str, list[str]]:
    """Per piece the SHA-256 of every item: names it without telling it."""
    return {
        piece: [
            _hash([text for kind, text in asdict(of).items() if kind != "id"])
            for of in getattr(asked, field)
        ]
        for piece, field in PIECES[name].items()
        if getattr(asked, field)
    }


def _hash(texts: list[Any]) -> str:
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()


def scores_of(
    case: Case,
    name: PublishedName,
    asked: MuseSet | TofuSet,
    opened: OpenModel,
    report: ProgressCallback,
) -> Scores:
    """What one model scores on every item."""
    given = case.config.published.max_length
    length: dict[str, int] = {} if given is None else {"max_length": given}
    if isinstance(asked, MuseSet):
        found = Muse(asked, **length).collect(opened, report)
        forget_M, holdout_N = found.leak or ((), ())
        named: dict[str, dict[str, Any]] = {
            "verbmem/forget": {_F1: found.verbatim},
            "knowmem/forget_qa": {_F1: found.forget_answers},
            "knowmem/retain_qa": {_F1: found.retain_answers},
            "privleak/forget": {_LEAK: forget_M},
            "privleak/holdout": {_LEAK: holdout_N},
        }
    else:
        named = {
            piece: {score: getattr(scores, field) for score, field in _TOFU.items()}
            for piece, scores in Tofu(asked, **length).collect(opened, report).items()
        }
    return {
        piece: {score: _listed(values) for score, values in of.items()}
        for piece, of in named.items()
        if all(len(values) for values in of.values())
    }


def figures_of(name: PublishedName, source: str, items: Items) -> list[dict[str, Any]]:
    """Every model's rows, from the scores alone. Raises InputError where no figure follows."""
    rows = []
    for role, scores in items["scores"].items():
        other = items["scores"].get("reference") if role != "reference" else None
        found = _muse(source, scores, other) if name == "muse" else _tofu(source, scores, other)
        for row in found:
            if role == "reference" and row.note.startswith(NO_REFERENCE):
                row = replace(row, note=_ITSELF)
            rows.append({"model": role, **row.to_dict()})
    return rows


def _muse(source: str, scores: Scores, reference: Scores | None) -> list[Measured]:
    collected = MuseScores(
        _of(scores, "verbmem/forget", _F1).tolist(),
        _of(scores, "knowmem/forget_qa", _F1).tolist(),
        _of(scores, "knowmem/retain_qa", _F1).tolist(),
        _leak(scores),
    )
    return Muse(MuseSet(source)).rows(collected, None if reference is None else _leak(reference))


def _leak(scores: Scores) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    if "privleak/forget" not in scores:
        return None
    return _of(scores, "privleak/forget", _LEAK), _of(scores, "privleak/holdout", _LEAK)


def _tofu(source: str, scores: Scores, reference: Scores | None) -> list[Measured]:
    collected = {
        piece: TofuScores(*(_of(scores, piece, score) for score in _TOFU)) for piece in scores
    }
    known = None
    if reference is not None and "forget" in reference:
        known = _of(reference, "forget", "log truth ratio")
    return Tofu(TofuSet(source)).rows(collected, known)


def _of(scores: Scores, piece: str, score: str) -> NDArray[np.float64]:
    values = scores.get(piece, {}).get(score, [])
    return np.array([np.nan if value is None else value for value in values], np.float64)


def _listed(values: Sequence[float] | NDArray[np.float64]) -> list[float | None]:
    return [float(value) if np.isfinite(value) else None for value in values]
