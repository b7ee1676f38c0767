"""The shell in a real browser: a deep link to a cold server, and nothing leaves the machine."""

from collections.abc import Callable
from urllib.parse import urlparse

import pytest
from playwright.sync_api import Browser, Page

from tests.browser.conftest import OpenApp, settled

pytestmark = pytest.mark.browser


def test_a_deep_link_to_a_cold_server_has_its_navigation(open_app: OpenApp) -> None:
    page = open_app("data_model")
    page.wait_for_selector("text=What am I comparing?", timeout=60_000)
    page.wait_for_selector('[data-testid="stSidebarNav"] >> text=Routing map', timeout=60_000)


@pytest.mark.fault_row(24)
@pytest.mark.parametrize("name", ["", "data_model", "routing_map", "expert"])
def test_no_page_asks_another_machine_for_anything(
    browser: Browser, app_address: str, name: str, screenshot: Callable[[Page, str], object]
) -> None:
    asked: list[str] = []
    page = browser.new_page()
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{app_address}/{name}")
    page.wait_for_selector("h1", timeout=60_000)
    settled(page)
    page.wait_for_load_state("networkidle")
    hosts = {urlparse(url).hostname for url in asked if url.startswith(("http", "ws"))}
    assert hosts == {"localhost"}
    screenshot(page, f"shell-{name or 'start'}")
    page.close()
