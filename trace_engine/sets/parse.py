"""The bytes of a file -> documents: text, JSON lines, JSON, CSV, Parquet. The one parser of all
doors.

Uploads and files on disk go through the same code. A bad file is refused as a whole, with its name,
the physical line (the row, for Parquet), and what was expected. The name of an upload is only a
label and a suffix: it never becomes a path.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import Any, Final

from trace_engine.errors import InputError
from trace_engine.sets.documents import Document
from trace_engine.sets.parquet import table_rows
from trace_engine.sets.rows import UNCHANGED, Row, to_documents

MAX_UPLOAD: Final = 50 * 2**20
"""Bytes of an upload; a larger file is refused unread. Also what it may take
unpacked, where its format packs."""
MOST_UNPACKED: Final = 8 * MAX_UPLOAD
"""Bytes, unpacked, of a file of questions or of a published benchmark."""
MOST_ROWS: Final = 1_000_000
"""Rows of an upload: a document takes memory of its own, however short its text is."""
_LINE_END = re.compile("\n")
_BLANK_LINES = re.compile(r"\n[^\S\n]*\n\s*")


def parse_documents(
    name: str,
    data: bytes,
    text_field: str | None = None,
    limit: int | None = None,
    *,
    most: int | None = None,
) -> list[Document]:
    """The documents of an uploaded file; `name` gives the format by its suffix.

    `most` is how many bytes it may have where that is less than MAX_UPLOAD: as they come, and
    unpacked. Raises InputError, and only that, whatever the bytes are; then nothing is to be kept.
    """
    label = safe_label(name)
    cap = MAX_UPLOAD if most is None else min(most, MAX_UPLOAD)
    if len(data) > cap:
        raise InputError(
            f"{label} has {len(data) / 2**20:.0f} MB; an upload may have {cap / 2**20:g} MB. "
            f"Give a larger set as a path. {UNCHANGED}"
        )
    rows = _at_most(MOST_ROWS, label, file_rows(label, data, cap))
    return _documents(label, rows, text_field, limit)


def parse_file(
    label: str, data: bytes, text_field: str | None = None, limit: int | None = None
) -> list[Document]:
    """As `parse_documents`, without the upload's limits; `label` is already safe to show."""
    return _documents(label, file_rows(label, data, None), text_field, limit)


def _documents(
    label: str, rows: Iterator[Row], text_field: str | None, limit: int | None
) -> list[Document]:
    return to_documents(
        rows,
        label,
        text_field=text_field,
        limit=limit,
        skip_blank=PurePosixPath(label).suffix.lower() == ".parquet",
    )


def _at_most(most: int, label: str, rows: Iterator[Row]) -> Iterator[Row]:
    for number, row in enumerate(rows):
        if number == most:
            raise InputError(
                f"{label} has more than {most:,} rows; an upload may have so many. Give a larger "
                f"set as a path. {UNCHANGED}"
            )
        yield row


def file_rows(label: str, data: bytes, most: int | None = MOST_UNPACKED) -> Iterator[Row]:
    """The rows of a file as its format gives them; `label` gives the format by its suffix.

    Raises InputError for another suffix and an empty file at once, for what is malformed, or takes
    more than `most` bytes unpacked, when it is reached.
    """
    suffix = PurePosixPath(label).suffix.lower()
    rows = _FORMATS.get(suffix)
    if rows is None:
        raise InputError(
            f"{label}: expected a file that ends in {', '.join(SUFFIXES)}, found "
            f"{suffix or 'no ending'}. {UNCHANGED}"
        )
    if not data.strip():
        raise InputError(f"{label} is empty. {UNCHANGED}")
    return table_rows(label, data, most) if suffix == ".parquet" else rows(label, data)


def safe_label(name: str) -> str:
    """What may be shown of a name that came from outside: its last part, printable, at most 100
    characters."""
    last = re.split(r"[/\\]", name)[-1]
    shown = "".join(c for c in last if c.isprintable()).strip()
    if len(shown) > 100:
        stem, dot, suffix = shown.rpartition(".")
        shown = f"{stem[:80]}….{suffix}" if dot and len(suffix) <= 8 else shown[:100]
    return shown if shown.strip(".") else "unnamed"


def decode(label: str, data: bytes) -> str:
    """UTF-8 text, with or without a byte-order mark (UTF-16 with one). Raises InputError with the
    offset."""
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    if not wide and (nul := data.find(b"\0")) >= 0:
        raise binary_file(label, nul, 0)
    try:
        return data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        # The codec counts from after the mark that it took off.
        mark = 3 if data.startswith(codecs.BOM_UTF8) else 0
        offset = min(error.start + mark, len(data) - 1)
        raise binary_file(label, offset, data[offset]) from None


def binary_file(label: str, offset: int, byte: int) -> InputError:
    """What to say of a file that is no text at this byte."""
    return InputError(
        f"{label}: byte {offset} (0x{byte:02x}) is not UTF-8 text; the file looks binary. "
        "Expected plain "
        f"text. {UNCHANGED}"
    )


def _text_rows(label: str, data: bytes) -> Iterator[Row]:
    text = decode(label, data).replace("\r\n", "\n").replace("\r", "\n")
    for number, paragraph in enumerate(_split(text.strip(), _BLANK_LINES), start=1):
        if paragraph:
            yield Row(f"{label}, paragraph {number}", paragraph)


def _json_line_rows(label: str, data: bytes) -> Iterator[Row]:
    # Only \n ends a line here: JSON strings may hold U+2028 and the like.
    plain: bool | None = None
    for number, line in enumerate(_split(decode(label, data), _LINE_END), start=1):
        line = line.strip("\r\n\t ")
        if not line:
            continue
        if plain is None:
            plain = not is_json_row(line)
        where = f"{label}, line {number}"
        yield Row(where, line if plain else json_row(where, line))


def _split(text: str, ends: re.Pattern[str]) -> Iterator[str]:
    """As `ends.split`, one part after the other: a list of millions takes many times the text."""
    start = 0
    for end in ends.finditer(text):
        yield text[start : end.start()]
        start = end.end()
    yield text[start:]


def json_row(where: str, line: str) -> Any:
    """A line of JSON lines. Raises InputError when it is none."""
    return _loads(where, line, "a JSON object or string a line")


def is_json_row(line: str) -> bool:
    """Whether a file's first line makes it JSON lines; else all its lines are plain text."""
    if line.startswith(("{", "[")):
        return True
    try:
        return isinstance(json.loads(line), str)
    except (ValueError, RecursionError):
        return False


def _json_rows(label: str, data: bytes) -> Iterator[Row]:
    text = decode(label, data)
    start = _skip_space(text, 0)
    if text[start : start + 1] != "[":
        yield from _json_object_rows(label, data, text)
        return
    decoder = json.JSONDecoder()
    at = _skip_space(text, start + 1)
    if text[at : at + 1] == "]":
        return
    line, counted = 1, 0
    while True:
        line, counted = line + text.count("\n", counted, at), at
        where = f"{label}, line {line}"
        try:
            value, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            raise _not_json(where, "a JSON list of objects or strings", error) from None
        yield Row(where, value)
        at = _skip_space(text, at)
        mark = text[at : at + 1]
        if mark == "]" and not text[at + 1 :].strip():
            return
        if mark != ",":
            line += text.count("\n", counted, at)
            raise InputError(
                f"{label}, line {line}: expected a comma or the end of the list, found "
                f"{text[at : at + 1] or 'the end of the file'!r}. {UNCHANGED}"
            )
        at = _skip_space(text, at + 1)


def _json_object_rows(label: str, data: bytes, text: str) -> Iterator[Row]:
    """One object is one document; several, one a line, are JSON lines under another name (TOFU)."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        if len(text.strip().splitlines()) < 2:
            raise _not_json(
                f"{label}, line 1", "a JSON list of objects or strings", error
            ) from None
        yield from (
            Row(
                where := f"{label}, line {number}",
                _loads(where, line, "a JSON list, or an object a line"),
            )
            for number, line in enumerate(text.split("\n"), start=1)
            if line.strip()
        )
    else:
        yield Row(f"{label}, line 1", value)


def _csv_rows(label: str, data: bytes) -> Iterator[Row]:
    text = decode(label, data)
    head = text.partition("\n")[0]
    delimiter = next((d for d in (",", ";", "\t") if d in head), ",")
    with _long_fields(len(text)):
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        line = 1
        try:
            header = [cell.strip() for cell in next(reader, [])]
            line = reader.line_num + 1
            for cells in reader:
                where = f"{label}, line {line}"
                line = reader.line_num + 1
                if not cells:
                    continue
                if len(cells) != len(header):
                    raise InputError(
                        f"{where}: expected {len(header)} cells like the header, found "
                        f"{len(cells)}. "
                        f"{UNCHANGED}"
                    )
                yield Row(where, dict(zip(header, cells, strict=True)))
        except csv.Error as error:
            raise InputError(
                f"{label}, line {line}: not readable CSV ({error}). {UNCHANGED}"
            ) from None


@contextmanager
def _long_fields(size: int) -> Iterator[None]:
    before = csv.field_size_limit(max(size, csv.field_size_limit()))
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _loads(where: str, line: str, expected: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _not_json(where, expected, error) from None


def _not_json(where: str, expected: str, error: Exception) -> InputError:
    reason = (
        error.msg if isinstance(error, json.JSONDecodeError) else "nested or long beyond reading"
    )
    return InputError(
        f"{where}: expected {expected}, found text that is not ({reason}). {UNCHANGED}"
    )


def _skip_space(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at


_FORMATS: Final[dict[str, Callable[[str, bytes], Iterator[Row]]]] = {
    ".txt": _text_rows,
    ".jsonl": _json_line_rows,
    ".json": _json_rows,
    ".csv": _csv_rows,
    ".parquet": table_rows,
}
SUFFIXES: Final = tuple(_FORMATS)
"""File name endings that can be read."""
