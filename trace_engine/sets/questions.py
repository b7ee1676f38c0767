"""Multiple-choice questions: what one is, and how a file of them is read.

The fields are those of WMDP and MMLU (`question`, `choices`, `answer`, a number or a letter), plus
an optional `category` to report accuracy by. A malformed row is refused with its file and physical
line.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from trace_engine.errors import InputError
from trace_engine.regular import read_bytes, read_text

LETTERS = "ABCDEFGHIJ"


@dataclass(frozen=True, slots=True)
class Question:
    """One multiple-choice question."""

    question: str
    choices: tuple[str, ...]
    answer: int
    """Index into `choices`."""
    category: str = "all"
    """Group that accuracy is reported by; "all" where the file names none."""
    description: str = ""
    """Stands before the question, as a task's `description` in lm-evaluation-harness; no file of
    questions names one."""


SUBJECTS: Final = {
    "wmdp-bio": "biology",
    "wmdp-chem": "chemistry",
    "wmdp-cyber": "cybersecurity",
}
"""What lm-evaluation-harness calls WMDP's configurations; MMLU's go by their own names."""


def described(question: Question, description: str) -> Question:
    """The question behind `description`, in which `{subject}` is what its category is about."""
    name = question.category.rpartition("/")[2]
    subject = SUBJECTS.get(name, name.replace("_", " "))
    return replace(question, description=description.replace("{subject}", subject))


def read_questions(path: str | Path) -> list[Question]:
    """Read a `.jsonl` file of questions, in file order; blank lines are skipped.

    Raises InputError with file and physical line when a row is malformed, and when the file is
    missing, is not UTF-8 text, or holds no question.
    """
    path = Path(path)
    try:
        text = read_text(path, "utf-8-sig")
    except OSError as error:
        raise InputError(
            f"{path}: no such questions file ({error.strerror}). Nothing was saved."
        ) from None
    except UnicodeDecodeError:
        raise InputError(
            f"{path.name}: expected a UTF-8 text file, found binary data. Nothing was saved."
        ) from None
    questions = [
        question_of(_json(line, where := f"{path.name}, line {number}"), where)
        for number, line in enumerate(text.split("\n"), start=1)
        if line.strip()
    ]
    if not questions:
        raise InputError(
            f"{path.name}: expected one question a line, found none. Nothing was saved."
        )
    return questions


def draw_questions(questions: Sequence[Question], per_category: int | None, seed: int) -> list[int]:
    """Places of at most `per_category` questions of each category, drawn with the seed, in the
    list's order; all of them without a limit."""
    groups: dict[str, list[int]] = {}
    for place, question in enumerate(questions):
        groups.setdefault(question.category, []).append(place)
    chosen: list[int] = []
    for number, category in enumerate(sorted(groups)):
        order = np.random.default_rng([seed, number, 2]).permutation(groups[category])
        chosen += order[:per_category].tolist()
    return sorted(chosen)


def questions_fingerprint(path: str | Path) -> str:
    """SHA-256 of the file, so that runs that were asked the same can be told from others."""
    return hashlib.sha256(read_bytes(Path(path))).hexdigest()


def question_of(row: Any, where: str, category: str = "all", *, repeats: bool = False) -> Question:
    """A row of any format as a question; `category` is for rows that name none.

    `repeats` allows a choice to be there twice, as a few rows of MMLU have it. Raises InputError,
    beginning with `where`, when the row is malformed.
    """
    if not isinstance(row, dict):
        raise _refusal(where, "a JSON object", _shown(row))
    question, choices = row.get("question"), row.get("choices")
    if not isinstance(question, str) or not question.strip():
        raise _refusal(where, 'non-empty text in "question"', _shown(question))
    if (
        not isinstance(choices, list)
        or not 2 <= len(choices) <= len(LETTERS)
        or not all(isinstance(choice, str) and choice.strip() for choice in choices)
    ):
        raise _refusal(
            where, f'"choices" to be 2 to {len(LETTERS)} non-empty texts', _shown(choices)
        )
    if len(set(choices)) < len(choices) and not repeats:
        raise _refusal(where, 'different "choices"', "the same text twice")
    named = row.get("category", row.get("subject", category))
    if not isinstance(named, str) or not named:
        raise _refusal(where, 'text in "category"', _shown(named))
    return Question(
        question, tuple(choices), _answer(row.get("answer"), len(choices), where), named
    )


def _json(line: str, where: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise _refusal(where, "a JSON object", f"text that is not JSON ({error.msg})") from None
    except (ValueError, RecursionError):
        raise _refusal(where, "a JSON object", "JSON nested or long beyond reading") from None


def _answer(value: Any, choices: int, where: str) -> int:
    """The index of the answer, given as a number from 0 or as a letter from A."""
    last = LETTERS[choices - 1]
    if isinstance(value, str) and len(value) == 1 and "A" <= value.upper() <= last:
        return LETTERS.index(value.upper())
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < choices:
        return value
    raise _refusal(where, f'"answer" to be 0 to {choices - 1} or A to {last}', _shown(value))


def _shown(value: Any) -> str:
    if value is None:
        return "nothing"
    try:
        text = json.dumps(value, ensure_ascii=False)
    except RecursionError:
        return "something nested beyond reading"
    return text if len(text) <= 60 else f"{text[:57]}..."


def _refusal(where: str, expected: str, found: str) -> InputError:
    return InputError(f"{where}: expected {expected}, found {found}. Nothing was saved.")
