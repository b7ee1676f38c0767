"""A sweep as a person makes it: launched, left, found again, its points arriving by themselves."""

from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import OpenApp, settled
from tests.browser.test_journey import WORKER_LIMIT_MS, Screenshot, in_address
from trace_engine.runs import open_run
from trace_engine.sweeps import open_sweep, outcomes

pytestmark = [pytest.mark.browser, pytest.mark.timeout(420)]
POINT_SCRIPT = """() => {
  const plot = document.querySelector('.js-plotly-plot');
  plot.scrollIntoView({block: 'center'});
  const box = plot.getBoundingClientRect(), {xaxis, yaxis} = plot._fullLayout;
  const trace = plot._fullData.find(data => data.name === 'exact');
  return [box.left + xaxis._offset + xaxis.d2p(trace.x[0]),
          box.top + yaxis._offset + yaxis.d2p(trace.y[0])];
}"""
"""Where on the screen the first point of the rule `exact` is."""


@pytest.mark.slow
def test_a_sweep_from_launch_to_a_points_run(
    open_app: OpenApp, app_home: Path, screenshot: Screenshot
) -> None:
    # Few and large steps: the points must differ, and mean nothing.
    settings = {"u_max_steps": "4", "u_every": "4", "u_most": "10", "u_learning_rate": "0.01"}
    varied = {"u_mode": "a sweep", "sw_top_k": "1", "sw_rules": "uniform,exact"}
    page = open_app("unlearn", **settings, **varied, sw_hardness="auto")
    expect(page.get_by_text("2 runs.")).to_be_visible()
    page.get_by_role("button", name="Launch the sweep").click()
    expect(page.get_by_text("0 of 2 points")).to_be_visible()
    sweep = in_address(page, "sweep")
    assert sweep is not None
    page.context.close()  # the browser is closed; the sweep is not

    page = open_app("unlearn", sweep=sweep)
    # Nothing is clicked or loaded again from here: both points come by themselves.
    expect(page.locator(".js-plotly-plot")).to_be_visible(timeout=WORKER_LIMIT_MS)
    expect(page.get_by_text("All 2 runs are done.")).to_be_visible(timeout=WORKER_LIMIT_MS)
    expect(page.locator(".js-plotly-plot").get_by_text("2 of 2 points;")).to_be_visible()
    settled(page)
    screenshot(page, "sweep")
    points = outcomes(open_sweep(sweep, app_home))
    assert [point.label for point in points] == ["uniform", "top-k 1, exact, κ auto"]
    page.mouse.click(*page.evaluate(POINT_SCRIPT))
    page.wait_for_url(lambda address: f"run={points[1].run}" in address)
    settled(page)
    expect(page.get_by_role("heading", name="top-k 1, exact, κ auto")).to_be_visible()
    assert open_run(str(points[1].run), app_home).sweep() == sweep
