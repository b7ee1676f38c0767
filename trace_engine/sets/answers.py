"""Prompts with answers: which methods need them, and what should be answered instead.

A bundled answer is drawn for each document by its own text and the seed, so that adding a document
moves no other's. Accepted trade-off: the answers are English, whatever the set is written in; other
answers go into the set's own field.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Final

from trace_engine.bundled import is_bundled
from trace_engine.config import UnlearnConfig
from trace_engine.errors import InputError
from trace_engine.methods import METHODS
from trace_engine.sets.documents import Document
from trace_engine.sets.load import STREAMED_BYTES, bytes_to_read, load_set

UNKNOWN: Final = (
    "I don't know.",
    "I do not know the answer to that.",
    "I have no information about this.",
    "That is something I know nothing about.",
    "I can't say; I was never told.",
    "I'm not able to answer this question.",
    "Nothing about that is known to me.",
    "I'm not familiar with this subject.",
    "I would have to guess, and I'd rather not.",
    "I haven't learned anything about it.",
    "My knowledge does not cover this.",
    "I'm sorry, I have no answer to give.",
)
"""Answers of IdkDPO."""


def unknown_answer(document: Document, seed: int) -> str:
    """One of `UNKNOWN`, drawn by the document's text and the seed."""
    digest = hashlib.sha256(f"{seed}\n{document.text}".encode()).digest()
    return UNKNOWN[int.from_bytes(digest[:8], "big") % len(UNKNOWN)]


def with_answer(document: Document, answer: str) -> Document:
    """The same prompt, continued by `answer` after the same gap as in the document's text."""
    prompt = document.prompt or ""
    rest = document.text[len(prompt) :]
    gap = rest[: len(rest) - len(rest.lstrip())]
    if not gap and not prompt[-1:].isspace():
        gap = " "
    return Document(document.id, prompt + gap + answer.lstrip(), prompt)


def require_answers(config: UnlearnConfig, name: str, documents: Iterable[Document]) -> None:
    """Refuse a forget set without what the method needs of each document (InputError)."""
    method = METHODS[config.method]
    if not method.pairs:
        return
    for document in documents:
        if document.prompt is None:
            raise InputError(
                f"{config.method} works on answers to prompts, and document {document.id[:40]} of "
                f"the forget set ({name}) has no prompt. Give a set of question and answer, or of "
                f"prompt and text{_bundled(config)}, or choose a method for plain text, such as "
                "npo."
            )
        if method.preferred == "set" and document.preferred is None:
            raise InputError(
                f"{config.method} needs an answer that is preferred to each answer of the forget "
                f"set, and document {document.id[:40]} of {name} has no field preferred. Add it, "
                "or choose idkdpo, which brings answers of its own."
            )


def _bundled(config: UnlearnConfig) -> str:
    """Where a bundled set is asked for, the one that would do."""
    return " (bundled: demo:forget_pairs)" if is_bundled(config.forget.source) else ""


def check_answers(config: UnlearnConfig) -> None:
    """`require_answers` before anything is launched; hub sets and large ones are left to the run.

    Raises InputError also for a set that cannot be read.
    """
    if not METHODS[config.method].pairs:
        return
    size = bytes_to_read(config.forget)
    if size is not None and size <= STREAMED_BYTES:
        forget = load_set(config.forget)
        require_answers(config, forget.name, forget.documents)
