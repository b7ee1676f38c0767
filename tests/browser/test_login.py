"""A server for a team: a real login at a real provider, in a real browser, behind a proxy."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import settled
from tests.support.provider import CLIENT, SECRET, Forged, Provider, provider
from tests.support.proxy import Proxy, proxy
from tests.support.server import Server, free_port, server

pytestmark = [pytest.mark.browser, pytest.mark.slow]
COOKIE_SECRET = "a-secret-for-the-tests-cookie-0123456789"


@dataclass(frozen=True)
class Team:
    """What a team has: a provider, the app, and the address in front of it."""

    provider: Provider
    server: Server
    proxy: Proxy
    address: str


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    home, outside, inside = tmp_path_factory.mktemp("team"), free_port(), free_port()
    address = f"http://localhost:{outside}/trace"
    with provider() as found, proxy(inside, "trace", outside) as front:
        secrets = home / "secrets.toml"
        secrets.write_text(
            f'[auth]\nredirect_uri = "{address}/oauth2callback"\n'
            f'cookie_secret = "{COOKIE_SECRET}"\nclient_id = "{CLIENT}"\n'
            f'client_secret = "{SECRET}"\n'
            f'server_metadata_url = "{found.issuer}/.well-known/openid-configuration"\n',
            encoding="utf-8",
        )
        with server(
            home,
            port=inside,
            base_path="trace",
            options=["--secrets.files", str(secrets)],
            environment={"TRACE_LOGIN": "1"},
        ) as served:
            yield Team(found, served, front, address)


@pytest.fixture
def tab(browser: Browser, team: Team) -> Iterator[Page]:
    """A fresh browser on the front address."""
    team.provider.forged, team.provider.person = "", "anna"
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.goto(f"{team.address}/routing_map")
    page.get_by_role("button", name="Log in").wait_for()
    yield settled(page)
    context.close()


def test_who_is_known_gets_in_and_out_again(
    tab: Page, team: Team, screenshot: Callable[[Page, str], Path]
) -> None:
    upgrades, ended = team.proxy.upgrades, team.provider.ended
    assert "Routing map" not in tab.inner_text("body")
    screenshot(tab, "login")
    tab.get_by_role("button", name="Log in").click()
    tab.get_by_role("button", name="Log out").wait_for()
    expect(tab.get_by_role("heading", level=1)).to_be_visible()
    assert "Routing map" in settled(tab).inner_text('[data-testid="stSidebar"]')
    assert tab.url.startswith(team.address)
    assert team.proxy.upgrades > upgrades
    # The cookie is out of reach of scripts, and of any path but the app's.
    (cookie,) = (c for c in tab.context.cookies() if c.get("name") == "_streamlit_user")
    assert (cookie.get("httpOnly"), cookie.get("path")) == (True, "/trace")
    tab.get_by_role("button", name="Log out").click()
    tab.get_by_role("button", name="Log in").wait_for()
    assert team.provider.ended == ended + 1
    tab.goto(f"{team.address}/unlearn")
    tab.get_by_role("button", name="Log in").wait_for()
    assert "Past runs" not in tab.inner_text("body")


@pytest.mark.parametrize("forged", [name for name in get_args(Forged) if name])
def test_a_token_that_is_not_the_providers_lets_nobody_in(
    tab: Page, team: Team, forged: Forged
) -> None:
    team.provider.forged = forged
    issued = team.provider.issued
    tab.get_by_role("button", name="Log in").click()
    tab.wait_for_url(f"{team.address}/")
    tab.get_by_role("button", name="Log in").wait_for()
    assert "Routing map" not in settled(tab).inner_text("body")
    assert not [c for c in tab.context.cookies() if c.get("name") == "_streamlit_user"]
    assert team.provider.issued == issued + 1
    assert SECRET not in tab.content()


def test_a_cookie_of_ones_own_making_lets_nobody_in(tab: Page, team: Team) -> None:
    made = '{"is_logged_in": true, "sub": "anna"}'
    tab.context.add_cookies([{"name": "_streamlit_user", "value": made, "url": f"{team.address}/"}])
    tab.goto(f"{team.address}/unlearn")
    tab.get_by_role("button", name="Log in").wait_for()
    assert "Past runs" not in settled(tab).inner_text("body")


def test_everything_goes_through_the_path_of_the_app(tab: Page, team: Team) -> None:
    assert [path for path in team.proxy.elsewhere if path != "/favicon.ico"] == []
