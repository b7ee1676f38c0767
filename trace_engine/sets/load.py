"""A set's source -> its documents: a file, a folder, a hub set, or a part of the bundled pack.

`load_set` holds a set in memory, as training needs it; `open_set` streams one that is large. A hub
set is streamed through `datasets`, which runs no code of the repository: with a limit, no row
beyond it is asked for. Trade-off: a large hub set is fetched again each time it is read, so that it
needs room neither in memory nor on disk.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Final

from trace_engine.bundled import is_bundled, resolve_source
from trace_engine.config import SetConfig
from trace_engine.errors import InputError
from trace_engine.regular import NotAFileError, irregular, read_bytes
from trace_engine.sets.documents import Document, Documents, DocumentSet
from trace_engine.sets.lines import file_documents
from trace_engine.sets.parse import SUFFIXES, parse_file, safe_label
from trace_engine.sets.rows import Row, documents_of, kept, to_documents
from trace_engine.sets.streaming import StreamedSet

HUB_PREFIX: Final = "hub:"
STREAMED_BYTES = 64 * 2**20
"""Files that hold more are streamed."""
STREAMED_ROWS = 20_000
"""Sets of `datasets` that have more rows (documents, where they come from the hub) are streamed."""
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
        dataset = hub_dataset(name, config)
        documents = _dataset_documents(name, dataset, config.text_field, config.limit)
        return DocumentSet.of(config.label or name, config.source, documents)
    path = resolve_source(config.source)
    documents = read_documents(path, config.text_field, config.limit, split=config.hub_split)
    name = config.source if is_bundled(config.source) else Path(path).stem
    return DocumentSet.of(config.label or name, config.source, documents)


def open_set(config: SetConfig) -> Documents:
    """Like `load_set`, but a large set is streamed from its source each time it is read.

    Both have the same documents, ids and fingerprint. Raises InputError as `load_set` does.
    """
    source = config.source
    if source.startswith(HUB_PREFIX):
        name = source.removeprefix(HUB_PREFIX)
        return _hub_set(config.label or name, name, hub_dataset(name, config), config)
    path = Path(resolve_source(source)).expanduser() if source.strip() else Path()
    if is_bundled(source) or not source.strip() or not path.exists():
        return load_set(config)
    name = config.label or path.stem
    with named(path):
        if is_saved(path):
            return _dataset_set(name, path.name, saved_dataset(path, config.hub_split), config)
        files = _files(path) if path.is_dir() else [path]
        if sum(file.stat().st_size for file in files) <= STREAMED_BYTES:
            return load_set(config)
        if not path.is_dir() and path.suffix.lower() not in SUFFIXES:
            return load_set(config)  # refuses it
        return StreamedSet.of(name, source, lambda: _stream_files(path, config))


def bytes_to_read(config: SetConfig) -> int | None:
    """Bytes of the files that a set is read from, without reading them; None for a hub set, which
    has to be fetched first.

    A source that is not there has 0, and `load_set` says so. Raises InputError for an unknown
    `demo:` name.
    """
    if config.source.startswith(HUB_PREFIX):
        return None
    path = Path(resolve_source(config.source)).expanduser()
    with named(path):
        if not config.source.strip() or not path.is_dir():
            return path.stat().st_size if path.is_file() else 0
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def _stream_files(path: Path, config: SetConfig) -> Iterator[Document]:
    def documents() -> Iterator[Document]:
        if not path.is_dir():
            yield from file_documents(path.name, path, config.text_field)
            return
        for file in _files(path):
            name = file.relative_to(path).as_posix()
            for document in file_documents(name, file, config.text_field):
                yield replace(document, id=f"{name}#{document.id}")

    with named(path):
        yield from islice(documents(), config.limit)


def _dataset_set(name: str, label: str, dataset: Any, config: SetConfig) -> Documents:
    if len(dataset) <= STREAMED_ROWS:
        documents = _dataset_documents(label, dataset, config.text_field, config.limit)
        return DocumentSet.of(name, config.source, documents)
    streamed = StreamedSet.of(name, config.source, lambda: _found(label, dataset, config))
    if not len(streamed):
        raise InputError(f"{label} has no documents: every row is empty. Nothing was saved.")
    return streamed


def _hub_set(name: str, label: str, rows: Iterable[Any], config: SetConfig) -> Documents:
    """Held if it ends before it is large, which only reading it tells; else streamed."""
    documents, characters = [], 0
    for document in _found(label, rows, config):
        documents.append(document)
        characters += len(document.text)
        if len(documents) > STREAMED_ROWS or characters > STREAMED_BYTES:
            documents.clear()
            return StreamedSet.of(name, config.source, lambda: _found(label, rows, config))
    return DocumentSet.of(name, config.source, kept(documents, label))


def _found(label: str, rows: Iterable[Any], config: SetConfig) -> Iterator[Document]:
    found = documents_of(_dataset_rows(label, rows), config.text_field, skip_blank=True)
    return islice(found, config.limit)


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
    with named(path):
        if path.is_dir():
            if is_saved(path):
                saved = saved_dataset(path, split)
                return _dataset_documents(path.name, saved, text_field, limit)
            return _folder_documents(path, text_field, limit)
        return parse_file(path.name, read_bytes(path), text_field, limit)


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Turn what the file system says about a source into a sentence."""
    try:
        yield
    except FileNotFoundError:
        raise InputError(
            f"There is no file or folder {path}. Give a path, {HUB_PREFIX}owner/name, or "
            "demo:forget."
        ) from None
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{safe_label(path.name)} could not be read: {_first(error)}.") from None


def _files(folder: Path) -> list[Path]:
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    if not files:
        raise InputError(f"{folder.name} has no file that ends in {', '.join(SUFFIXES)}.")
    return files


def _folder_documents(folder: Path, text_field: str | None, limit: int | None) -> list[Document]:
    files = _files(folder)
    documents: list[Document] = []
    for file in files:
        left = None if limit is None else limit - len(documents)
        if left == 0:
            break
        name = file.relative_to(folder).as_posix()
        documents += [
            replace(d, id=f"{name}#{d.id}")
            for d in parse_file(name, read_bytes(file), text_field, left)
        ]
    return documents


def is_saved(path: Path) -> bool:
    """Whether a folder is what `datasets` saved."""
    return any((path / name).is_file() for name in ("dataset_dict.json", "state.json"))


def saved_dataset(folder: Path, split: str) -> Any:
    """A split of what `datasets` saved. Raises InputError when there is no such split, OSError when
    one of its files is a pipe or a device."""
    for path in irregular(folder.rglob("*")):
        raise NotAFileError(path)
    # Imported late: slow to import, and only these sources need it.
    from datasets import DatasetDict, load_from_disk

    saved: Any = load_from_disk(folder)
    if isinstance(saved, DatasetDict):
        if split not in saved:
            raise InputError(f"{folder.name} has no split {split!r}; it has {', '.join(saved)}.")
        saved = saved[split]
    return saved


def hub_dataset(name: str, config: SetConfig) -> Iterable[Any]:
    """The rows of a hub set's configuration and split, fetched as they are read, from the start
    each time.

    A slice of a split (`train[:10%]`) is fetched whole, because `datasets` streams no slices.
    Raises InputError as `load_set` does, and while reading too.
    """
    from datasets import load_dataset

    if not _HUB_ID.fullmatch(name):
        raise InputError(f"{HUB_PREFIX}{name} is not a hub id; expected {HUB_PREFIX}owner/name.")
    if Path(name).exists():
        raise InputError(f"{name} is a folder here. Leave out {HUB_PREFIX} to read it.")
    whole = "[" in config.hub_split
    with _hub_named(name):
        rows: Any = load_dataset(
            name, config.hub_config, split=config.hub_split, streaming=not whole
        )
    return _HubRows(name, rows)


@dataclass(frozen=True, slots=True)
class _HubRows:
    """Rows that the hub may fail to give."""

    name: str
    rows: Iterable[Any]

    def __iter__(self) -> Iterator[Any]:
        with _hub_named(self.name):
            yield from self.rows


@contextmanager
def _hub_named(name: str) -> Iterator[None]:
    """Turn what the hub and its libraries say about a set into a sentence."""
    # Imported late: slow to import, and only these sources need it.
    from datasets.exceptions import DatasetNotFoundError
    from huggingface_hub.errors import (  # type: ignore[attr-defined]
        HTTPError,  # that of whichever HTTP library the hub's client uses
        OfflineModeIsEnabled,
    )

    try:
        yield
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


def _dataset_documents(
    name: str, dataset: Iterable[Any], text_field: str | None, limit: int | None
) -> list[Document]:
    rows = _dataset_rows(name, dataset)
    return to_documents(rows, name, text_field=text_field, limit=limit, skip_blank=True)


def _dataset_rows(name: str, dataset: Iterable[Any]) -> Iterator[Row]:
    for number, value in enumerate(dataset, start=1):
        yield Row(f"{name}, row {number}", value)


def _first(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__
