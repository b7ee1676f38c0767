"""A set cut into fixed windows of documents, and documents into hashed blocks.

A window is what is held in memory, batched, and lost when a process is killed. Where it ends
follows from the documents alone, so one process and many cut alike. Accepted cost: documents are
sorted by length inside a window only, and a block is a coarser unit of resampling than a document.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from trace_engine.sets import Document

WINDOW_DOCUMENTS = 4_096
"""Most documents of a window; the counts of 94 x 160 cells are then about 1 GB."""
WINDOW_CHARACTERS = 2**24
"""A window ends with the document that reaches so many characters, some 4 M tokens."""
MOST_DOCUMENTS = 20_000
"""With more documents a side, counts are kept per block."""
BLOCKS = 1_024
"""Blocks of a side with more than `MOST_DOCUMENTS`."""


@dataclass(frozen=True, slots=True)
class Window:
    """Consecutive documents of a set."""

    index: int
    start: int
    """Place in the set of the first document."""
    documents: tuple[Document, ...]


def windows(documents: Iterable[Document]) -> Iterator[Window]:
    """The set's windows, in order; together they are all of it."""
    index = start = characters = 0
    held: list[Document] = []
    for document in documents:
        held.append(document)
        characters += len(document.text)
        if len(held) >= WINDOW_DOCUMENTS or characters >= WINDOW_CHARACTERS:
            yield Window(index, start, tuple(held))
            index, start, characters = index + 1, start + len(held), 0
            held = []
    if held:
        yield Window(index, start, tuple(held))


def in_blocks(documents: int) -> bool:
    """Whether a side with so many documents is counted per block."""
    return documents > MOST_DOCUMENTS


def block_of(text: str) -> int:
    """The block of a document. By its text: equal texts share a block, and order plays no part."""
    digest = hashlib.sha256(text.encode()).digest()
    return int.from_bytes(digest[:8], "big") % BLOCKS


def block_names() -> tuple[str, ...]:
    """Names of the blocks, in the order of their rows; sorting by name keeps that order."""
    return tuple(f"block {number:04d}" for number in range(BLOCKS))
