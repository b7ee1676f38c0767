"""A set that is too large to hold: read from its source as often as it is needed.

Opening it reads it once, for what names it (fingerprint), counts it and compares it; a later
reading that finds other content is refused. Accepted cost: 8 bytes a document stay in memory, each
pass parses again, and a `.csv` or `.json` file is held whole while its documents pass.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from trace_engine.errors import InputError
from trace_engine.sets.documents import (
    Document,
    Documents,
    DocumentSet,
    fingerprint_line,
    normalised,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Opened = Callable[[], Iterator[Document]]
"""Reads the source from the beginning; ids need not be unique."""


@dataclass(frozen=True, slots=True, eq=False)
class StreamedSet:
    """Documents that are read, not held."""

    name: str
    source: str
    fingerprint: str
    """That of a `DocumentSet` of the same documents."""
    text_keys: NDArray[np.uint64]
    """`text_key` of every document, in order."""
    opened: Opened
    renamed: frozenset[int]
    """Keys of ids that occur more than once."""

    @classmethod
    def of(cls, name: str, source: str, opened: Opened) -> StreamedSet:
        """Read the source through and name it. Raises InputError for the first bad row."""
        import numpy as np

        renamed: frozenset[int] = frozenset()
        while True:
            ids, texts, digest = array("Q"), array("Q"), hashlib.sha256()
            for document in unique_ids(opened(), renamed):
                ids.append(_key(document.id))
                texts.append(text_key(document.text))
                digest.update(fingerprint_line(document))
            sorted_ids = np.sort(np.frombuffer(ids, dtype=np.uint64))
            twice = sorted_ids[1:][sorted_ids[1:] == sorted_ids[:-1]]
            if not len(twice):
                break
            # New names can collide with other ids, so it is looked at again until none does.
            renamed |= frozenset(int(key) for key in twice)
        keys = np.frombuffer(texts, dtype=np.uint64)
        return cls(name, source, digest.hexdigest(), keys, opened, renamed)

    def __len__(self) -> int:
        return len(self.text_keys)

    def stream(self) -> Iterator[Document]:
        """The documents, in order. Raises InputError at the end when the source has changed."""
        digest = hashlib.sha256()
        for document in unique_ids(self.opened(), self.renamed):
            digest.update(fingerprint_line(document))
            yield document
        if digest.hexdigest() != self.fingerprint:
            raise InputError(
                f"{self.name} changed while it was being read, so its counts would be of two "
                "different sets. Leave it alone and start again."
            )


def unique_ids(documents: Iterable[Document], renamed: frozenset[int]) -> Iterator[Document]:
    """Ids made unique as `to_documents` makes them, remembering only those in `renamed`."""
    seen: set[str] = set()
    last: dict[str, int] = {}
    for document in documents:
        id_ = document.id.encode(errors="replace").decode()
        if _key(id_) in renamed:
            repeat = last.get(id_, 1)
            base = id_
            while id_ in seen:
                repeat += 1
                id_ = f"{document.id}#{repeat}"
            last[base] = repeat
            seen.add(id_)
        yield replace(document, id=id_)


def text_keys(documents: Documents) -> NDArray[np.uint64]:
    """`text_key` of every document, in order."""
    import numpy as np

    if isinstance(documents, StreamedSet):
        return documents.text_keys
    return np.array([text_key(document.text) for document in documents.stream()], dtype=np.uint64)


def text_key(text: str) -> int:
    """64 bits of a text after case and white space are evened out; equal texts have equal keys."""
    return _key(normalised(text))


def held(documents: Documents) -> bool:
    """Whether a set is in memory."""
    return isinstance(documents, DocumentSet)


def _key(text: str) -> int:
    digest = hashlib.blake2b(text.encode(errors="replace"), digest_size=8).digest()
    return int.from_bytes(digest, "little")
