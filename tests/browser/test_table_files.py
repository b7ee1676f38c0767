"""What a table on a page can be taken away as, in a real browser."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import settled
from tests.support.server import ROOT, serve

SCRIPT = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
import pandas as pd
from app import tables

hostile = pd.DataFrame({{"name": ["=cmd()", "@x", "-1+1", "plain"], "value": [-1.5, 2, 3, 4]}})
tables.show(hostile, "hostile", alt="Names that begin like formulas.")
"""


@pytest.fixture
def page(browser: Browser, tmp_path: Path) -> Iterator[Page]:
    """A page with one table, served with the shipped settings."""
    script = tmp_path / "entry.py"
    script.write_text(SCRIPT, encoding="utf-8")
    with serve(tmp_path, script=script) as address:
        context = browser.new_context(viewport={"width": 1280, "height": 800})
        context.grant_permissions(["clipboard-read", "clipboard-write"])
        opened = context.new_page()
        opened.goto(address)
        opened.get_by_test_id("stDataFrame").wait_for()
        yield settled(opened)
        context.close()


@pytest.mark.browser
@pytest.mark.fault_row(25)
def test_a_tables_toolbar_writes_no_formulas(page: Page) -> None:
    table = page.get_by_test_id("stDataFrame")
    table.hover()
    toolbar = page.get_by_test_id("stElementToolbar").filter(has=page.get_by_label("Search:"))
    expect(toolbar).to_be_visible()
    offered = [
        (button.get_attribute("aria-label") or "").partition(":")[0]
        for button in toolbar.get_by_role("button").all()
    ]
    assert offered == ["Show/hide columns", "Search", "Fullscreen"]

    page.evaluate("navigator.clipboard.writeText('before')")
    box = table.bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + 60, box["y"] + 50)
    page.keyboard.press("Control+A")
    page.keyboard.press("Control+C")
    assert page.evaluate("navigator.clipboard.readText()") == "before"

    page.get_by_role("button", name="Download").click()
    with page.expect_download() as begun:
        page.get_by_role("button", name="hostile.csv").click()
    text = begun.value.path().read_text("utf-8-sig")
    assert list(csv.reader(io.StringIO(text, newline=""))) == [
        ["name", "value"],
        ["'=cmd()", "-1.5"],
        ["'@x", "2.0"],
        ["'-1+1", "3.0"],
        ["plain", "4.0"],
    ]
