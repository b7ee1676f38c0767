"""Markup of strangers is inert, whatever field it comes through."""

from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tests.audit.cases import small
from trace_engine.audit.html import Markup, document, el
from trace_engine.audit.page import render
from trace_engine.audit.report_file import read_report
from trace_engine.audit.run import Audited, run_audit

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'&\u202e"


class Seen(HTMLParser):
    """Tags and attributes of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.values: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.values += [value or "" for _, value in attrs]


def harmless(page: str) -> None:
    seen = Seen(page)
    assert not seen.tags & {"script", "img", "iframe", "object", "link", "a", "form", "base"}
    assert not {name for name in seen.attributes if name.startswith("on")}
    assert not [v for v in seen.values if "://" in v or "javascript:" in v]
    assert "\u202e" not in page


@pytest.mark.fault_row(24)
def test_text_and_attributes_are_escaped() -> None:
    made = el("p", HOSTILE, title=HOSTILE)
    assert "<script" not in made
    assert 'title="&lt;script' in made
    assert el("p", Markup("<b>x</b>"), "<b>") == "<p><b>x</b>&lt;b&gt;</p>"
    assert el("line", x1=1, stroke_width=2) == '<line x1="1" stroke-width="2"/>'


def test_the_page_forbids_scripts_and_the_outside() -> None:
    page = document("t", "", "body")
    assert "default-src &#x27;none&#x27;" in page
    harmless(page)


def test_every_text_of_a_report_may_be_hostile(finished: Audited) -> None:
    def spoil(value: Any, name: str = "") -> Any:
        if isinstance(value, dict):
            return {key: spoil(inner, key) for key, inner in value.items()}
        if isinstance(value, list):
            return [spoil(inner, name) for inner in value]
        keys = ("on", "model", "verdict", "confidence", "made", "forget_category")
        return HOSTILE if isinstance(value, str) and name not in keys else value

    report = read_report(finished.folder)
    harmless(render(report))
    spoilt = spoil(report)
    page = render(spoilt)
    harmless(page)
    assert page.count("&lt;script&gt;") > 50


def test_hostile_names_reach_the_page_as_text(tmp_path: Path) -> None:
    config = small(
        tmp_path / "sets",
        name=HOSTILE,
        form={"auditor": HOSTILE, "limits": HOSTILE},
        parts=["questions"],
        forget={"source": small(tmp_path / "sets").forget.source, "label": HOSTILE},
    )
    found = run_audit(config, tmp_path / "out", base=tmp_path / "home")
    page = (found.folder / "report.html").read_text(encoding="utf-8")
    harmless(page)
    assert page.count("&lt;img src=x onerror=alert(1)&gt;") >= 4


def test_drift_and_every_excess_are_on_the_page(finished: Audited) -> None:
    page = (finished.folder / "report.html").read_text("utf-8")
    row = finished.report["parts"]["drift"]["summary"]["rows"][0]
    assert f"{row['overlap']:.3f} [{row['low']:.3f}, {row['high']:.3f}]" in page
    drawn = page.partition("Answered beyond the yardstick")[2].partition("</figure>")[0]
    for name in ("asked plainly", "8 bits", "prefix 1", "relearning, the routers alone"):
        assert name in drawn, name
