"""What a document and a set of documents are, and the fingerprint that names a set's content.

A document's text is the whole of it; a prompt, where there is one, is the leading part of that text
that is context and not to be predicted. Trade-off: ids are part of the fingerprint, so that a
profile found by its fingerprint never shows another file's row names.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol, Self


@dataclass(frozen=True, slots=True)
class Document:
    """One text of a set."""

    id: str
    """Unique in its set: the row's own id, or its number from 1."""
    text: str
    """All of it, the prompt included; never blank."""
    prompt: str | None = None
    """Leading part of `text` that is given, not predicted."""
    preferred: str | None = None
    """What should follow the prompt instead, for preference methods; never blank."""


class Documents(Protocol):
    """A set that can be read through as often as needed, whether or not it is held in memory."""

    @property
    def name(self) -> str: ...
    @property
    def source(self) -> str: ...
    @property
    def fingerprint(self) -> str: ...
    def __len__(self) -> int: ...
    def stream(self) -> Iterator[Document]:
        """The documents, in order, from the beginning."""


@dataclass(frozen=True, slots=True)
class DocumentSet:
    """Documents in order, named by their content."""

    name: str
    """A label for people; not part of the fingerprint."""
    source: str
    documents: tuple[Document, ...]
    fingerprint: str
    """SHA-256 over one JSON line per document, in order, UTF-8: see `fingerprint`."""

    @classmethod
    def of(cls, name: str, source: str, documents: Iterable[Document]) -> Self:
        """A set with its fingerprint computed."""
        kept = tuple(documents)
        return cls(name, source, kept, fingerprint(kept))

    def __len__(self) -> int:
        return len(self.documents)

    def stream(self) -> Iterator[Document]:
        """The documents, in order."""
        return iter(self.documents)

    @property
    def texts(self) -> list[str]:
        return [document.text for document in self.documents]

    @property
    def prompts(self) -> list[str | None]:
        return [document.prompt for document in self.documents]


def fingerprint(documents: Iterable[Document]) -> str:
    """SHA-256 over one JSON line `[id, prompt, text]` per document, in order, UTF-8; hex.

    A preferred answer is a fourth entry, and none where there is none.
    """
    digest = hashlib.sha256()
    for document in documents:
        digest.update(fingerprint_line(document))
    return digest.hexdigest()


def fingerprint_line(document: Document) -> bytes:
    """A document's part of its set's fingerprint."""
    row = [document.id, document.prompt, document.text]
    if document.preferred is not None:
        row.append(document.preferred)
    return _LINE.encode(row).encode() + b"\n"


_LINE = json.JSONEncoder(ensure_ascii=False)
"""Made once: a set can have a million documents."""


def normalised(text: str) -> str:
    """The text with case folded and each run of white space made one space."""
    return " ".join(text.casefold().split())


def to_jsonl(documents: Iterable[Document]) -> bytes:
    """The documents as a `.jsonl` file that `parse_documents` reads back unchanged."""
    lines = []
    for document in documents:
        row = {"id": document.id, "text": document.text}
        if document.prompt is not None:
            row["prompt"] = document.prompt
        if document.preferred is not None:
            row["preferred"] = document.preferred
        lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    return "".join(lines).encode()
