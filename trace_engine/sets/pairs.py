"""Two sets against each other (overlap, equality), and one set in two (training and held out).

Documents count as the same when their texts agree after case and white space are evened out. Near
duplicates are not found: the count is a lower bound of what the sets share.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

from trace_engine.errors import InputError
from trace_engine.sets.documents import Document, Documents, DocumentSet, normalised
from trace_engine.sets.streaming import held, text_keys

SHOWN = 5
_WORDS = 4


@dataclass(frozen=True, slots=True)
class Overlap:
    """What a forget set and a retain set have in common."""

    count: int
    """Forget documents whose text is in the retain set too."""
    sample: tuple[str, ...]
    """The first few of those texts, as the forget set has them."""
    forget_total: int
    retain_total: int
    equal: bool
    """Whether the two hold the same texts, order and repeats aside."""


def overlap(forget: Documents, retain: Documents) -> Overlap:
    """Count the forget documents that the retain set has too.

    A set that streams is compared by 64 bits of each text, where chance makes two texts equal once
    in some 10^19 pairs.
    """
    if not (held(forget) and held(retain)):
        return _overlap_by_keys(forget, retain)
    texts = list(_texts(forget))
    # Beginnings first: most texts begin like none of the other side, and need no more looking at.
    begun = {_beginning(text) for text in texts}
    alike = [text for text in _texts(retain) if _beginning(text) in begun]
    retained = {normalised(text) for text in alike}
    begun = {_beginning(text) for text in alike}
    shared = [text for text in texts if _beginning(text) in begun and normalised(text) in retained]
    whole = len(shared) == len(texts) and len(alike) == len(retain)
    equal = bool(alike) and whole and {normalised(text) for text in texts} == retained
    return Overlap(len(shared), tuple(shared[:SHOWN]), len(forget), len(retain), equal)


def _texts(documents: Documents) -> Iterator[str]:
    return (document.text for document in documents.stream())


def _beginning(text: str) -> str:
    """The first words, case evened out: the same where `normalised` is, as folding a character's
    case makes and takes no white space."""
    return " ".join(text.split(None, _WORDS)[:_WORDS]).casefold()


def _overlap_by_keys(forget: Documents, retain: Documents) -> Overlap:
    import numpy as np

    keys, retained = text_keys(forget), np.unique(text_keys(retain))
    shared = np.isin(keys, retained)
    shown = np.flatnonzero(shared)[:SHOWN].tolist()
    sample = []
    if shown:
        for place, document in enumerate(forget.stream()):
            if place in shown:
                sample.append(document.text)
            if place == shown[-1]:
                break
    equal = bool(len(retained)) and np.array_equal(np.unique(keys), retained)
    return Overlap(int(shared.sum()), tuple(sample), len(forget), len(retain), equal)


def check_pair(forget: Documents, retain: Documents) -> Overlap:
    """The overlap of two sets that can be compared. Raises InputError when one is empty or both are
    equal."""
    for side, documents in (("forget", forget), ("retain", retain)):
        if not len(documents):
            raise InputError(f"The {side} set ({documents.name}) has no documents.")
    found = overlap(forget, retain)
    if found.equal:
        raise InputError(
            f"The forget set ({forget.name}) and the retain set ({retain.name}) hold the same "
            "texts, so "
            "there is nothing to tell apart. Choose two different sets."
        )
    return found


def split_documents(
    documents: DocumentSet, share: float, seed: int
) -> tuple[DocumentSet, DocumentSet]:
    """Split a set into (training, held out), each in the set's order.

    A document's side follows from its own text and the seed, so that adding a document moves no
    other, and equal texts never face each other. `share` is the held-out side's expected share;
    both sides get at least one text. Raises InputError when there are fewer than two different
    texts.
    """
    if not 0 < share < 1:
        raise InputError(f"The held-out share must be between 0 and 1, found {share}.")
    draw = {document.text: _draw(document, seed) for document in documents.documents}
    draws = sorted(set(draw.values()))
    if len(draws) < 2:
        raise InputError(
            f"{documents.name} has {len(draws)} different documents; holding some out takes at "
            "least two."
        )
    # The least draw is always held out and the greatest never, so that no side is empty.
    bound = min(max(share, draws[0]), draws[-2])
    held_out = [d for d in documents.documents if draw[d.text] <= bound]
    training = [d for d in documents.documents if draw[d.text] > bound]
    return (
        DocumentSet.of(f"{documents.name} (training)", documents.source, training),
        DocumentSet.of(f"{documents.name} (held out)", documents.source, held_out),
    )


def _draw(document: Document, seed: int) -> float:
    digest = hashlib.sha256(f"{seed}\n{normalised(document.text)}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
