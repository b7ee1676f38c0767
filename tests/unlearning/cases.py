"""A tiny seeded run: two sets that differ in their letters, so that a random router tells them
apart.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from tests.support.models import tiny_olmoe
from trace_engine.config import UnlearnConfig
from trace_engine.methods import METHODS

FORGET_LETTERS = "0123456789#%"
RETAIN_LETTERS = "abcdefghij k"


def write_sets(folder: Path, documents: int = 24, seed: int = 0) -> tuple[Path, Path]:
    """forget.jsonl and retain.jsonl with ragged, random documents of their own letters."""
    rng = np.random.default_rng(seed)
    paths = []
    for name, letters in (("forget", FORGET_LETTERS), ("retain", RETAIN_LETTERS)):
        # Some retain text in forget letters: without it a cell could be uncoverable.
        rows = []
        for number in range(documents):
            pool = letters if number % 4 else FORGET_LETTERS + RETAIN_LETTERS
            size = int(rng.integers(6, 22))
            rows.append({"id": f"{name}-{number}", "text": "".join(rng.choice(list(pool), size))})
        path = folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        paths.append(path)
    return paths[0], paths[1]


def write_pairs(folder: Path, documents: int = 24, seed: int = 0) -> Path:
    """A forget set of questions with ragged answers, and answers that are preferred to them."""
    rng = np.random.default_rng(seed)

    def words(pool: str, least: int, most: int) -> str:
        return "".join(rng.choice(list(pool), int(rng.integers(least, most))))

    rows = [
        {
            "question": f"{words(FORGET_LETTERS, 2, 5)}{number}?",
            "answer": words(FORGET_LETTERS, 3, 14),
            "preferred": words(RETAIN_LETTERS, 4, 9).strip() + "!",
        }
        for number in range(documents)
    ]
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_questions(folder: Path) -> Path:
    """Eight questions in two categories."""
    rows = [
        {
            "question": f"{letters[n : n + 4]}?",
            "choices": [letters[n], letters[n + 1], letters[n + 2] * 2, letters[n + 3]],
            "answer": n % 4,
            "category": category,
        }
        for category, letters in (("hazard", FORGET_LETTERS), ("general", RETAIN_LETTERS))
        for n in range(4)
    ]
    path = folder / "questions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def tiny_config(folder: Path, **settings: Any) -> UnlearnConfig:
    """Six updates of four documents a side on the tiny model, CPU, one thread.

    The forget set is one of answers where the method needs them.
    """
    forget, retain = write_sets(folder)
    if METHODS[settings.get("method", "npo")].pairs:
        forget = write_pairs(folder)
    base: dict[str, Any] = {
        "model": {"source": str(tiny_olmoe()), "device": "cpu", "dtype": "float32"},
        "forget": {"source": str(forget)},
        "retain": {"source": str(retain)},
        "selection": {"scope": "per_layer", "top_k": 2, "floor": True},
        "max_steps": 6,
        "batch_size": 4,
        "max_length": 32,
        "learning_rate": 2e-3,
        "warmup_steps": 2,
        "evaluation": {"every": 3, "held_out": 0.2},
        "checkpoint_every": 3,
        "threads": 1,
        "profile_max_length": 32,
        "sample_tokens": 1000,
    }
    return UnlearnConfig.model_validate(base | settings)


def without_clock(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows as two doors must agree on them: all but the seconds."""
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]
