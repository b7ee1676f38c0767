"""Uploads that a stranger might try, in a real session of a browser: markup in rows, a gigabyte."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlparse, urlsplit

import psutil
import pytest
from playwright.sync_api import Page, Request, expect

from tests.browser.conftest import OpenApp, settled
from tests.browser.test_journey import upload
from tests.support.profiles import synthetic_profile
from trace_engine.routing import mismatch
from trace_engine.runs.places import subfolder
from trace_engine.sets import MAX_UPLOAD

TRAPS = (
    "<img src=http://evil.example/a onerror=window.sprung=1>",
    "<script>window.sprung=1</script>",
    "![picture](http://evil.example/b)",
    "<svg onload=window.sprung=1>",
    "[link](javascript:window.sprung=1)",
)


@pytest.mark.browser
@pytest.mark.fault_row(24)
def test_markup_in_rows_is_shown_as_text_and_asks_nobody(
    open_app: OpenApp, tmp_path: Path, screenshot: Callable[[Page, str], object]
) -> None:
    rows = [{"text": f"{trap} and some words about number {n}"} for n, trap in enumerate(TRAPS)]
    hostile = tmp_path / "<img src=x onerror=window.sprung=1>.jsonl"
    hostile.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    page = open_app("data_model")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    upload(page, "forget", hostile)
    expect(page.get_by_text("5 documents")).to_have_count(1)
    page.get_by_role("button", name="Reveal the text").first.click()
    settled(page)
    for trap in TRAPS[:3]:
        expect(page.get_by_text(trap, exact=False).first).to_be_visible()
    screenshot(page, "hostile-rows")
    assert page.evaluate("window.sprung") is None
    main = page.get_by_test_id("stMain")
    assert main.locator("script, svg[onload], img[src*=evil], a[href^=javascript]").count() == 0
    assert {urlparse(url).hostname for url in asked if url.startswith("http")} <= {"localhost"}


def hostile_profile(home: Path, forget: str, retain: str) -> str:
    """The key of a profile whose sets are called that, and whose every token is."""
    key = hashlib.sha256(f"{forget} {retain}".encode()).hexdigest()
    profile = synthetic_profile(layers=(1, 3, 6), experts=8)
    profile = replace(
        profile,
        token_text=dict.fromkeys(profile.token_text, forget),
        meta={**profile.meta, "sets": {"forget": {"name": forget}, "retain": {"name": retain}}},
    )
    folder = subfolder("profiles", home) / key
    profile.save(folder)
    mismatch(profile, permutations=99, bootstrap=100).save(folder)
    return key


PLACE_OF_A_CELL = """([column, row]) => {
  const plot = document.querySelector('.js-plotly-plot'), box = plot.getBoundingClientRect();
  const {xaxis, yaxis} = plot._fullLayout;
  return [box.left + xaxis._offset + xaxis.d2p(column), box.top + yaxis._offset + yaxis.d2p(row)];
}"""


@pytest.mark.browser
@pytest.mark.fault_row(24)
@pytest.mark.parametrize(
    ("forget", "retain"),
    [
        (
            "<img src=http://evil.example/c onerror=window.sprung=1>",
            "<script>window.sprung=1</script>",
        ),
        ('<a href="javascript:window.sprung=1">click</a>', "<a href='http://evil.example/d'>e</a>"),
        ("<b onmouseover=window.sprung=1>bold</b>", "![picture](http://evil.example/f)"),
    ],
)
def test_markup_in_set_names_is_text_under_the_cursor(
    open_app: OpenApp, app_home: Path, forget: str, retain: str
) -> None:
    page = open_app("routing_map", profile=hostile_profile(app_home, forget, retain))
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    plot = page.locator(".js-plotly-plot").first
    expect(plot.locator(".hoverlayer")).to_have_count(1)
    plot.scroll_into_view_if_needed()
    x, y = page.evaluate(PLACE_OF_A_CELL, [4, 1])
    page.mouse.move(x - 40, y + 12)
    page.mouse.move(x, y, steps=10)
    told = plot.locator(".hoverlayer .hovertext")
    expect(told).to_have_count(1)
    expect(told).to_contain_text("layer 3, expert 4")
    # As it was given, and not as what it would be if it were markup.
    for name in (forget, retain):
        assert name in str(told.text_content())
    assert plot.locator("a, img, script, .hoverlayer image").count() == 0  # the heat is an image
    assert [box for box in plot.locator("text, tspan").all_text_contents() if forget in box]
    page.mouse.click(x, y)
    settled(page)
    assert page.evaluate("window.sprung") is None
    assert {urlparse(url).hostname for url in asked if url.startswith("http")} <= {"localhost"}


@pytest.mark.browser
@pytest.mark.fault_row(16)
def test_a_gigabyte_is_refused_at_the_cap_and_costs_no_memory(
    open_app: OpenApp, app_address: str, tmp_path: Path
) -> None:
    """Sent past the browser, which would refuse it too, with the session and token of a page."""
    small = tmp_path / "small.jsonl"
    small.write_text(json.dumps({"text": "a few words"}), encoding="utf-8")
    page = open_app("data_model")
    with page.expect_request(lambda request: "/upload_file/" in request.url) as found:
        upload(page, "forget", small)
    settled(page)
    accepted = found.value
    server = next(
        psutil.Process(connection.pid)
        for connection in psutil.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
        and connection.laddr.port == urlsplit(app_address).port
    )
    before = server.memory_info().rss
    answer, most = put(accepted, 2**30, lambda: server.memory_info().rss - before)
    assert answer == 413
    assert most < 2 * MAX_UPLOAD
    assert put(accepted, 1000, lambda: 0)[0] == 204  # the same way in, for a file that may come


def put(like: Request, size: int, look: Callable[[], int]) -> tuple[int, int]:
    """Send `size` bytes as that request did: the answer's status, and the largest look."""
    url = urlsplit(like.url)
    head = b'--X\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\n'
    tail, block, most = b"\r\n--X--\r\n", b"x" * 2**20, 0
    connection = HTTPConnection(url.netloc, timeout=60)
    connection.putrequest(like.method, url.path)
    kept = {n: v for n, v in like.all_headers().items() if n in ("origin", "cookie", "x-xsrftoken")}
    kept["content-type"] = "multipart/form-data; boundary=X"
    kept["content-length"] = str(len(head) + size + len(tail))
    for name, value in kept.items():
        connection.putheader(name, value)
    connection.endheaders()
    try:
        connection.send(head)
        for start in range(0, size, len(block)):
            connection.send(block[: size - start])
            most = max(most, look())
        connection.send(tail)
    except OSError:
        pass  # answered and hung up before the end, as it may
    status = connection.getresponse().status
    connection.close()
    return status, most
