"""A Parquet file -> rows, in batches, and what it is when it is unpacked: a file of 600 bytes may
stand for gigabytes.

Pages may be compressed, and one text may stand in any number of rows. So what is declared is added
up before anything is unpacked (by the pages themselves: the footer may say less), and texts are
counted while they are still numbers of a dictionary. Accepted trade-off: texts inside lists and
structs, which the library cannot always leave so, are refused by the most that they may take.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Final

from trace_engine.errors import InputError
from trace_engine.regular import open_file
from trace_engine.sets.pages import Chunk, Page, chunks_of, footer_size, pages_of, require_apart
from trace_engine.sets.rows import UNCHANGED, Row

_BATCH: Final = 1_000
_MOST_PAGES: Final = 100_000
"""Of an upload: a usual page holds thousands of values."""
_MOST_FOOTER: Final = 4 * 2**20
_PIECE: Final = 2**24
"""Bytes of texts that become Python's at once, roughly."""
_WIDTHS: Final = {"BOOLEAN": 1, "INT32": 4, "INT64": 8, "INT96": 12, "FLOAT": 4, "DOUBLE": 8}
_CODECS: Final = {1: "snappy", 2: "gzip", 4: "brotli", 6: "zstd", 7: "lz4_raw"}
_OFFSET: Final = 4
"""Bytes that a text takes besides its own."""
_BY_NUMBER: Final = (2, 8)
_BY_PREFIX: Final = 7
_BY_DIFFERENCE: Final = (6, _BY_PREFIX)
"""How a page may write texts: as numbers of a dictionary, by what they share with the one before,
or by how their lengths differ. The library makes no numbers of the last two."""


def table_rows(label: str, source: bytes | Path, most: int | None = None) -> Iterator[Row]:
    """The rows of a Parquet file, given as its bytes or its path.

    Raises InputError when it is none, and when bytes take more than `most` bytes unpacked.
    """
    # Imported late: only this format needs it.
    import pyarrow as pa
    import pyarrow.parquet as pq

    def opened(**options: Any) -> Any:
        return pq.ParquetFile(
            source if isinstance(source, Path) else pa.BufferReader(source), **options
        )

    number = unpacked = 0
    try:
        with opened() as table:
            if isinstance(source, bytes) and most is not None:
                plan = _planned(label, table, source, most)
            else:
                plan = _Plan(_repeating(table, _footer(source)))
        # Again, with texts as numbers of a dictionary: nothing is repeated before it is counted.
        with opened(read_dictionary=plan.by_number) as table:
            groups = range(table.num_row_groups)
            for batch in chain.from_iterable(
                table.iter_batches(plan.batch, row_groups=[group], use_threads=False)
                for group in groups
            ):
                size = sum(map(_size, batch.columns))
                unpacked += size
                if isinstance(source, bytes) and most is not None:
                    _within(label, source, unpacked, most)
                step = max(1, min(len(batch), len(batch) * _PIECE // max(size, 1)))
                for start in range(0, len(batch), step):
                    for value in batch.slice(start, step).to_pylist():
                        number += 1
                        yield Row(f"{label}, row {number}", value)
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        # Bytes that are no UTF-8, dates beyond the calendar: found only in a row.
        if isinstance(error, InputError):
            raise
        raise unreadable_table(label, error) from None


def unreadable_table(label: str, error: Exception) -> InputError:
    """What to say of a Parquet file that its library refuses."""
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return InputError(f"{label}: not a readable Parquet file ({reason}). {UNCHANGED}")


@dataclass
class _Plan:
    """How a file is read so that nothing large is made unawares."""

    by_number: list[str] = field(default_factory=list)
    """Columns whose texts are read as numbers of a dictionary."""
    batch: int = _BATCH
    """Rows at once."""


def _planned(label: str, table: Any, data: bytes, most: int) -> _Plan:
    """Raises InputError for a file that declares more than `most`."""
    plan = _Plan()
    left = _MOST_PAGES
    declared = within = 0
    chunks: list[tuple[Any, Chunk, list[Page]]] = []
    groups = _footer(data)
    require_apart(chain.from_iterable(groups))
    for column, chunk in _chunks(table, groups):
        pages = []
        for page in pages_of(data, chunk):
            pages.append(page)
            left -= 1
            if left < 0:
                raise ValueError(
                    f"it has more than {_MOST_PAGES:,} pages; give such a set as a path"
                )
        values = sum(page.values for page in pages)
        declared += max(sum(page.unpacked for page in pages), values * _width(column))
        _within(label, data, declared, most)
        chunks.append((column, chunk, pages))
    nested, by_prefix = set(), set()
    for column, chunk, pages in chunks:
        if not _is_text(column):
            continue
        prefixed = [page.unpacked for page in pages if page.encoding in _BY_DIFFERENCE]
        if prefixed:
            by_prefix.add(column.path)
        if _is_nested(column):
            nested.add(column.path)
            within += _repeats(chunk, pages, data)
        elif prefixed:
            # None of its texts is longer than a page.
            plan.batch = min(plan.batch, max(1, _PIECE // max(1, *prefixed)))
            within += sum(
                page.values * _longest(chunk, pages[0], data)
                for page in pages
                if page.encoding in _BY_NUMBER
            )
    texts = {column.path for column, _, _ in chunks if _is_text(column)}
    if declared + within <= most:
        plan.by_number = sorted(texts - by_prefix - nested)
    elif by_prefix:
        _within(label, data, declared + within, most)
    else:
        # The library reads nested ones so, or says that it cannot.
        plan.by_number = sorted(texts)
    return plan


def _footer(source: bytes | Path) -> list[list[Chunk]]:
    if isinstance(source, bytes):
        if footer_size(source) > _MOST_FOOTER:
            raise ValueError(
                f"its footer has more than {_MOST_FOOTER:,} bytes; give such a set as a path"
            )
        return chunks_of(source)
    with open_file(source) as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 8))
        file.seek(max(0, size - footer_size(file.read())))
        return chunks_of(file.read())


def _chunks(table: Any, groups: list[list[Chunk]]) -> Iterator[tuple[Any, Chunk]]:
    columns = [table.schema.column(place) for place in range(len(table.schema))]
    if len(groups) != table.num_row_groups or any(len(g) != len(columns) for g in groups):
        raise ValueError("its footer is damaged")
    for group in groups:
        yield from zip(columns, group, strict=True)


def _repeats(chunk: Chunk, pages: list[Page], data: bytes) -> int:
    """The most bytes that texts take which stand once in a file and may be meant many times."""
    longest = found = 0
    for page in pages:
        if page.dictionary:
            longest = _longest(chunk, page, data)
        elif page.encoding in _BY_NUMBER:
            found += page.values * longest
        elif page.encoding == _BY_PREFIX:
            found += page.values * page.unpacked
    return found


def _longest(chunk: Chunk, page: Page, data: bytes) -> int:
    """Bytes of the longest text of a dictionary; all of it where it cannot be unpacked here."""
    import pyarrow as pa

    content: Any = data[page.packed]
    if chunk.codec != 0:
        try:
            content = pa.Codec(_CODECS.get(chunk.codec, "")).decompress(content, page.unpacked)
        except (pa.ArrowException, OSError, ValueError):
            return page.unpacked
    at = longest = 0
    content = memoryview(content)
    while at + 4 <= len(content):
        length = int.from_bytes(content[at : at + 4], "little")
        longest, at = max(longest, length), at + 4 + length
    return longest


def _within(label: str, data: bytes, unpacked: int, most: int) -> None:
    if unpacked > most:
        raise InputError(
            f"{label} has {len(data):,} bytes and may take {unpacked / 2**20:,.1f} MB or more when "
            f"it is unpacked; {most / 2**20:g} MB are allowed. Give a larger set as a path. "
            f"{UNCHANGED}"
        )


def _repeating(table: Any, groups: list[list[Chunk]]) -> list[str]:
    """Columns that can be read as numbers of a dictionary, as the footer has them."""
    found = {c.path for c, _ in _chunks(table, groups) if _is_text(c) and not _is_nested(c)}
    differing = {c.path for c, at in _chunks(table, groups) if {*at.encodings} & {*_BY_DIFFERENCE}}
    return sorted(found - differing)


def _is_text(column: Any) -> bool:
    return bool(column.physical_type == "BYTE_ARRAY")


def _is_nested(column: Any) -> bool:
    return bool(column.max_repetition_level > 0 or "." in column.path)


def _width(column: Any) -> int:
    """Bytes that a value takes at least."""
    if column.physical_type == "FIXED_LEN_BYTE_ARRAY":
        return int(column.length)
    return _WIDTHS.get(column.physical_type, _OFFSET)


def _size(array: Any) -> int:
    """Bytes of an array where every text of a dictionary is as often there as it is meant."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = array.type
    if isinstance(kind, pa.BaseExtensionType):
        return _size(array.storage)
    if pa.types.is_dictionary(kind):
        lengths = pc.binary_length(array.dictionary)
        told = pc.sum(pc.take(lengths.cast(pa.int64()), array.indices)).as_py() or 0
        return int(told) + _OFFSET * len(array)
    if pa.types.is_struct(kind):
        return sum(map(_size, array.flatten()))
    if pa.types.is_map(kind):
        return _size(array.keys) + _size(array.items)
    if pa.types.is_nested(kind):
        return _size(array.flatten()) + _OFFSET * len(array)
    return int(array.nbytes)
