"""Every number a page shows is spelled one way: no-break space before a unit, a real minus."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from app import navigation, wording
from tests.app.stored import eval_row, train_row, write_run

PAGES = [name for group in navigation.GROUPS.values() for name, _, _ in group]
WRONG = re.compile(
    r"\d%"  # no space before the sign
    r"|\d (%|pp)"  # a space that may break
    r"|(^|[\s(])-\d"  # a hyphen for a minus
)


def texts(app: AppTest) -> Iterator[str]:
    """Everything a person reads on the page outside tables: text, figures' titles and captions."""
    blocks: list[Any] = [*app.markdown, *app.caption, *app.text, *app.warning, *app.info]
    yield from (str(block.value) for block in blocks)
    for metric in app.metric:
        yield from (metric.label, metric.value, metric.help)
    for chart in app.get("plotly_chart"):
        yield from titles(json.loads(chart.proto.spec))
        yield chart.proto.alt


def titles(part: Any) -> Iterator[str]:
    """Titles, axis names and notes of a figure."""
    for name, value in part.items() if isinstance(part, dict) else ():
        if name == "text" and isinstance(value, str):
            yield value
        yield from titles(value)
    for value in part if isinstance(part, list) else ():
        yield from titles(value)


@pytest.mark.parametrize("page", PAGES)
def test_numbers_on_every_page(
    trace_home: Path, open_page: Callable[..., AppTest], page: str
) -> None:
    rows = [eval_row(0, 0.9, 0.9), train_row(1), train_row(2), eval_row(2, 0.5, 0.85)]
    weights = {"rule": "exact", "diagnostics": {"ess_share": 0.47, "hardness": 1, "max_weight": 2}}
    run = write_run(trace_home, rows, facts={"weights": weights})
    # Rare experts: their gaps and intervals go below zero.
    address = {"layer": "0", "expert": "1", "sel": '{"scope":"threshold","threshold":-0.1}'}
    app = open_page(page, run=run.id, **address)
    assert not app.exception
    shown = [text for text in texts(app) if text]
    assert len(shown) > 5
    assert [text for text in shown if WRONG.search(text)] == []


def test_spelling() -> None:
    assert wording.percent(0.4664) == "46.6\N{NO-BREAK SPACE}%"
    assert wording.percent(0.5, 0) == "50\N{NO-BREAK SPACE}%"
    assert wording.percent(float("nan")) == "not computable"
    assert wording.points(-0.0123) == "\N{MINUS SIGN}1.2\N{NO-BREAK SPACE}pp"
    # What rounds to nothing has no sign that would say otherwise.
    assert wording.points(-0.0001) == "+0.0\N{NO-BREAK SPACE}pp"
    assert wording.interval(-0.01, 0.02).endswith("CI \N{MINUS SIGN}1.0 to 2.0")
    assert wording.number(-1e-5, ".1e") == "\N{MINUS SIGN}1.0e\N{MINUS SIGN}05"
