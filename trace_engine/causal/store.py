"""Answers of single ablations on disk, a file each, so that a scan that was killed goes on.

A file's folder is named by what was asked: model, questions, settings. Files appear complete or not
at all and name their own hash, so that several processes may fill one folder, and a damaged file is
computed again. Accepted cost: a file of some kilobytes for every cell of a model.
"""

# Dims: N questions

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trace_engine.causal.paired import Answers
from trace_engine.causal.results import Replayable
from trace_engine.config import Cell
from trace_engine.disk import read_json, write_json
from trace_engine.errors import InputError, RunError
from trace_engine.models import OpenModel
from trace_engine.sets import Question

SCHEMA = 1
_HASH = "sha256"


def questions_key(questions: Sequence[Question]) -> str:
    """SHA-256 over the questions themselves and what stands before them, in order."""
    rows = [
        [q.question, list(q.choices), q.answer, q.category, *filter(None, [q.description])]
        for q in questions
    ]
    return hashlib.sha256(json.dumps(rows, ensure_ascii=False).encode()).hexdigest()


def scan_key(opened: OpenModel, questions: Sequence[Question], settings: dict[str, Any]) -> str:
    """Content address of an ablation's answers: weights, precision, questions, settings.

    Raises InputError for a model that was opened without its fingerprint.
    """
    info = opened.info
    if not info.fingerprint:
        raise InputError("The model was opened without hashing its files, so nothing can be kept.")
    asked = {
        "schema": SCHEMA,
        "model": info.fingerprint,
        "dtype": info.dtype,
        "experts": info.experts_implementation,
        "quantization": info.quantization,
        "questions": questions_key(questions),
    } | settings
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


class CellStore:
    """The folder of one scan's answers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def path(self, cell: Cell) -> Path:
        """Where a cell's answers lie, or will."""
        return self.folder / f"layer-{cell.layer:03d}-expert-{cell.expert:04d}.json"

    def write(self, cell: Cell, answers: Answers) -> None:
        """Keep a cell's answers. Raises DiskFullError when there is no room."""
        data = {
            "schema": SCHEMA,
            "n": len(answers.correct_N),
            "correct": _packed(np.packbits(answers.correct_N)),
            "loss": _packed(answers.loss_N.astype("<f8")),
        }
        write_json(self.path(cell), data | {_HASH: _digest(data)})

    def write_check(self, check: Replayable) -> None:
        """Keep what the check of a layer came to, so that a resumed scan says the same."""
        path = self._check(check.layer)
        if not path.exists():
            write_json(path, asdict(check))

    def read_check(self, layer: int) -> Replayable | None:
        """The check of a layer; None when it is missing or damaged."""
        try:
            return Replayable(**read_json(self._check(layer)))
        except (RunError, UnicodeDecodeError, TypeError):
            return None

    def _check(self, layer: int) -> Path:
        return self.folder / f"layer-{layer:03d}.json"

    def read(self, cell: Cell, n: int) -> Answers | None:
        """A cell's answers to `n` questions; None when they are missing or damaged."""
        try:
            data = read_json(self.path(cell))
        except (RunError, UnicodeDecodeError):
            return None
        if not isinstance(data, dict) or data.pop(_HASH, None) != _digest(data):
            return None
        if data.get("schema") != SCHEMA or data.get("n") != n:
            return None
        correct_N = np.unpackbits(_unpacked(data["correct"], np.dtype(np.uint8)), count=n)
        return Answers(
            correct_N.astype(bool), _unpacked(data["loss"], np.dtype("<f8")).astype(np.float64)
        )


def _digest(data: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def _packed(values: NDArray[Any]) -> str:
    return base64.b64encode(values.tobytes()).decode("ascii")


def _unpacked(text: str, dtype: np.dtype[Any]) -> NDArray[Any]:
    return np.frombuffer(base64.b64decode(text), dtype=dtype)
