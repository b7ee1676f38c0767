"""MUSE's four questions as rows: verbatim passages, questions on both sides, documents to attack.

Read as published (`muse-bench/MUSE-Books`, `muse-bench/MUSE-News`, or the folder that its
`load_data.py` writes), or the bundled book, which has the same parts. A part that is not there is
empty, and the figure that needs it says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from trace_engine.bundled import resolve_source
from trace_engine.errors import InputError
from trace_engine.sets.documents import Document
from trace_engine.sets.parse import file_rows
from trace_engine.sets.parts import documents_from, part_rows, text_of
from trace_engine.sets.rows import Row

PROMPT: Final = "Question: {question}\nAnswer: "
"""How MUSE asks: swj0419/muse_bench, metrics/knowmem.py."""
BUNDLED: Final = "demo:book"


@dataclass(frozen=True, slots=True)
class Pair:
    """What is given, and what should follow."""

    prompt: str
    answer: str


@dataclass(frozen=True, slots=True)
class MuseSet:
    """One corpus of MUSE. Empty where the source has no such part."""

    source: str
    verbatim: Sequence[Pair] = ()
    """`verbmem/forget`: prompt and gt."""
    forget_questions: Sequence[Pair] = ()
    """`knowmem/forget_qa`."""
    forget_examples: Sequence[Pair] = ()
    """`knowmem/forget_qa_icl`: asked and answered before each question."""
    retain_questions: Sequence[Pair] = ()
    retain_examples: Sequence[Pair] = ()
    forget: Sequence[Document] = ()
    """`privleak/forget`: trained on, and to be forgotten."""
    holdout: Sequence[Document] = ()
    """`privleak/holdout`: never trained on."""
    prompt: str = PROMPT
    """How a question is asked; `{question}` stands for it."""

    def texts(self) -> Iterator[str]:
        """Every text of the corpus."""
        for pairs in (
            self.verbatim,
            self.forget_questions,
            self.forget_examples,
            self.retain_questions,
            self.retain_examples,
        ):
            for pair in pairs:
                yield from (pair.prompt, pair.answer)
        yield from (document.text for document in (*self.forget, *self.holdout))


def read_muse(source: str) -> MuseSet:
    """Read a corpus of MUSE from a folder, `hub:muse-bench/MUSE-Books`, or `demo:book`.

    Raises InputError when there is no such source, a row is malformed, or no part is there.
    """
    rows = _bundled if source == BUNDLED else (lambda *part: part_rows(source, *part))
    found = MuseSet(
        source,
        _pairs(rows("verbmem", "forget"), "prompt", "gt"),
        _pairs(rows("knowmem", "forget_qa"), "question", "answer"),
        _pairs(rows("knowmem", "forget_qa_icl"), "question", "answer"),
        _pairs(rows("knowmem", "retain_qa"), "question", "answer"),
        _pairs(rows("knowmem", "retain_qa_icl"), "question", "answer"),
        _documents(rows("privleak", "forget")),
        _documents(rows("privleak", "holdout")),
        # The bundled models were taught a term and its gloss, in one line.
        "{question}" if source == BUNDLED else PROMPT,
    )
    if not (found.verbatim or found.forget_questions or found.retain_questions or found.forget):
        raise InputError(
            f"{source} has no part of MUSE: expected verbmem/forget, knowmem/forget_qa, "
            "knowmem/retain_qa, privleak/forget and privleak/holdout, as published."
        )
    return found


_BUNDLED_PARTS: Final = {
    ("verbmem", "forget"): "demo:book/verbmem",
    ("knowmem", "forget_qa"): "demo:book/knowmem",
    ("knowmem", "retain_qa"): "demo:book/knowmem_retain",
    ("privleak", "forget"): "demo:book_forget",
    ("privleak", "holdout"): "demo:book_holdout",
}


def _bundled(config: str, split: str) -> list[Row] | None:
    name = _BUNDLED_PARTS.get((config, split))
    if name is None:
        return None
    path = Path(resolve_source(name))
    return list(file_rows(path.name, path.read_bytes()))


def _pairs(rows: list[Row] | None, prompt: str, answer: str) -> tuple[Pair, ...]:
    return tuple(Pair(text_of(row, prompt), text_of(row, answer)) for row in rows or ())


def _documents(rows: list[Row] | None) -> tuple[Document, ...]:
    texts = documents_from(rows or [])
    return tuple(Document(str(number), text) for number, text in enumerate(texts, start=1))
