"""The app as a person walks it: the 60-second path, and a path with two sets of one's own.

Each journey is one page of one browser, so that what the pages share (cell, selection, profile,
run) really travels, and ends with a finished run on disk. Pictures of every stop are kept.
Accepted trade-off: a few steps and few questions, so the figures of these runs mean nothing.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qs, urlparse

import numpy as np
import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.conftest import OpenApp, settled
from tests.support.server import CELL_SCRIPT
from trace_engine.config import SetConfig, UnlearnConfig, read_config
from trace_engine.routing import load_mismatch
from trace_engine.runs import RunDirectory
from trace_engine.sets import load_set

pytestmark = [pytest.mark.browser, pytest.mark.timeout(420)]
Screenshot = Callable[[Page, str], Path]
WORKER_LIMIT_MS = 180_000
QUESTIONS = {
    "Data & model": "What am I comparing?",
    "Selection & weights": "What will be calibrated, and how hard?",
    "Unlearn": "Is it forgetting without breaking?",
    "Compare": "Which setting won, and why?",
}
"""Page in the sidebar -> its title."""


def go(page: Page, name: str) -> None:
    """Follow the sidebar, as a person does: the session goes along."""
    page.get_by_test_id("stSidebarNav").get_by_text(name, exact=True).click()
    expect(page.get_by_role("heading", name=QUESTIONS[name], level=1)).to_be_visible()
    settled(page)


def queries(address: str) -> dict[str, list[str]]:
    """What stands in an address after the page."""
    return parse_qs(urlparse(address).query)


def in_address(page: Page, name: str) -> str | None:
    """What the address says about `name`."""
    return queries(page.url).get(name, [None])[0]


def fill_number(page: Page, label: str, name: str, value: int) -> None:
    """Type a number; the page has taken it once the address says so."""
    field = page.get_by_label(label, exact=True)
    field.fill(str(value))
    field.press("Enter")
    page.wait_for_url(lambda address: queries(address).get(name) == [str(value)])
    settled(page)


def click_cell(page: Page, row: int, expert: int) -> None:
    """Click the first map of the page."""
    page.wait_for_selector(".js-plotly-plot .scatterlayer path.point")
    x, y = page.evaluate(CELL_SCRIPT, [expert, row])
    page.mouse.click(x, y)


def stop(page: Page, screenshot: Screenshot, name: str) -> None:
    """A stop of the journey: nothing has failed, and a picture is kept."""
    settled(page)
    expect(page.get_by_test_id("stException")).to_have_count(0)
    screenshot(page, f"journey-{name}")


def launch(page: Page) -> str:
    """Press Launch and return the id of the run that is now in the address."""
    page.get_by_role("button", name="Launch", exact=True).click()
    page.wait_for_url(re.compile(r"[?&]run="))
    run = in_address(page, "run")
    assert run is not None
    return run


def live_card(page: Page, y_label: str) -> Locator:
    """The card of a run that can still be stopped and shows this live curve."""
    return (
        page.get_by_test_id("stVerticalBlock")
        .filter(has=page.get_by_role("button", name="Stop the run"))
        .filter(has=page.get_by_label(f"{y_label} over optimizer steps, live.", exact=True))
        .last
    )


def expect_finished(page: Page, run: str, curve: str, limit: int = WORKER_LIMIT_MS) -> None:
    """The run's finished view: its id, its state, the curve with intervals, nothing live."""
    expect(page.get_by_text("rows in metrics.jsonl")).to_be_visible(timeout=limit)
    expect(page.get_by_role("heading", name=run)).to_be_visible()
    expect(page.locator(".js-plotly-plot .gtitle").first).to_contain_text(curve)
    expect(page.get_by_test_id("stVegaLiteChart")).to_have_count(0)
    expect(page.get_by_role("button", name="Stop the run")).to_have_count(0)


def expect_cell(page: Page, table: str, text: str) -> None:
    """A table's cell; a table that is not on the screen has none, so it is brought there first."""
    region = page.get_by_role("region", name=table)
    region.scroll_into_view_if_needed()
    expect(region.locator("td").filter(has_text=text).first).to_be_attached()


def unlearned(home: Path, run: str) -> tuple[RunDirectory, UnlearnConfig]:
    """A finished run as it lies on disk."""
    directory = RunDirectory(home / "runs" / run)
    assert directory.status().state == "done"
    assert directory.model_folder() is not None
    config = read_config(directory.path / "config.yaml")
    assert isinstance(config, UnlearnConfig)
    return directory, config


def steps(directory: RunDirectory, kind: str) -> list[int]:
    """Steps of one kind of row, as they were appended."""
    lines = (directory.path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [row["step"] for row in map(json.loads, lines) if row["kind"] == kind]


@pytest.mark.slow
def test_the_sixty_second_path(open_app: OpenApp, app_home: Path, screenshot: Screenshot) -> None:
    page = open_app()
    words = page.get_by_role("heading", name=re.compile("The words behind"))
    expect(words).not_to_have_text("The words behind layer 2, expert 5")
    click_cell(page, row=2, expert=5)
    expect(words).to_have_text("The words behind layer 2, expert 5")
    expect(page.locator('[title^="gate weight"]').first).to_be_visible()
    assert (in_address(page, "layer"), in_address(page, "expert")) == ("2", "5")
    stop(page, screenshot, "1-start")

    go(page, "Selection & weights")
    expect(page.get_by_text("8 of 128 experts in 4 of 4 MoE layers are selected")).to_be_visible()
    page.get_by_role("slider", name="Top-k (selected experts)").press("ArrowLeft")
    expect(page.get_by_text("4 of 128 experts in 4 of 4 MoE layers are selected")).to_be_visible()
    # The cell came along from Start.
    expect(page.get_by_role("button", name="Leave L2 E5 out")).to_be_visible()
    stop(page, screenshot, "2-selection")

    go(page, "Unlearn")
    fill_number(page, "Steps", "u_max_steps", 6)
    fill_number(page, "Evaluate every", "u_every", 2)
    fill_number(page, "Questions per group", "u_most", 20)
    run = launch(page)
    expect(live_card(page, "accuracy")).to_be_visible(timeout=WORKER_LIMIT_MS)
    # The list below keeps up with the run above it.
    expect_cell(page, "All runs on this machine", "running")
    stop(page, screenshot, "3-unlearn-live")
    expect_finished(page, run, "Forget accuracy")
    expect_cell(page, "All runs on this machine", "done")
    stop(page, screenshot, "4-unlearn-finished")
    directory, config = unlearned(app_home, run)
    assert steps(directory, "eval") == [0, 2, 4, 6]
    assert steps(directory, "train") == [1, 2, 3, 4, 5, 6]
    assert config.selection.top_k == 1
    assert len(directory.facts()["selection"]["cells"]) == 4
    assert directory.rows("eval")[-1]["accuracy"]["hazard"]["n"] == 20

    # A reload is a new session, which has nothing but the address.
    page.reload()
    expect_finished(page, run, "Forget accuracy")
    expect(page.get_by_label("Steps", exact=True)).to_have_value("6")
    expect(page.get_by_text("4 experts by exact weights")).to_be_visible()

    go(page, "Compare")
    label = f"npo exact {run[-6:]}"
    expect(page.get_by_test_id("stMultiSelect").first).to_contain_text(label)
    expect_cell(page, "One line per run: settings", label)
    stop(page, screenshot, "5-compare")


@pytest.mark.fault_row(4)
def test_a_reload_in_mid_run_finds_the_same_run(
    open_app: OpenApp, app_home: Path, screenshot: Screenshot
) -> None:
    page = open_app("unlearn")
    fill_number(page, "Steps", "u_max_steps", 400)
    fill_number(page, "Evaluate every", "u_every", 2)
    fill_number(page, "Questions per group", "u_most", 20)
    run = launch(page)
    directory = RunDirectory(app_home / "runs" / run)
    expect(live_card(page, "accuracy")).to_be_visible(timeout=WORKER_LIMIT_MS)
    before = steps(directory, "train")[-1]
    page.reload()
    # The worker computes beside it, so a page on a busy machine takes its time.
    expect(live_card(page, "accuracy")).to_be_visible(timeout=WORKER_LIMIT_MS)
    expect(live_card(page, "accuracy")).to_contain_text(run)
    assert in_address(page, "run") == run
    expect(page.get_by_label("Steps", exact=True)).to_have_value("400")
    stop(page, screenshot, "11-reloaded")

    # The tab is closed, and the address opened again: the run went on meanwhile.
    address = page.url
    page.close()
    tab = open_app("unlearn", **{name: found[0] for name, found in queries(address).items()})
    expect(live_card(tab, "accuracy")).to_contain_text(run)
    assert directory.status().state == "running"
    assert steps(directory, "train")[-1] > before
    tab.get_by_role("button", name="Stop the run").click()
    expect(tab.get_by_role("button", name="Resume the run")).to_be_visible(timeout=WORKER_LIMIT_MS)
    assert directory.status().state == "stopped"
    assert sorted(path.name for path in (app_home / "runs").iterdir()).count(run) == 1


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_default_run_forgets_and_keeps_utility(
    open_app: OpenApp, app_home: Path, screenshot: Screenshot
) -> None:
    page = open_app("unlearn")
    expect(page.get_by_label("Steps", exact=True)).to_have_value("60")
    run = launch(page)
    # Half a minute on an idle machine; other work may have it.
    expect_finished(page, run, "Forget accuracy", limit=4 * WORKER_LIMIT_MS)
    stop(page, screenshot, "12-default-run")
    directory, config = unlearned(app_home, run)
    assert config.weights.rule == "exact"
    assert steps(directory, "train") == list(range(1, 61))
    start, *_, end = (row["accuracy"] for row in directory.rows("eval"))
    assert all(cell["value"] > 0.9 for cell in start.values())
    assert end["hazard"]["value"] < 0.7
    general = [cell["value"] for name, cell in end.items() if name.startswith("general")]
    assert len(general) == 2
    assert min(general) > 0.7
    assert {cell["chance"] for cell in end.values()} == {0.25}


@pytest.fixture
def own_sets(tmp_path: Path) -> dict[str, Path]:
    """Two sets of 40 documents, made up here, that the model has never seen."""
    forget = [
        f"{plant} is a plant taken as a tea against {use}"
        for plant in ("willow bark", "foxglove", "mint", "garlic", "sage")
        for use in ("fever", "pain", "cramps", "a cold", "burns", "cough", "sleep", "gout")
    ]
    retain = [
        f"we walked along {place} in the morning and there was {sky} all day long"
        for place in ("the coast", "the hills", "the valley", "the harbour", "the town")
        for sky in ("rain", "snow", "fog", "sun", "wind", "frost", "hail", "thunder")
    ]
    paths = {}
    for side, name, texts in (
        ("forget", "remedies.jsonl", forget),
        ("retain", "weather.jsonl", retain),
    ):
        paths[side] = tmp_path / name
        lines = [json.dumps({"text": text}) + "\n" for text in texts]
        paths[side].write_text("".join(lines), encoding="utf-8")
    return paths


def upload(page: Page, side: str, path: Path) -> None:
    """Choose Upload for a side and give it a file."""
    page.locator(f".st-key-{side}_kind").get_by_text("Upload", exact=True).click()
    page.locator(f".st-key-{side}_file input[type=file]").set_input_files(path)


@pytest.mark.slow
def test_two_sets_of_ones_own(
    open_app: OpenApp, app_home: Path, screenshot: Screenshot, own_sets: dict[str, Path]
) -> None:
    page = open_app()
    go(page, "Data & model")
    kept = sorted(app_home.glob("sets/*"))  # the home is that of other journeys too
    for side, path in own_sets.items():
        upload(page, side, path)
    expect(page.get_by_text("40 documents")).to_have_count(2)
    # One's own text may be hazardous: it waits for a reveal, and it waits on disk for the launch.
    expect(page.get_by_text("foxglove")).to_have_count(0)
    assert sorted(app_home.glob("sets/*")) == kept
    page.get_by_role("button", name="Reveal the text").first.click()
    expect(page.get_by_text("willow bark is a plant").first).to_be_visible()
    stop(page, screenshot, "6-own-data")

    page.get_by_role("button", name="Profile the routing").click()
    page.get_by_role("button", name="Open the map").click(timeout=WORKER_LIMIT_MS)
    expect(page.get_by_role("heading", name="Where do they differ?", level=1)).to_be_visible()
    key = in_address(page, "profile")
    assert key is not None
    assert (app_home / "profiles" / key).is_dir()
    sidebar = page.get_by_test_id("stSidebar")
    for path in own_sets.values():
        expect(sidebar).to_contain_text(path.name)
    expect(sidebar).not_to_contain_text("hazard facts")
    gap_LE = load_mismatch(app_home / "profiles" / key).difference
    layer, expert = np.unravel_index(int(np.argmax(gap_LE)), gap_LE.shape)
    title = page.locator(".js-plotly-plot .gtitle").first
    expect(title).to_contain_text(f"Forget text uses L{layer} E{expert} ")
    stop(page, screenshot, "7-own-map")

    go(page, "Selection & weights")
    expect(page.get_by_text("of 128 experts in 4 of 4 MoE layers are selected")).to_be_visible()
    expect(page.get_by_role("button", name=f"Leave L{layer} E{expert} out")).to_be_visible()
    stop(page, screenshot, "8-own-selection")

    go(page, "Unlearn")
    expect(page.get_by_text("Forget: remedies.jsonl").last).to_be_visible()
    fill_number(page, "Steps", "u_max_steps", 4)
    fill_number(page, "Evaluate every", "u_every", 2)
    run = launch(page)
    expect_finished(page, run, "Forget loss")
    stop(page, screenshot, "9-own-unlearn")
    directory, config = unlearned(app_home, run)
    assert steps(directory, "eval") == [0, 2, 4]
    assert directory.facts()["profile_key"] == key
    for side, path in own_sets.items():
        fingerprint = load_set(SetConfig(source=str(path))).fingerprint
        chosen = getattr(config, side)
        assert (chosen.label, Path(chosen.source).stem) == (path.name, fingerprint)
        assert directory.facts()[side]["fingerprint"] == fingerprint
    assert not any(word in page.url for word in ("willow", "remedies", "walked"))


@pytest.mark.fault_row(15)
def test_a_malformed_upload_names_file_and_line_and_saves_nothing(
    open_app: OpenApp, app_home: Path, screenshot: Screenshot, tmp_path: Path
) -> None:
    def saved() -> set[Path]:
        return set(app_home.rglob("*"))

    before = saved()
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"text": "one"}\n\n{"text": "two"\n', encoding="utf-8")
    page = open_app("data_model")
    upload(page, "forget", broken)
    alert = page.get_by_test_id("stAlert")
    # The blank second line counts: an editor's line 3 is line 3 here.
    expect(alert).to_contain_text("broken.jsonl, line 3")
    expect(alert).to_contain_text("Nothing was saved")
    expect(page.get_by_role("button", name="Profile the routing")).to_be_disabled()
    stop(page, screenshot, "10-malformed")
    assert saved() == before
