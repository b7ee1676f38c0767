"""A page that shows the app in a frame: another site's gets nothing to click on, the app's own
does."""

from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.conftest import READY, OpenApp
from tests.support.server import HOST

pytestmark = pytest.mark.browser


@contextmanager
def site(page: str) -> Iterator[int]:
    """The port of a site on this machine that has this one page."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(page.encode())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()


@pytest.mark.parametrize("name", [HOST, "127.0.0.1", "localhost"])
def test_another_sites_frame_shows_nothing_of_the_app(
    browser: Browser, app_address: str, name: str
) -> None:
    context = browser.new_context()
    page = context.new_page()
    try:
        with site(f'<iframe src="{app_address}/unlearn"></iframe>') as port:
            with page.expect_console_message(lambda said: "frame-ancestors 'self'" in said.text):
                page.goto(f"http://{name}:{port}/")
            (frame,) = page.main_frame.child_frames
            frame.wait_for_url("chrome-error://chromewebdata/")
            assert frame.get_by_test_id("stApp").count() == 0
    finally:
        context.close()


def test_the_apps_own_frame_shows_it(open_app: OpenApp, app_address: str) -> None:
    page = open_app("data_model")
    page.evaluate(
        """address => {
          const frame = document.createElement('iframe');
          [frame.id, frame.src, frame.width, frame.height] = ['own', address, 900, 900];
          document.body.prepend(frame);
        }""",
        f"{app_address}/routing_map",
    )
    inside = page.frame_locator("#own")
    inside.locator(READY).wait_for()
    expect(inside.get_by_role("heading", name="Where do they differ?")).to_be_visible()
