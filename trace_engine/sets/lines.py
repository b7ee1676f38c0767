"""Files on disk -> rows, one after the other: what `parse` does with bytes, without holding them.

Text, JSON lines and Parquet are read in pieces; other formats, and UTF-16, go through `parse`
whole. Rows, their numbers and what a bad one is told are those of `parse`.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from pathlib import Path

from trace_engine.errors import InputError
from trace_engine.regular import open_file, read_bytes
from trace_engine.sets.documents import Document
from trace_engine.sets.parquet import table_rows
from trace_engine.sets.parse import binary_file, is_json_row, json_row, parse_file
from trace_engine.sets.rows import UNCHANGED, Row, documents_of

PIECES = (".txt", ".jsonl", ".parquet")
"""Endings of files that are read in pieces."""


def file_documents(label: str, path: Path, text_field: str | None) -> Iterator[Document]:
    """The documents of a file; ids may repeat. Raises InputError as `parse_file` does."""
    suffix = path.suffix.lower()
    with open_file(path) as file:
        wide = file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    if suffix not in PIECES or (wide and suffix != ".parquet"):
        yield from parse_file(label, read_bytes(path), text_field)
        return
    if suffix == ".parquet":
        rows = table_rows(label, path)
    else:
        rows = _paragraphs(label, path) if suffix == ".txt" else _json_lines(label, path)
    empty = True
    for document in documents_of(rows, text_field, suffix == ".parquet"):
        empty = False
        yield document
    if empty:
        raise InputError(f"{label} has no documents: every row is empty. {UNCHANGED}")


def _lines(label: str, path: Path) -> Iterator[str]:
    """Lines as \\n ends them, without it, decoded as `parse.decode` does."""
    offset = 0
    with open_file(path) as file:
        for raw in file:
            mark = 3 if offset == 0 and raw.startswith(codecs.BOM_UTF8) else 0
            if (nul := raw.find(b"\0")) >= 0:
                raise binary_file(label, offset + nul, 0)
            try:
                text = raw[mark:].decode()
            except UnicodeDecodeError as error:
                at = min(error.start + mark, len(raw) - 1)
                raise binary_file(label, offset + at, raw[at]) from None
            offset += len(raw)
            yield text.removesuffix("\n")


def _json_lines(label: str, path: Path) -> Iterator[Row]:
    plain: bool | None = None
    for number, line in enumerate(_lines(label, path), start=1):
        line = line.strip("\r\n\t ")
        if not line:
            continue
        if plain is None:
            plain = not is_json_row(line)
        where = f"{label}, line {number}"
        yield Row(where, line if plain else json_row(where, line))


def _paragraphs(label: str, path: Path) -> Iterator[Row]:
    number = 0
    ended: str | None = None
    held: list[str] = []
    for raw in _lines(label, path):
        for line in raw.removesuffix("\r").split("\r"):
            if line.strip():
                if ended is not None:
                    number += 1
                    yield Row(f"{label}, paragraph {number}", ended)
                    ended = None
                held.append(line if held else line.lstrip())
            elif held:
                ended, held = "\n".join(held), []
    last = "\n".join(held) if held else ended
    if last is not None:
        # Only the text's own end is stripped; a paragraph's end is what its author left.
        yield Row(f"{label}, paragraph {number + 1}", last.rstrip())
