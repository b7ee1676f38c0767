"""A small Parquet file that stands for gigabytes is refused before it is them; others are read."""

import io
import subprocess
import sys
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.bombs import packed, parquet_bomb, repeated
from tests.support.server import ROOT
from trace_engine.errors import InputError
from trace_engine.sets import load_questions, parse_documents
from trace_engine.sets import parquet as parquet_module
from trace_engine.sets import parse as parse_module
from trace_engine.sets.lines import file_documents
from trace_engine.sets.pages import Chunk, chunks_of, footer_size, pages_of
from trace_engine.sets.parquet import table_rows
from trace_engine.sets.parse import file_rows

MEGA = "a" * 2**20
PEAK = """
import resource, sys
from pathlib import Path
import numpy, pyarrow.compute, pyarrow.parquet
from trace_engine.errors import InputError
from trace_engine.sets import parse_documents
data = Path(sys.argv[1]).read_bytes()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    parse_documents(Path(sys.argv[1]).name, data)
except InputError as refused:
    print(refused)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def peak(path: Path) -> tuple[str, int]:
    """What a process of its own is told of a file, and the bytes that it took for it."""
    done = subprocess.run(
        [sys.executable, "-c", PEAK, str(path)],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    *said, taken = done.stdout.splitlines()
    return "".join(said), int(taken) * 1024


def refusal(data: bytes) -> str:
    with pytest.raises(InputError) as refused:
        parse_documents("a.parquet", data)
    return str(refused.value)


@pytest.mark.fault_row(16)
def test_a_bomb_is_refused_and_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "bomb.parquet"
    path.write_bytes(parquet_bomb())
    assert path.stat().st_size < 1000
    said, taken = peak(path)
    assert "bomb.parquet has 5" in said
    assert "MB or more when it is unpacked; 50 MB are allowed. Give a larger set as a path." in said
    assert taken < 50 * 2**20


@pytest.mark.fault_row(16)
@pytest.mark.parametrize("ending", ["jsonl", "txt"])
def test_millions_of_short_rows_are_refused(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"short.{ending}"
    path.write_bytes(b"ab\n\n" * 5_000_000)
    said, taken = peak(path)
    assert f"short.{ending} has more than 1,000,000 rows; an upload may have so many." in said
    assert taken < 500 * 2**20


BOMBS = {
    "unpacked pages": {"text": pa.array([MEGA + str(n) for n in range(60)])},
    "a list's texts": {"text": ["a"] * 100, "list": [[MEGA] * 3] * 100},
    "texts in structs": {"text": ["a"] * 60, "deep": [{"in": [{"it": MEGA}]}] * 60},
    "a map's texts": {"map": pa.array([[("k", MEGA)]] * 60, pa.map_(pa.string(), pa.string()))},
    "bytes of a fixed width": {"text": pa.array([MEGA.encode()] * 60, pa.binary(2**20))},
    "numbers": {"text": np.zeros(7_000_000, dtype=np.int64)},
    "bytes": {"text": pa.array([MEGA.encode()] * 60)},
}


@pytest.mark.parametrize("name", BOMBS)
@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_every_way_to_pack_is_counted(name: str, version: str) -> None:
    data = packed(BOMBS[name], data_page_version=version)
    assert len(data) < 2**20
    assert "when it is unpacked; 50 MB are allowed" in refusal(data)


@pytest.mark.parametrize("nested", [False, True])
def test_texts_that_share_their_beginning_are_counted_whole(nested: bool) -> None:
    text: list[object] = [MEGA] * 60
    data = packed(
        {"text": ["a"] * 60, "it": [[one] for one in text] if nested else text},
        use_dictionary=False,
        column_encoding={"it.list.element" if nested else "it": "DELTA_BYTE_ARRAY"}
        | {"text": "PLAIN"},
    )
    assert "when it is unpacked; 50 MB are allowed" in refusal(data)


def test_many_texts_in_lists_are_read_whether_they_repeat_or_not() -> None:
    """Neither is refused for what it might take: the one by its longest text, the other by all."""
    rows = 20_000
    chats = [[{"role": "user", "content": f"{n} " + "word " * 20}] for n in range(rows)]
    labels = [["short"] * 10 + ["long " * 2000]] * 200 + [["short"] * 40] * (rows - 200)
    data = packed({"text": ["a"] * rows, "chats": chats, "labels": labels})
    assert len(parse_documents("a.parquet", data)) == rows


@pytest.mark.slow
def test_rows_of_a_dictionary_are_counted_as_rows() -> None:
    assert "has more than 1,000,000 rows" in refusal(packed({"text": repeated("a", 1_100_000)}))


def varint(number: int, length: int = 0) -> bytes:
    """Thrift's number, at least so many bytes long."""
    coded = []
    number <<= 1
    while number > 127 or len(coded) < length - 1:
        coded.append(number & 127 | 128)
        number >>= 7
    return bytes([*coded, number])


def test_a_footer_that_lies_is_not_believed() -> None:
    honest = packed({"text": [MEGA + str(n) for n in range(60)]}, use_dictionary=False)
    footer = pq.ParquetFile(pa.BufferReader(honest)).metadata.row_group(0)
    told = footer.column(0).total_uncompressed_size
    lying = honest
    for number in {told, footer.total_byte_size}:
        true = varint(number)
        assert true in lying
        lying = lying.replace(true, varint(1, len(true)))
    table = pq.ParquetFile(pa.BufferReader(lying))
    assert table.metadata.row_group(0).column(0).total_uncompressed_size == 1
    assert table.read().nbytes > 60 * 2**20
    assert "when it is unpacked; 50 MB are allowed" in refusal(lying)


def test_the_servers_cap_bounds_what_is_unpacked() -> None:
    data = parquet_bomb(rows=3)
    assert len(parse_documents("a.parquet", data)) == 3
    with pytest.raises(InputError, match=r"3\.0 MB or more when it is unpacked; 2 MB are allowed"):
        parse_documents("a.parquet", data, most=2 * 2**20)
    with pytest.raises(InputError, match=r"a\.txt has 3 MB; an upload may have 2 MB"):
        parse_documents("a.txt", b"a" * 3 * 2**20, most=2 * 2**20)


def test_questions_are_bounded_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "questions.parquet"
    question = {"question": repeated("q" * 2**20, 500), "choices": [["a", "b"]] * 500}
    path.write_bytes(packed(question | {"answer": [0] * 500}))
    with pytest.raises(InputError, match=r"questions\.parquet has .* 400 MB are allowed"):
        load_questions(str(path))
    assert parse_module.MOST_UNPACKED == 400 * 2**20


def test_a_file_of_more_pages_than_any_has_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_module, "_MOST_PAGES", 5)
    data = packed({"text": ["a", "b", "c"] * 2}, row_group_size=1)
    assert (
        "not a readable Parquet file (it has more than 5 pages; give such a set as a path)"
        in refusal(data)
    )


LATER = {
    "use_dictionary": False,
    "column_encoding": {"text": "DELTA_BYTE_ARRAY", "large": "DELTA_LENGTH_BYTE_ARRAY"},
}


def test_values_are_those_of_the_library(tmp_path: Path) -> None:
    rows = 2500
    columns = {
        "text": [f"row {n} äöü" for n in range(rows)],
        "none": [None, "x"] * (rows // 2),
        "list": [["a", None, "b"], [], None, ["a"], ["c"]] * (rows // 5),
        "map": pa.array([[("k", "v")], None] * (rows // 2), pa.map_(pa.string(), pa.string())),
        "struct": [{"a": "x", "b": [1, 2]}, {"a": None, "b": None}] * (rows // 2),
        "kind": pa.array(["x", "y"] * (rows // 2)).dictionary_encode(),
        "large": pa.array(["long", None] * (rows // 2), pa.large_string()),
        "bytes": [b"\x00\xff"] * rows,
        "day": [date(2026, 1, 1)] * rows,
        "number": list(range(rows)),
        "truth": [True, None] * (rows // 2),
    }
    for options in ({}, {"use_dictionary": False}, {"data_page_version": "2.0"}, LATER):
        data = packed(columns, row_group_size=700, write_page_index=True, **options)
        plain = pq.ParquetFile(io.BytesIO(data)).read().to_pylist()
        assert [row.value for row in file_rows("a.parquet", data)] == plain
        path = tmp_path / "a.parquet"
        path.write_bytes(data)
        assert [row.value for row in table_rows("a.parquet", path)] == plain
        assert len(list(file_documents("a.parquet", path, None))) == rows


def shared_chunks(groups: int) -> bytes:
    """A file whose every group of rows points to the bytes of the first one."""
    table = pa.table({"text": ["one text", "another"]})
    file = io.BytesIO()
    with pq.ParquetWriter(file, table.schema, use_dictionary=False, compression="none") as writer:
        for _ in range(groups):
            writer.write_table(table)
    data = bytearray(file.getvalue())
    starts = [chunk.start for group in chunks_of(bytes(data)) for chunk in group]
    footer = len(data) - footer_size(bytes(data))
    for start in starts[1:]:
        # Thrift writes numbers doubled, seven bits a byte; both must be as long.
        old, new = zigzag(start), zigzag(starts[0])
        padded = new[:-1] + bytes([new[-1] | 128]) + b"\x80" * (len(old) - len(new) - 1) + b"\x00"
        new = new if len(new) == len(old) else padded
        place = data.index(old, footer)
        data[place : place + len(old)] = new
    return bytes(data)


def zigzag(number: int) -> bytes:
    coded, found = number << 1, b""
    while coded > 127:
        found, coded = found + bytes([coded & 127 | 128]), coded >> 7
    return found + bytes([coded])


def test_groups_that_are_the_same_bytes_are_refused_before_they_are_walked() -> None:
    data = shared_chunks(3)
    starts = {chunk.start for group in chunks_of(data) for chunk in group}
    assert len(starts) < 3
    assert "two of its columns are the same bytes" in refusal(data)


def test_a_page_that_reaches_beyond_its_column_is_refused() -> None:
    chunk = Chunk((0,), 0, 2, 4, 20)
    # A page of data, version 1: kind 0, 20 bytes unpacked, 4,000 packed, two values, plain.
    header = bytes([0x15, 0x00, 0x15, 40, 0x15, *zigzag(4_000), 0x2C, 0x15, 4, 0x15, 0, 0x00, 0x00])
    data = b"PAR1" + header + b"x" * 8_000
    with pytest.raises(ValueError, match="a page reaches beyond its column"):
        list(pages_of(data, chunk))
    with pytest.raises(ValueError, match="it ends too early"):
        # A header that goes on and on is read as far as its column goes.
        list(pages_of(b"PAR1" + b"\x15\x00" * 10**6, chunk))


def test_the_end_of_a_header_is_told_by_half_a_byte_as_the_library_does() -> None:
    header = bytes([0x15, 0, 0x15, 4, 0x15, 4, 0x2C, 0x15, 4, 0x15, 0, 0x10, 0xF0])
    data = b"PAR1" + header + b"xx"
    [page] = pages_of(data, Chunk((0,), 0, 2, 4, len(header) + 2))
    assert (page.values, page.encoding, data[page.packed]) == (2, 0, b"xx")
