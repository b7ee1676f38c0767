"""Per-question files: number, hash, and what each model picked, before and after an attack.

Questions stand there by number and hash; their words only where the settings reveal them.
"""

from collections.abc import Mapping
from typing import Any

from trace_engine.audit.case import Case
from trace_engine.audit.settings import PUBLISHED
from trace_engine.csvfile import csv_text


def answer_files(case: Case, parts: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """File name -> content, for the parts that ask questions."""
    files = {}
    if "questions" in parts:
        files["questions.csv"] = _plain(case, parts["questions"]["items"])
    for part, found in parts.items():
        if part != "questions" and "right" in found["items"]:
            files[f"{part}.csv"] = _attacked(found["items"])
        if part in PUBLISHED:
            files[f"{part}.csv"] = _published(found["items"])
    return files


def _plain(case: Case, items: Mapping[str, Any]) -> str:
    roles = list(items["picked"])
    columns = ["number", "hash", "category", "answer"]
    columns += [f"{role} {what}" for role in roles for what in ("picked", "right", "margin")]
    revealed = list(case.questions.values()) if case.config.reveal else None
    if revealed is not None:
        columns += ["question", "choices"]
    rows = []
    for place, number in enumerate(items["number"]):
        row: dict[str, Any] = {
            "number": number,
            "hash": items["hash"][place],
            "category": items["category"][place],
            "answer": items["answer"][place],
        }
        for role in roles:
            row[f"{role} picked"] = items["picked"][role][place]
            row[f"{role} right"] = items["right"][role][place]
            row[f"{role} margin"] = items["margin"][role][place]
        if revealed is not None:
            row["question"] = revealed[place].question
            row["choices"] = " | ".join(revealed[place].choices)
        rows.append(row)
    return csv_text(rows, columns)


def _attacked(items: Mapping[str, Any]) -> str:
    """One line a question and asking; `right` is empty where it was not asked then."""
    rows = [
        {
            "number": items["number"][place],
            "hash": items["hash"][place],
            "asking": asking,
            "right": mark,
        }
        for asking, text in items["right"].items()
        for place, mark in enumerate(text)
    ]
    return csv_text(rows, ["number", "hash", "asking", "right"])


def _published(items: Mapping[str, Any]) -> str:
    """One line a passage, question or document and what it was scored by, one column a model."""
    roles = list(items["scores"])
    rows = [
        {"part": piece, "number": number, "hash": items["hash"][piece][place], "score": score}
        | {role: items["scores"][role][piece][score][place] for role in roles}
        for piece, of in items["scores"][roles[0]].items()
        for place, number in enumerate(items["number"][piece])
        for score in of
    ]
    return csv_text(rows, ["part", "number", "hash", "score", *roles])
