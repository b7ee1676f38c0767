"""Two tabs and a server that dies: the faults of a run's door, in a real browser.

The server is this test's own, so that it can be killed. Accepted trade-off: a real worker computes
beside the browser, so this is one of the slow tests; the same doors have quick ones of their own.
"""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import settled
from tests.browser.test_journey import WORKER_LIMIT_MS, in_address, live_card
from tests.support.server import server
from trace_engine.runs import RunDirectory, list_runs, stop

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]
SETTINGS = "u_max_steps=2000&u_every=2&u_most=20"


def press_in_both(tabs: list[Page], button: str) -> None:
    """Both buttons are there before either is pressed, and nothing is waited for in between."""
    buttons = [tab.get_by_role("button", name=button, exact=True) for tab in tabs]
    for each in buttons:
        expect(each).to_be_enabled(timeout=WORKER_LIMIT_MS)
        each.scroll_into_view_if_needed()
    for each in buttons:
        each.dispatch_event("click")


@pytest.fixture
def app_home(tmp_path: Path) -> Iterator[Path]:
    """A home of this test's own, in which nothing is left at work."""
    home = tmp_path / "home"
    home.mkdir()
    yield home
    for run in list_runs(home):
        if run.status.active:
            stop(run.id, home)


@pytest.mark.slow
@pytest.mark.fault_row(5)
@pytest.mark.fault_row(9)
@pytest.mark.fault_row(10)
def test_two_tabs_are_one_run_and_a_killed_server_does_not_end_it(
    browser: Browser, app_home: Path
) -> None:
    home = app_home
    with server(home) as app:
        tabs = [browser.new_page() for _ in range(2)]
        for tab in tabs:
            tab.goto(f"{app.address}/unlearn?{SETTINGS}")
            settled(tab)
        press_in_both(tabs, "Launch")
        for tab in tabs:
            expect(live_card(tab, "accuracy")).to_be_visible(timeout=WORKER_LIMIT_MS)
        (run,) = {in_address(tab, "run") for tab in tabs}
        assert run is not None
        assert [path.name for path in (home / "runs").iterdir() if path.is_dir()] == [run]
        directory = RunDirectory(home / "runs" / run)

        os.kill(app.pid, signal.SIGKILL)
        for tab in tabs:
            tab.close()
    before = len(directory.rows("train"))
    with server(home) as app:
        tabs = [browser.new_page() for _ in range(2)]
        for tab in tabs:
            tab.goto(f"{app.address}/unlearn?run={run}&{SETTINGS}")
            expect(live_card(tab, "accuracy")).to_contain_text(run, timeout=WORKER_LIMIT_MS)
        assert directory.status().attempt == 1
        assert len(directory.rows("train")) > before
        tabs[0].get_by_role("button", name="Stop the run").click()

        press_in_both(tabs, "Resume the run")
        for tab in tabs:
            expect(live_card(tab, "accuracy")).to_be_visible(timeout=WORKER_LIMIT_MS)
        assert directory.status().attempt == 2
        tabs[1].get_by_role("button", name="Stop the run").click()
        expect(tabs[1].get_by_role("button", name="Resume the run")).to_be_visible(
            timeout=WORKER_LIMIT_MS
        )
        for tab in tabs:
            expect(tab.get_by_test_id("stException")).to_have_count(0)
            tab.close()
    assert directory.status().state == "stopped"
