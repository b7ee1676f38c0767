"""Every format read, every bad file refused with its own sentence, and nothing else ever raised."""

from __future__ import annotations

import codecs
import csv
import io
import json
from contextlib import suppress

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trace_engine.errors import InputError
from trace_engine.sets import SUFFIXES, Document, parse_documents, safe_label, to_jsonl
from trace_engine.sets import parse as parse_module


def texts(name: str, data: bytes | str, **options: object) -> list[str]:
    raw = data.encode() if isinstance(data, str) else data
    return [d.text for d in parse_documents(name, raw, **options)]  # type: ignore[arg-type]


def refusal(name: str, data: bytes | str, **options: object) -> str:
    with pytest.raises(InputError) as caught:
        texts(name, data, **options)
    assert str(caught.value).endswith("Nothing was saved.")
    return str(caught.value)


def parquet(**columns: list[object]) -> bytes:
    stream = io.BytesIO()
    pq.write_table(pa.table(columns), stream)
    return stream.getvalue()


def test_a_text_file_is_its_paragraphs_or_itself() -> None:
    assert texts("a.txt", "one\ntwo\n") == ["one\ntwo"]
    assert texts("a.txt", "\n\none\ntwo\n \t\n\n three\r\n\r\nfour") == [
        "one\ntwo",
        "three",
        "four",
    ]


def test_json_lines_of_objects_strings_and_plain_text() -> None:
    assert texts("a.jsonl", '{"text": "a"}\n\n"b"\r\n{"text": "c\\u2028c"}') == [
        "a",
        "b",
        "c\u2028c",
    ]
    assert texts("a.jsonl", 'plain\n"Hello," he said.\n42\n') == [
        "plain",
        '"Hello," he said.',
        "42",
    ]
    assert texts("a.jsonl", '"Hello," he said.\n"Yes."') == ['"Hello," he said.', '"Yes."']


def test_json() -> None:
    assert texts("a.json", ' [{"content": "a"},\n {"content": "b"}]\n') == ["a", "b"]
    assert texts("a.json", '["a", "b"]') == ["a", "b"]
    assert texts("a.json", '{"document":\n "a"}') == ["a"]
    assert texts("a.json", '{"text": "a"}\n{"text": "b"}\n') == ["a", "b"]


def test_csv() -> None:
    assert texts("a.csv", 'id,text\n1,"a, ""b""\nc"\n2,d\n') == ['a, "b"\nc', "d"]
    assert texts("a.csv", "id;text\n1;a, b\n") == ["a, b"]
    assert texts("a.csv", "text\tid\r\nx\t7\r\n") == ["x"]
    long = "x" * 200_000
    limit = csv.field_size_limit()
    assert texts("a.csv", f"text\n{long}\n") == [long]
    assert csv.field_size_limit() == limit


def test_parquet() -> None:
    assert texts("a.parquet", parquet(text=["a", "b"], other=[1, 2])) == ["a", "b"]
    assert texts("a.parquet", parquet(text=["a", " ", "b"])) == ["a", "b"], (
        "blank rows are left out"
    )


def test_prompts_are_kept() -> None:
    tofu = json.dumps({"question": "Who?", "answer": "She.", "paraphrased_answer": "Her."})
    assert parse_documents("a.jsonl", tofu.encode()) == [Document("1", "Who? She.", "Who?")]
    muse = json.dumps({"prompt": "It was ", "gt": "late", "id": "m1"})
    assert parse_documents("a.jsonl", muse.encode()) == [Document("m1", "It was late", "It was ")]


def test_the_text_field_is_found_or_named() -> None:
    row = json.dumps({"title": "t", "content": "c", "body": "b"})
    assert texts("a.jsonl", row) == ["c"]
    assert texts("a.jsonl", row, text_field="body") == ["b"]
    assert 'a.jsonl, line 1: has no field "abstract"; it has title, content, body.' in refusal(
        "a.jsonl", row, text_field="abstract"
    )
    assert "no field holds the text" in refusal("a.jsonl", '{"title": "t"}')
    question = json.dumps({"question": "?", "choices": ["a", "b"], "answer": 0})
    assert "multiple-choice question" in refusal("a.jsonl", question)


def test_limit_takes_the_first() -> None:
    assert texts("a.jsonl", "a\nb\nc", limit=2) == ["a", "b"]


def test_ids_are_the_rows_own_or_numbers_and_never_repeat() -> None:
    rows = [
        {"id": "x", "text": "a"},
        {"text": "b"},
        {"id": "x", "text": "c"},
        {"id": 0, "text": "d"},
    ]
    data = "\n".join(map(json.dumps, rows)).encode()
    assert [d.id for d in parse_documents("a.jsonl", data)] == ["x", "2", "x#2", "0"]


@pytest.mark.fault_row(15)
@pytest.mark.parametrize(
    ("name", "data", "where"),
    [
        (
            "a.jsonl",
            '{"text": "a"}\n\n{"text": 42}\n',
            'a.jsonl, line 3: "text" is a number (42). Each',
        ),
        (
            "a.jsonl",
            '{"text": "a"}\n{"txet": "b"}\n',
            'a.jsonl, line 2: "text" is missing. Each row',
        ),
        (
            "a.jsonl",
            '{"text": "a"}\n{"text": null}\n',
            'a.jsonl, line 2: "text" is null. Each row needs',
        ),
        (
            "a.jsonl",
            '{"text": "a"}\n{"text": " "}\n',
            'a.jsonl, line 2: "text" is empty. Each row needs',
        ),
        (
            "a.jsonl",
            '{"text": "a"}\nplain\n',
            "a.jsonl, line 2: expected a JSON object or string a line",
        ),
        (
            "a.jsonl",
            '{"text": "a"\n',
            "a.jsonl, line 1: expected a JSON object or string a line, found",
        ),
        (
            "a.jsonl",
            '{"text": "a"}\n[1]',
            "a.jsonl, line 2: expected an object or a string, found a list",
        ),
        ("a.jsonl", '{"text": "a"}\n' + "[" * 100_000, "a.jsonl, line 2: expected a JSON object"),
        ("a.jsonl", '{"text": "\\ud800"}', 'a.jsonl, line 1: "text" holds half a character'),
        ("a.json", '[{"text": "a"},\n\n {"text": 1}]', 'a.json, line 3: "text" is a number (1).'),
        (
            "a.json",
            '["a"\n "b"]',
            "a.json, line 2: expected a comma or the end of the list, found '\"'",
        ),
        ("a.json", '["a",\n', "a.json, line 2: expected a JSON list of objects or strings"),
        (
            "a.json",
            '["a"',
            "a.json, line 1: expected a comma or the end of the list, found 'the end of",
        ),
        ("a.json", '["a"] x', "a.json, line 1: expected a comma or the end of the list, found ']'"),
        (
            "a.json",
            '{"text": "a"}\n{"text": "b"',
            "a.json, line 2: expected a JSON list, or an object",
        ),
        ("a.json", "7", "a.json, line 1: expected an object or a string, found a number (7)."),
        (
            "a.csv",
            'id,text\n1,"a\nb"\n2\n',
            "a.csv, line 4: expected 2 cells like the header, found 1.",
        ),
        ("a.csv", 'id,text\n1,"a\n', "a.csv, line 2: not readable CSV (unexpected end of data)."),
        (
            "a.csv",
            "id,text\n1,a\n2,\n",
            'a.csv, line 3: "text" is empty. Each row needs non-empty text.',
        ),
    ],
)
def test_a_malformed_row_is_named_by_file_and_physical_line(
    name: str, data: str, where: str
) -> None:
    assert where in refusal(name, data)


@pytest.mark.fault_row(15)
def test_a_malformed_parquet_row_or_file() -> None:
    assert 'a.parquet, row 2: "text" is null.' in refusal("a.parquet", parquet(text=["a", None]))
    assert "a.parquet: not a readable Parquet file" in refusal("a.parquet", b"PAR1 nonsense PAR1")


@pytest.mark.fault_row(17)
@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".json", ".csv"])
def test_a_binary_file_is_refused_with_the_byte_offset(suffix: str) -> None:
    png = b"\x89PNG\r\n\x1a\n\x00\x00"
    assert f"a{suffix}: byte 10 (0x00) is not UTF-8 text" in refusal(f"a{suffix}", b"ab" + png)
    assert f"a{suffix}: byte 3 (0xff) is not UTF-8 text" in refusal(f"a{suffix}", b"abc\xff\xfe")
    marked = codecs.BOM_UTF8 + b"abc\xff"
    assert f"a{suffix}: byte 6 (0xff) is not UTF-8 text" in refusal(f"a{suffix}", marked)


@pytest.mark.fault_row(17)
def test_a_byte_order_mark_is_accepted() -> None:
    assert texts("a.jsonl", codecs.BOM_UTF8 + b'{"text": "a"}') == ["a"]
    assert texts("a.csv", codecs.BOM_UTF8 + b"text\na\n") == ["a"]
    assert texts("a.txt", "é\n\nb".encode("utf-16")) == ["é", "b"]


@pytest.mark.fault_row(18)
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_empty_file(suffix: str) -> None:
    assert f"a{suffix} is empty." in refusal(f"a{suffix}", b"")
    assert f"a{suffix} is empty." in refusal(f"a{suffix}", b" \n\n")


@pytest.mark.fault_row(18)
@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.json", b"[]"),
        ("a.csv", b"id,text\n"),
        ("a.txt", codecs.BOM_UTF8 + b"\n \n"),
        ("a.parquet", parquet(text=["", " "])),
        ("a.parquet", parquet(text=[])),
    ],
)
def test_a_file_whose_every_row_is_empty(name: str, data: bytes) -> None:
    assert f"{name} has no documents: every row is empty." in refusal(name, data)


def test_an_unknown_ending_is_refused_with_those_there_are() -> None:
    message = refusal("set.docx", b"PK")
    assert "set.docx: expected a file that ends in .txt, .jsonl, .json, .csv, .parquet" in message
    assert "found no ending" in refusal("set", b"x")


@pytest.mark.fault_row(16)
def test_an_upload_over_the_cap_is_refused_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parse_module, "MAX_UPLOAD", 2**20)
    assert "a.txt has 2 MB; an upload may have 1 MB." in refusal("a.txt", b"\xff" * 2**21)


@pytest.mark.fault_row(23)
@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("../../etc/passwd.txt", "passwd.txt"),
        ("C:\\temp\\a.jsonl", "a.jsonl"),
        ("/abs/a.txt", "a.txt"),
        ("a\0b\n.txt", "ab.txt"),
        ("..", "unnamed"),
        ("", "unnamed"),
        ("x" * 300 + ".txt", "x" * 80 + "….txt"),
        ("x" * 300, "x" * 100),
    ],
)
def test_names_are_labels(name: str, label: str) -> None:
    assert safe_label(name) == label


@given(st.text())
def test_a_label_is_always_short_and_never_a_path(name: str) -> None:
    label = safe_label(name)
    assert 0 < len(label) <= 100
    assert not set(label) & set("/\\\0\n")
    assert label.strip(".")


anything = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)


@given(st.lists(st.tuples(anything, st.booleans()), min_size=1, max_size=8))
def test_saved_json_lines_read_back_unchanged(rows: list[tuple[str, bool]]) -> None:
    documents = [
        Document(f"id {n}", text, text[:1] if prompted else None)
        for n, (text, prompted) in enumerate(rows)
    ]
    assert parse_documents("a.jsonl", to_jsonl(documents)) == documents


cells = anything.filter(lambda text: not set(text) & set("\r\0"))


@given(st.lists(cells, min_size=1, max_size=8))
def test_csv_reads_back_unchanged(rows: list[str]) -> None:
    stream = io.StringIO(newline="")
    csv.writer(stream).writerows([["id", "text"], *[[n, text] for n, text in enumerate(rows)]])
    assert texts("a.csv", stream.getvalue()) == rows


@settings(max_examples=300)
@given(st.sampled_from([*SUFFIXES, ".docx", ""]), st.binary(max_size=200))
def test_arbitrary_bytes_raise_nothing_but_an_input_error(suffix: str, data: bytes) -> None:
    with suppress(InputError):
        documents = parse_documents(f"a{suffix}", data)
        assert documents
        assert all(document.text.strip() for document in documents)


json_like = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["text", "question", "answer", "id", "prompt"]), inner)
    ),
    max_leaves=8,
)


@settings(max_examples=100)
@given(st.sampled_from([".jsonl", ".json", ".csv"]), st.lists(json_like, max_size=4))
def test_arbitrary_rows_raise_nothing_but_an_input_error(suffix: str, rows: list[object]) -> None:
    data = "\n".join(map(json.dumps, rows)) if suffix == ".jsonl" else json.dumps(rows)
    with suppress(InputError):
        assert parse_documents(f"a{suffix}", data.encode())
