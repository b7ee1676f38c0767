"""What is handed on: no cell of a CSV is a formula, JSON comes back as it was, and text is text in
pages, figures and cards."""

import csv
import io
import json
import math
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree

import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from app import tables
from trace_engine.audit.html import document, el
from trace_engine.benchmark.figure import _text as svg_text
from trace_engine.benchmark.report import _csv as table_csv
from trace_engine.cli.sweeping import csv_of_points
from trace_engine.csvfile import csv_text
from trace_engine.disk import read_json, strict, write_json
from trace_engine.export.words import plain

FORMULA = ("=", "+", "-", "@", "\t", "\r")
TEXT = st.one_of(
    st.text(max_size=20),
    st.tuples(st.sampled_from([*FORMULA, "a\r=", "a\n=", '",=']), st.text(max_size=8)).map("".join),
    st.sampled_from(
        ["<script>alert(1)</script>", "<img src=x onerror=a>", "&amp;", "]]>", "\x00\x08"]
    ),
)
NUMBERS = st.one_of(st.integers(-9, 9), st.floats(allow_nan=False, allow_infinity=False, width=32))
few = settings(max_examples=100, deadline=None)
WRITERS = {
    "page": lambda frame: tables.to_csv(frame).decode("utf-8-sig"),
    "audit": lambda frame: csv_text(frame.to_dict("records"), list(frame.columns)),
    "table": table_csv,
    "sweep": lambda frame: csv_of_points(frame.to_dict("records")),
}


@pytest.mark.fault_row(25)
@pytest.mark.parametrize("writer", WRITERS)
@few
@given(text=TEXT, number=NUMBERS)
@example(text="a\r=cmd()", number=-1.5)
def test_no_cell_is_a_formula_and_rows_stay_rows(writer: str, text: str, number: float) -> None:
    frame = pd.DataFrame([{"name": text, "value": number}, {"name": "b", "value": 2.0}])
    made = WRITERS[writer](frame)
    header, *rows = list(csv.reader(io.StringIO(made, newline="")))
    assert header == ["name", "value"]
    assert len(rows) == 2
    [shown, value] = rows[0]
    assert not shown.startswith(FORMULA)
    assert shown in (text, f"'{text}")
    assert math.isclose(float(value), number, rel_tol=1e-4, abs_tol=1e-30)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@few
@given(data=JSON)
@example(data={"a": [float("nan"), float("inf"), -0.0], "\ud800": "\ud800"})
def test_json_comes_back_with_null_for_what_json_lacks(
    tmp_path_factory: pytest.TempPathFactory, data: Any
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.json"
    write_json(path, data)
    found = read_json(path)
    assert found == strict(data)
    json.dumps(found, allow_nan=False)


class Seen(HTMLParser):
    """The elements of a page, what they are titled, and the text of its paragraph."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.titles: list[str | None] = []
        self.paragraph = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.titles += [value for name, value in attrs if name == "title"]

    def handle_data(self, data: str) -> None:
        if self.tags[-1:] == ["p"]:
            self.paragraph += data

    def handle_endtag(self, tag: str) -> None:
        if tag == "p":
            self.tags.append("/p")


@few
@given(text=TEXT)
def test_text_is_text_in_a_report(text: str) -> None:
    seen, empty = Seen(), Seen()
    seen.feed(document(text, "", el("p", text, title=text)))
    empty.feed(document("", "", el("p", "", title="")))
    assert seen.tags == empty.tags
    # Nothing is lost or added; what a browser would obey when it shows it is replaced.
    assert seen.titles == [text]
    assert all(
        found == meant or (found == "�" and not meant.isprintable())
        for found, meant in zip(seen.paragraph, text, strict=True)
    )


@few
@given(text=TEXT)
def test_text_is_text_in_a_figure(text: str) -> None:
    [*inner] = ElementTree.fromstring(f"<svg>{svg_text(1, 2, text)}</svg>")
    assert [element.tag for element in inner] == ["text"]
    assert len(inner[0].text or "") == len(text.replace("\r\n", "\n"))


@few
@given(text=TEXT)
def test_text_is_text_in_a_card(text: str) -> None:
    shown = plain(text)
    assert "\n" not in shown
    bare = shown.replace("\\\\", "")
    for mark in "`*_[]<>#|!$&":
        assert bare.count(mark) == bare.count(f"\\{mark}")
