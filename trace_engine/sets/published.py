"""Multiple-choice sets in their published form: a file, a folder of configurations, a hub set.

WMDP and MMLU are a folder for each configuration with a Parquet file for each split; that is how
they are downloaded and what is read here. Trade-off: a set is held in memory.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Final

from trace_engine.bundled import resolve_source
from trace_engine.config import SetConfig
from trace_engine.errors import InputError
from trace_engine.regular import read_bytes
from trace_engine.sets.load import HUB_PREFIX, hub_dataset, is_saved, named, saved_dataset
from trace_engine.sets.parse import file_rows
from trace_engine.sets.questions import Question, question_of, questions_fingerprint, read_questions

QUESTION_FILES: Final = (".jsonl", ".json", ".parquet")
_SPLITS: Final = {"test", "train", "validation", "dev", "auxiliary_train"}
_SHARD = re.compile(r"-\d{5}-of-\d{5}$")
_REPEATED: Final = "all"
"""MMLU's configuration that repeats all others."""


def set_config(source: str, hub_split: str = "train") -> SetConfig:
    """A set as a person names it in one word: `hub:owner/name:config:split`, or another source.

    `hub_split` is for a hub set that names none. Raises InputError when there are more parts.
    """
    if not source.startswith(HUB_PREFIX):
        return SetConfig(source=source)
    name, *parts = source.removeprefix(HUB_PREFIX).split(":")
    if len(parts) > 2:
        raise InputError(f"{source}: expected {HUB_PREFIX}owner/name:config:split.")
    config, split = [*parts, "", ""][:2]
    return SetConfig(
        source=HUB_PREFIX + name, hub_config=config or None, hub_split=split or hub_split
    )


def load_questions(source: str, split: str = "test") -> list[Question]:
    """Questions of a `.jsonl` file, a published set's folder, `hub:owner/name:config:split`, or
    `demo:questions/test`.

    Rows that name no category get that of their configuration's folder. Of a folder with splits
    only `split` is read. Raises InputError when there is no such source or split, or a row is
    malformed.
    """
    if source.startswith(HUB_PREFIX):
        asked = set_config(source, split)
        name = asked.source.removeprefix(HUB_PREFIX)
        label = ", ".join(filter(None, (name, asked.hub_config)))
        rows = enumerate(hub_dataset(name, asked), 1)
        category = asked.hub_config or "all"
        return [question_of(row, f"{label}, row {n}", category, repeats=True) for n, row in rows]
    path = Path(resolve_source(source)).expanduser()
    if path.suffix.lower() == ".jsonl" or not path.exists():
        return read_questions(path)
    with named(path):
        if path.is_file():
            return _of_file(path, path.name, "all")
        if is_saved(path):
            rows = enumerate(saved_dataset(path, split), 1)
            return [
                question_of(row, f"{path.name}, row {n}", path.name, repeats=True)
                for n, row in rows
            ]
        return [question for file in _files(path, split) for question in _of_folder(path, file)]


def questions_digest(source: str) -> str:
    """SHA-256 of a file of questions, or of the questions that a folder or a hub set holds, so that
    runs that were asked the same can be told from others.

    Raises InputError as `load_questions` does.
    """
    path = Path(resolve_source(source)).expanduser()
    if not source.startswith(HUB_PREFIX) and path.is_file():
        return questions_fingerprint(path)
    digest = hashlib.sha256()
    for question in load_questions(source):
        row = [question.question, question.choices, question.answer, question.category]
        digest.update(json.dumps(row, ensure_ascii=False).encode() + b"\n")
    return digest.hexdigest()


def _of_folder(folder: Path, file: Path) -> list[Question]:
    inside = file.relative_to(folder)
    category = inside.parent.as_posix() if len(inside.parts) > 1 else folder.name
    return _of_file(file, inside.as_posix(), category)


def _of_file(path: Path, label: str, category: str) -> list[Question]:
    rows = file_rows(label, read_bytes(path))
    found = [question_of(row.value, row.where, category, repeats=True) for row in rows]
    if not found:
        raise InputError(f"{label} has no question. Nothing was saved.")
    return found


def _files(folder: Path, split: str) -> list[Path]:
    """The files of one split, in every configuration; all files where none is named by a split."""
    files = [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in QUESTION_FILES and path.is_file()
    ]
    others = [path for path in files if _REPEATED not in path.relative_to(folder).parts[:-1]]
    if {path.parent for path in others} - {folder}:
        files = others
    splits = {path: _SHARD.sub("", path.stem) for path in files}
    chosen = [path for path in files if splits[path] == split]
    known = sorted({name for name in splits.values() if name in _SPLITS})
    if not chosen and known:
        raise InputError(f"{folder.name} has no split {split!r}; it has {', '.join(known)}.")
    if not files:
        raise InputError(
            f"{folder.name} has no file of questions: expected {', '.join(QUESTION_FILES)}."
        )
    return chosen or files
