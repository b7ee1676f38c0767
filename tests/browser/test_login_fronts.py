"""A login as a team has it: a browser, nginx or Caddy with TLS as SECURITY.md writes them down, and
a provider."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from playwright.sync_api import Browser, Page

from tests.browser.conftest import settled
from tests.support.fronts import FRONTS, front, missing
from tests.support.provider import CLIENT, SECRET, Provider, provider
from tests.support.server import HOST, free_port, server

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@dataclass(frozen=True)
class Team:
    """What a team has: a provider, and the address that its people type."""

    provider: Provider
    address: str


@pytest.fixture(scope="module", params=FRONTS)
def team(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Team]:
    """Skipped where a front is not installed: it belongs to whoever serves a team, not to us."""
    if lacking := missing(request.param):
        pytest.skip(f"not installed: {', '.join(lacking)}")
    home, inside = tmp_path_factory.mktemp("team"), free_port()
    folder = tmp_path_factory.mktemp(request.param)
    with provider() as found, front(request.param, folder, inside) as before:
        secrets = home / "secrets.toml"
        secrets.write_text(
            f'[auth]\nredirect_uri = "{before.address}/oauth2callback"\n'
            'cookie_secret = "a-secret-for-the-tests-cookie-0123456789"\n'
            f'client_id = "{CLIENT}"\nclient_secret = "{SECRET}"\n'
            f'server_metadata_url = "{found.issuer}/.well-known/openid-configuration"\n',
            encoding="utf-8",
        )
        with server(
            home,
            port=inside,
            base_path="trace",
            options=["--browser.serverAddress", HOST, "--secrets.files", str(secrets)],
            environment={"TRACE_LOGIN": "1"},
        ):
            yield Team(found, before.address)


@pytest.fixture
def tab(browser: Browser, team: Team) -> Iterator[Page]:
    """A fresh browser that takes the test's own certificate for the public one."""
    team.provider.forged = ""
    context = browser.new_context(ignore_https_errors=True)
    page = context.new_page()
    page.goto(f"{team.address}/routing_map")
    page.get_by_role("button", name="Log in").wait_for()
    yield settled(page)
    context.close()


def test_who_is_known_gets_in_and_out_again(tab: Page, team: Team) -> None:
    ended = team.provider.ended
    assert "Routing map" not in tab.inner_text("body")
    tab.get_by_role("button", name="Log in").click()
    tab.get_by_role("button", name="Log out").wait_for()
    assert "Routing map" in settled(tab).inner_text('[data-testid="stSidebar"]')
    assert tab.url.startswith(team.address)
    # Over TLS the cookie is this path's alone, and out of reach of scripts.
    (cookie,) = (c for c in tab.context.cookies() if c.get("name") == "_streamlit_user")
    assert (cookie.get("httpOnly"), cookie.get("path")) == (True, "/trace")
    # A page that is opened anew still knows the person.
    tab.goto(f"{team.address}/unlearn")
    tab.get_by_role("button", name="Log out").wait_for()
    tab.get_by_role("button", name="Log out").click()
    tab.get_by_role("button", name="Log in").wait_for()
    assert team.provider.ended == ended + 1


def test_a_token_of_another_key_lets_nobody_in(tab: Page, team: Team) -> None:
    team.provider.forged = "key"
    issued = team.provider.issued
    tab.get_by_role("button", name="Log in").click()
    tab.wait_for_url(f"{team.address}/")
    tab.get_by_role("button", name="Log in").wait_for()
    assert team.provider.issued == issued + 1
    assert "Routing map" not in settled(tab).inner_text("body")
