"""A set's source -> its documents: a file, a folder, a hub set, or a part of the bundled pack.

A hub set is read through `datasets`, which runs no code of the repository. Trade-off: a set is held
in memory as text; what grows with tokens (routing) does not pass through here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from trace_engine.bundled import is_bundled, resolve_source
from trace_engine.config import SetConfig
from trace_engine.errors import InputError
from trace_engine.sets.documents import Document, DocumentSet
from trace_engine.sets.parse import SUFFIXES, parse_file, safe_label
from trace_engine.sets.rows import Row, to_documents

HUB_PREFIX: Final = "hub:"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def load_set(config: SetConfig) -> DocumentSet:
    """Read a set from wherever its source says.

    Raises InputError when there is no such source, a row is malformed (file and physical line), or
    there is no document; for a hub set also when it is unknown, gated, or the machine is offline.
    """
    if not config.source.strip():
        raise InputError(f"No set is given. Give a path, {HUB_PREFIX}owner/name, or demo:forget.")
    if config.source.startswith(HUB_PREFIX):
        name = config.source.removeprefix(HUB_PREFIX)
        documents = _hub_documents(name, config)
        return DocumentSet.of(config.label or name, config.source, documents)
    path = resolve_source(config.source)
    documents = read_documents(path, config.text_field, config.limit, split=config.hub_split)
    name = config.source if is_bundled(config.source) else Path(path).stem
    return DocumentSet.of(config.label or name, config.source, documents)


def read_documents(
    path: str | Path,
    text_field: str | None = None,
    limit: int | None = None,
    *,
    split: str = "train",
) -> list[Document]:
    """The documents of a file, a folder of files (by name), or a folder saved by `datasets`.

    `split` picks one of a saved dataset's splits. Ids of a folder's documents begin with their
    file's name. Raises InputError as `load_set` does.
    """
    path = Path(path).expanduser()
    try:
        if path.is_dir():
            if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
                return _saved_documents(path, text_field, limit, split)
            return _folder_documents(path, text_field, limit)
        return parse_file(path.name, path.read_bytes(), text_field, limit)
    except FileNotFoundError:
        raise InputError(
            f"There is no file or folder {path}. Give a path, {HUB_PREFIX}owner/name, or "
            "demo:forget."
        ) from None
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{safe_label(path.name)} could not be read: {_first(error)}.") from None


def _folder_documents(folder: Path, text_field: str | None, limit: int | None) -> list[Document]:
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    if not files:
        raise InputError(f"{folder.name} has no file that ends in {', '.join(SUFFIXES)}.")
    documents: list[Document] = []
    for file in files:
        left = None if limit is None else limit - len(documents)
        if left == 0:
            break
        name = file.relative_to(folder).as_posix()
        documents += [
            Document(f"{name}#{d.id}", d.text, d.prompt)
            for d in parse_file(name, file.read_bytes(), text_field, left)
        ]
    return documents


def _saved_documents(
    folder: Path, text_field: str | None, limit: int | None, split: str
) -> list[Document]:
    # Imported late: slow to import, and only these sources need it.
    from datasets import DatasetDict, load_from_disk

    saved: Any = load_from_disk(folder)
    if isinstance(saved, DatasetDict):
        if split not in saved:
            raise InputError(f"{folder.name} has no split {split!r}; it has {', '.join(saved)}.")
        saved = saved[split]
    return _dataset_documents(folder.name, saved, text_field, limit)


def _hub_documents(name: str, config: SetConfig) -> list[Document]:
    from datasets import load_dataset
    from datasets.exceptions import DatasetNotFoundError
    from huggingface_hub.errors import (  # type: ignore[attr-defined]
        HTTPError,  # that of whichever HTTP library the hub's client uses
        OfflineModeIsEnabled,
    )

    if not _HUB_ID.fullmatch(name):
        raise InputError(f"{HUB_PREFIX}{name} is not a hub id; expected {HUB_PREFIX}owner/name.")
    if Path(name).exists():
        raise InputError(f"{name} is a folder here. Leave out {HUB_PREFIX} to read it.")
    try:
        dataset = load_dataset(name, config.hub_config, split=config.hub_split)
    except DatasetNotFoundError as error:
        if "gated" in str(error).lower():
            raise InputError(
                f"The hub set {name} is gated: accept its terms there and log in with `hf auth "
                "login`."
            ) from None
        raise InputError(f"The hub has no public set {name}.") from None
    except (ConnectionError, OfflineModeIsEnabled, HTTPError, TimeoutError):
        raise InputError(
            f"The hub set {name} cannot be fetched: this machine is offline or the hub does not "
            "answer. "
            "Download it where there is a network and give the file or folder."
        ) from None
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        # An unknown configuration or split; the library's first line says which there are.
        raise InputError(f"The hub set {name} could not be read: {_first(error)}.") from None
    return _dataset_documents(name, dataset, config.text_field, config.limit)


def _dataset_documents(
    name: str, dataset: Iterable[Any], text_field: str | None, limit: int | None
) -> list[Document]:
    def rows() -> Iterator[Row]:
        for number, value in enumerate(dataset, start=1):
            yield Row(f"{name}, row {number}", value)

    return to_documents(rows(), name, text_field=text_field, limit=limit, skip_blank=True)


def _first(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__
