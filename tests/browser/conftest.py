"""The running app in a headless Chromium: one server a session, one fresh browser context a call.

`open_app("routing_map", theme="dark", width=400, layer="2", expert="13")` returns a Playwright page
on which the script has finished. Trade-off: it needs a Chromium on the path, and says so.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.support.server import chromium, find_chromium, serve

READY = '[data-testid="stApp"][data-test-script-state="notRunning"]'
OpenApp = Callable[..., Page]
expect.set_options(timeout=30_000)


def settled(page: Page) -> Page:
    """The page once its script has finished."""
    page.wait_for_selector(READY, timeout=60_000)
    return page


@pytest.fixture(scope="session")
def app_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The TRACE_HOME of the app under test."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="session")
def app_address(app_home: Path) -> Iterator[str]:
    """Where the app answers."""
    with serve(app_home) as address:
        yield address


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Headless Chromium. Skipped without one on a user's machine; CI installs it and demands it."""
    if find_chromium() is None:
        message = "No Chromium on the path (Debian: apt-get install chromium)."
        if os.environ.get("TRACE_REQUIRE_BROWSER"):
            pytest.fail(message)
        pytest.skip(message)
    with chromium() as launched:
        yield launched


@pytest.fixture
def open_app(browser: Browser, app_address: str) -> Iterator[OpenApp]:
    """Open a page of the app: `open_app(page, theme=, width=, **query parameters)`."""
    contexts = []

    def open_(page: str = "", theme: str = "light", width: int = 1280, **query: str) -> Page:
        context = browser.new_context(
            color_scheme="dark" if theme == "dark" else "light",
            viewport={"width": width, "height": 900},
            accept_downloads=True,
        )
        contexts.append(context)
        tab = context.new_page()
        tab.goto(f"{app_address}/{page}" + (f"?{urlencode(query)}" if query else ""))
        return settled(tab)

    yield open_
    for context in contexts:
        context.close()


@pytest.fixture(scope="session")
def screenshot(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Page, str], Path]:
    """Keep a full-page picture; TRACE_SCREENSHOTS names the folder, else a temporary one."""
    named = os.environ.get("TRACE_SCREENSHOTS")
    folder = Path(named) if named else tmp_path_factory.mktemp("screenshots")
    folder.mkdir(parents=True, exist_ok=True)

    def take(page: Page, name: str) -> Path:
        path = folder / f"{name}.png"
        # The app scrolls inside its own container, so the window is made as tall as the content.
        height = page.evaluate("document.querySelector('[data-testid=\"stMain\"]').scrollHeight")
        window = page.viewport_size or {"width": 1280, "height": 900}
        page.set_viewport_size({**window, "height": max(900, int(height) + 20)})
        settled(page).screenshot(path=path)
        # A person's window stays as it was; what comes after is seen as they see it.
        page.set_viewport_size(window)
        return path

    return take
