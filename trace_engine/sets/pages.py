"""A Parquet file's footer and the headers of its pages (Thrift's compact protocol): how large each
page is unpacked.

A footer may declare less than its pages hold, and the library makes room for a page before it has
unpacked it. Nothing is unpacked here. The library's own view of a footer ends the process where a
chunk is damaged, so the footer is read here too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final, NamedTuple

_DEPTH: Final = 8
_LONG: Final = 100_000
_SLACK: Final = 100
"""Bytes."""
_DICTIONARY, _NEWER = 2, 3
_HEADERS: Final = {0: 5, _DICTIONARY: 7, _NEWER: 8}
"""Kinds of page, and the field that holds what is particular to each."""
_TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _LIST, _SET, _STRUCT = 1, 2, 3, 7, 8, 9, 10, 12
_NUMBERS: Final = (4, 5, 6)


class Page(NamedTuple):
    unpacked: int
    """Bytes, as declared."""
    values: int
    """0 for a dictionary: its values stand in other pages."""
    encoding: int
    dictionary: bool
    packed: slice
    """Where its bytes are."""


class Chunk(NamedTuple):
    """The pages of one column in one group of rows."""

    encodings: tuple[int, ...]
    """Of its pages, as the footer has them."""
    codec: int
    values: int
    start: int
    length: int


def chunks_of(tail: bytes) -> list[list[Chunk]]:
    """Groups of rows, and in each its columns in the schema's order; of a file's last bytes, of
    which `footer_size` says how many are needed.

    Raises ValueError where there is no footer.
    """
    footer, _ = _struct(tail, len(tail) - footer_size(tail), 0)
    return [
        [_chunk(column) for column in _list(_fields(group).get(1))]
        for group in _list(footer.get(4))
    ]


def footer_size(tail: bytes) -> int:
    """Bytes from the footer's beginning to the file's end, by its last eight."""
    if tail[-4:] != b"PAR1" or len(tail) < 8:
        raise ValueError("it has no footer")
    return int.from_bytes(tail[-8:-4], "little") + 8


def _chunk(column: Any) -> Chunk:
    told = _fields(_fields(column).get(3))
    start, first = _size(told.get(9)), told.get(11)
    if isinstance(first, int) and 0 < first < start:
        start = first  # a dictionary
    encodings = tuple(_size(encoding) for encoding in _list(told.get(2)))
    return Chunk(encodings, _size(told.get(4)), _size(told.get(5)), start, _size(told.get(7)))


def _fields(value: Any) -> dict[int, Any]:
    if not isinstance(value, dict):
        raise ValueError("its footer is damaged")
    return value


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError("its footer is damaged")
    return value


def pages_of(data: bytes, chunk: Chunk) -> Iterator[Page]:
    """The pages of a chunk, until the bytes or the values end as a reader's do.

    Raises ValueError where there is no page, and where one reaches beyond its chunk: what is read
    of a file is then no more than the file, whatever its footer says.
    """
    # Old writers left the dictionary's header out of a chunk's length.
    own = data[chunk.start : chunk.start + chunk.length + _SLACK]
    start, seen = 0, 0
    while start < min(chunk.length, len(own)) and seen < chunk.values:
        header, start = _struct(own, start, 0)
        kind, unpacked, packed = (_size(header.get(field)) for field in (1, 2, 3))
        inside = header.get(_HEADERS.get(kind, 0))
        if not isinstance(inside, dict):
            raise ValueError("a page is of no known kind")
        # The newer kind of page counts its rows before it says how its values are written.
        encoding = _size(inside.get(4 if kind == _NEWER else 2))
        count = 0 if kind == _DICTIONARY else _size(inside.get(1))
        if start + packed > len(own):
            raise ValueError("a page reaches beyond its column")
        packed_bytes = slice(chunk.start + start, chunk.start + start + packed)
        yield Page(unpacked, count, encoding, kind == _DICTIONARY, packed_bytes)
        seen, start = seen + count, start + packed


def require_apart(chunks: Iterable[Chunk]) -> None:
    """Raises ValueError where two chunks have bytes in common: the same page, read for each, would
    be as much work as a far larger file."""
    end = 0
    for chunk in sorted(chunks, key=lambda one: one.start):
        if chunk.start < end:
            raise ValueError("two of its columns are the same bytes")
        end = chunk.start + chunk.length


def _size(number: Any) -> int:
    if not isinstance(number, int) or isinstance(number, bool) or number < 0:
        raise ValueError("a page does not say its size")
    return number


def _struct(data: bytes, at: int, depth: int) -> tuple[dict[int, Any], int]:
    if depth > _DEPTH:
        raise ValueError("it is nested beyond reading")
    fields: dict[int, Any] = {}
    field = 0
    while True:
        head, at = _byte(data, at)
        if head & 15 == 0:  # the end, whatever stands in its other half
            return fields, at
        if head >> 4:
            field += head >> 4
        else:
            field, at = _number(data, at)
        kind = head & 15
        if kind in (_TRUE, _FALSE):
            fields[field] = kind == _TRUE
        else:
            fields[field], at = _value(data, at, kind, depth)


def _value(data: bytes, at: int, kind: int, depth: int) -> tuple[Any, int]:
    if kind in _NUMBERS:
        return _number(data, at)
    if kind in (_TRUE, _FALSE, _BYTE):  # in a list a truth value is a byte too
        return _byte(data, at)
    if kind == _DOUBLE:
        return None, at + 8
    if kind == _BINARY:
        length, at = _varint(data, at)
        return data[at : at + length], at + length
    if kind == _STRUCT:
        return _struct(data, at, depth + 1)
    if kind in (_LIST, _SET):
        head, at = _byte(data, at)
        count = head >> 4
        if count == 15:
            count, at = _varint(data, at)
        if count > _LONG:
            raise ValueError("it has a list beyond reading")
        items = []
        for _ in range(count):
            item, at = _value(data, at, head & 15, depth + 1)
            items.append(item)
        return items, at
    raise ValueError("it has a value of no known kind")


def _number(data: bytes, at: int) -> tuple[int, int]:
    coded, at = _varint(data, at)
    return (coded >> 1) ^ -(coded & 1), at


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 70:
        byte, at = _byte(data, at)
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
    raise ValueError("it has a number that is none")


def _byte(data: bytes, at: int) -> tuple[int, int]:
    if not 0 <= at < len(data):
        raise ValueError("it ends too early")
    return data[at], at + 1
