"""A table of seconds: two weightings of one method on a tiny random model."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from tests.support.models import tiny_olmoe
from tests.unlearning.cases import FORGET_LETTERS, RETAIN_LETTERS, write_sets
from trace_engine.benchmark.settings import BenchConfig, checked

CLOCK = ["train_seconds"]


def write_questions(path: Path, questions: int, shift: int) -> Path:
    """Questions in two groups; `shift` makes those of two files different."""
    rows = [
        {
            "question": f"{letters[(n + shift) % 8 :][:4]}{n}?",
            "choices": [letters[n % 8], letters[n % 8 + 1], letters[n % 8 + 2] * 2, letters[3] * 3],
            "answer": (n + shift) % 4,
            "category": category,
        }
        for category, letters in (("hazard", FORGET_LETTERS), ("general", RETAIN_LETTERS))
        for n in range(questions)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def tiny_bench(folder: Path, **changes: Any) -> BenchConfig:
    """Two rows, two settings each, two test seeds: eight runs of three updates."""
    forget, retain = write_sets(folder)
    data: dict[str, Any] = {
        "name": "tiny",
        "settings": {
            "model": {"source": str(tiny_olmoe()), "device": "cpu", "dtype": "float32"},
            "forget": {"source": str(forget)},
            "max_steps": 3,
            "batch_size": 4,
            "max_length": 32,
            "threads": 1,
            "profile_max_length": 32,
            "sample_tokens": 1000,
            "evaluation": {"every": 1},
        },
        "validation": str(write_questions(folder / "validation.jsonl", 8, 0)),
        "test": str(write_questions(folder / "test.jsonl", 12, 1)),
        "retain": {"plain": {"parts": [{"source": str(retain)}]}},
        "methods": {
            "graddiff": {
                "settings": {"method": "graddiff"},
                "grid": {"learning_rate": [1e-3, 2e-3]},
            }
        },
        "weightings": {
            "uniform": {"role": "baseline", "settings": {"weights": {"rule": "uniform"}}},
            "mean": {"role": "trace", "settings": {"weights": {"rule": "mean"}}},
        },
        "budget": 2,
        "seeds": 2,
        # A random model is near chance from the start: every path is below so high a level.
        "levels": [0.9, 0.8],
        "area": [0.9, 0.95],
        "resamples": 200,
    }
    return checked(data | changes, "tiny")


def without_clock(path: Path) -> pd.DataFrame:
    """A CSV of a table without what differs between two computations of the same."""
    frame = pd.read_csv(path)
    frame = frame.drop(columns=[name for name in CLOCK if name in frame])
    return frame[frame["measure"] != "train seconds"] if "measure" in frame else frame
