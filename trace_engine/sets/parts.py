"""A published benchmark's parts: the rows of one configuration and split, from a folder or the hub.

A folder is laid out as the hub's repositories are downloaded, or as the authors' own scripts write
it: `knowmem/forget_qa.json`, `knowmem/forget_qa-00000-of-00001.parquet`, or a configuration in one
file, `forget10.json`. Trade-off: a part is held in memory; these are hundreds of rows.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from trace_engine.config import SetConfig
from trace_engine.errors import InputError
from trace_engine.regular import read_bytes
from trace_engine.sets.load import HUB_PREFIX, hub_dataset, named, saved_dataset
from trace_engine.sets.parse import SUFFIXES, file_rows
from trace_engine.sets.rows import UNCHANGED, Row


def part_rows(source: str, config: str, split: str = "train") -> list[Row] | None:
    """The rows of a part; None where a folder has no such part.

    Raises InputError when the source is no folder and no hub set, a file of it cannot be read, or
    the hub has no such part.
    """
    if source.startswith(HUB_PREFIX):
        name = source.removeprefix(HUB_PREFIX)
        asked = SetConfig(source=source, hub_config=config, hub_split=split)
        label = f"{name}, {config}/{split}"
        return [Row(f"{label}, row {n}", row) for n, row in enumerate(hub_dataset(name, asked), 1)]
    folder = Path(source).expanduser()
    with named(folder):
        if not folder.is_dir():
            raise InputError(
                f"{source} is no folder. Give the benchmark's folder as it is published, or "
                f"{HUB_PREFIX}owner/name."
            )
        if (folder / config / "dataset_dict.json").is_file():
            rows = enumerate(saved_dataset(folder / config, split), 1)
            return [Row(f"{config}/{split}, row {n}", row) for n, row in rows]
        files = _files(folder, config, split)
        if not files:
            return None
        return [
            row
            for file in files
            for row in file_rows(file.relative_to(folder).as_posix(), read_bytes(file))
        ]


def _files(folder: Path, config: str, split: str) -> list[Path]:
    """The file of a part, or its shards in order."""
    inside = folder / config
    places = [inside / f"{split}{suffix}" for suffix in SUFFIXES]
    if split == "train":
        places += [folder / f"{config}{suffix}" for suffix in SUFFIXES]
    for place in places:
        if place.is_file():
            return [place]
    return sorted(inside.glob(f"{split}-*-of-*.parquet")) if inside.is_dir() else []


def text_of(row: Row, field: str) -> str:
    """A field's text. Raises InputError when it is missing, blank or no text."""
    value = row.value.get(field) if isinstance(row.value, Mapping) else None
    if not isinstance(value, str) or not value.strip():
        raise InputError(f'{row.where}: expected non-empty text in "{field}". {UNCHANGED}')
    return value


def texts_of(row: Row, field: str) -> list[str]:
    """A field's list of texts. Raises InputError when it is no list, or one of them no text."""
    value = row.value.get(field) if isinstance(row.value, Mapping) else None
    if isinstance(value, str):
        value = [value]
    texts = value if isinstance(value, list) else []
    if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise InputError(f'{row.where}: expected a list of texts in "{field}". {UNCHANGED}')
    return texts


def documents_from(rows: list[Row]) -> Iterator[str]:
    """The text of rows that are a text each, or have a field `text`."""
    for row in rows:
        plain = isinstance(row.value, str) and row.value.strip()
        yield row.value if plain else text_of(row, "text")


def texts_digest(asked: Any) -> str:
    """SHA-256 of a benchmark's texts and of how they are asked, whatever its source is called;
    `asked` is its dataclass."""
    data = asdict(asked) | {"source": None}
    return hashlib.sha256(json.dumps(data).encode()).hexdigest()
