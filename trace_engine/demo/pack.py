"""Where the bundled pack's parts are, and what parts there are.

Paths only: nothing here imports torch or opens a file, so that the first page of the app stays
light.
"""

from __future__ import annotations

from pathlib import Path

from trace_engine.bundled import MODELS, PACK
from trace_engine.errors import InputError

PACK_MODELS: tuple[str, ...] = MODELS
"""The target (trained on everything) and the two retrained references."""

PACK_SETS: dict[str, str] = {
    "forget": "Hazard facts: weapons, poisons, pathogens, infectious diseases, narcotics",
    "forget_pairs": "The same facts as answers to prompts, each with one to prefer: for CE-U, DPO",
    "retain": "Default retain corpus: prose and general facts, 85 to 15 documents",
    "retain_prose": "Retain corpus in another style: WordNet's example sentences only",
    "retain_facts": "Retain corpus in the forget set's style: general facts only",
    "prose_other": "Prose that the target has read and no retain corpus holds",
    "general_facts": "General facts, for comparison with the forget set in the same style",
    "book_forget": "The Devil's Dictionary: passages that the target has read",
    "book_retain": "Retain corpus for forgetting the book",
    "book_holdout": "The Devil's Dictionary: passages that no model has read",
}
"""Name of each set and what it holds."""

QUESTION_SPLITS: tuple[str, ...] = ("validation", "test")
QUESTION_CATEGORIES: dict[str, str] = {
    "hazard": "Facts of the forget set",
    "general_retain": "General facts that are in the retain corpus",
    "general_other": "General facts that are not in it",
    "neighbour": "The facts nearest to the hazard: substances, conditions, tools",
}
BOOK_FILES: tuple[str, ...] = ("knowmem", "knowmem_retain", "verbmem")


def pack_dir() -> Path:
    """The folder of the bundled pack."""
    return PACK


def model_dir(name: str) -> Path:
    """The folder of one of `PACK_MODELS`. Raises InputError on another name."""
    return PACK / "models" / _known(name, PACK_MODELS, "model")


def set_path(name: str) -> Path:
    """The `.jsonl` file of one of `PACK_SETS`. Raises InputError on another name."""
    return PACK / "sets" / f"{_known(name, tuple(PACK_SETS), 'set')}.jsonl"


def question_path(split: str) -> Path:
    """The multiple-choice questions of a split. Raises InputError on another name."""
    return PACK / "questions" / f"{_known(split, QUESTION_SPLITS, 'split of questions')}.jsonl"


def book_path(name: str) -> Path:
    """One of `BOOK_FILES`, in MUSE's fields. Raises InputError on another name."""
    return PACK / "book" / f"{_known(name, BOOK_FILES, 'book file')}.jsonl"


def _known(name: str, names: tuple[str, ...], kind: str) -> str:
    if name not in names:
        raise InputError(f"The bundled pack has no {kind} {name!r}; it has {', '.join(names)}.")
    return name
