"""Start: the map at once, its words on the same page, no torch, the style control."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from app import start_view, state, wording
from tests.app.conftest import KEY, ROOT
from tests.support.profiles import synthetic_profile
from trace_engine.config import Cell
from trace_engine.routing import Profile, mismatch

OpenPage = Callable[..., AppTest]

ONE_RUN = """
import sys
from pathlib import Path
from app import state
state.BUNDLED_PATH = Path(sys.argv[1])
from streamlit.testing.v1 import AppTest
app = AppTest.from_file("streamlit_app.py", default_timeout=120).run()
assert not app.exception, app.exception
assert app.title[0].value == "Which experts does the forget text use?", app.title
loaded = sorted({"torch", "transformers"} & set(sys.modules))
sys.exit(f"imported: {loaded}" if loaded else 0)
"""


def test_the_first_page_imports_no_torch(saved_profile: Path, trace_home: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ONE_RUN, str(saved_profile)],
        cwd=ROOT,
        capture_output=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr.decode()[-2000:]


def test_the_strongest_planted_cell_is_on_screen_at_once(
    bundled: Profile, open_page: OpenPage
) -> None:
    app = open_page("start")
    assert not app.exception
    view = state.open_profile(KEY)
    assert view is not None
    strongest = state.strongest_cell(view)
    assert list(strongest) in bundled.meta["planted"]
    name = state.cell_name(strongest)
    assert f"Forget tokens to {name}" in [metric.label for metric in app.metric]
    assert len(app.get("plotly_chart")) == 1


def test_number_inputs_move_the_words_like_a_click(bundled: Profile, open_page: OpenPage) -> None:
    app = open_page("start")
    app.number_input(key="cell_layer").set_value(3).run()
    app.number_input(key="cell_expert").set_value(5).run()
    assert not app.exception
    assert "The words behind layer 3, expert 5" in [heading.value for heading in app.subheader]
    assert (app.query_params["layer"], app.query_params["expert"]) == ("3", "5")


def test_a_layer_between_moe_layers_is_a_sentence(bundled: Profile, open_page: OpenPage) -> None:
    app = open_page("start", layer="3", expert="5")
    app.number_input(key="cell_layer").set_value(4).run()
    assert "MoE layers: 1, 3, 6" in app.warning[0].value.replace("\\", "")
    assert "The words behind layer 3, expert 5" in [heading.value for heading in app.subheader]


def test_every_step_leads_somewhere_or_is_on_the_page(
    bundled: Profile, open_page: OpenPage
) -> None:
    app = open_page("start")
    here = [caption for caption in app.caption if caption.value == "above, on this page"]
    assert len(here) == sum(not page for *_, page in start_view.STEPS) > 0
    links = [link.proto.label for link in app.get("page_link")]
    assert links.count("Go there") == sum(bool(page) for *_, page in start_view.STEPS)


@pytest.mark.parametrize(
    ("address", "label"), [({}, "Use my own data"), ({"profile": KEY}, "Use other data")]
)
def test_the_way_to_other_data_fits_what_is_shown(
    bundled: Profile, open_page: OpenPage, address: dict[str, str], label: str
) -> None:
    app = open_page("start", **address)
    labels = [button.label for button in app.button if button.label.startswith("Use ")]
    assert labels == [label]


def test_own_text_waits_for_the_reveal(bundled: Profile, open_page: OpenPage) -> None:
    app = open_page("start", profile=KEY)
    assert not app.get("html")
    app.button(key="reveal-start").click().run()
    assert len(app.get("html")) > 0


def test_the_style_control_keeps_sign_and_counts(
    bundled: Profile, tmp_path: Path, open_page: OpenPage, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = synthetic_profile(seed=5, layers=(1, 3, 6), experts=8, documents=40, strength=0.5)
    other.save(tmp_path / "same")
    mismatch(other, permutations=999, bootstrap=100).save(tmp_path / "same")
    monkeypatch.setattr(state, "SAME_STYLE_PATH", tmp_path / "same")
    app = open_page("start")
    assert not app.exception
    assert len(app.get("plotly_chart")) == 2
    view, same = state.open_profile(state.BUNDLED), state.open_profile(state.SAME_STYLE)
    assert view is not None
    assert same is not None
    table = start_view.style_table(view, same)
    assert Cell(int(table["layer"][0]), int(table["expert"][0])) == state.strongest_cell(view)
    for column, shown in (("gap", view), ("same_style", same)):
        shares = [
            side.counts_DLE.sum(axis=0) / side.tokens
            for side in (shown.profile.forget, shown.profile.retain)
        ]
        gap_LE = 100 * (shares[0] - shares[1])
        rows = [shown.profile.site_of(int(layer)) for layer in table["layer"]]
        assert table[column].tolist() == pytest.approx(gap_LE[rows, table["expert"]].tolist())
    kept = wording.percent(table["same_style"].sum() / table["gap"].sum(), 0)
    said = next(caption.value for caption in app.caption if "summed gap" in caption.value)
    assert f"keep {kept} of" in said
    assert kept not in (wording.percent(1, 0), wording.percent(0, 0))
    counts = [wording.count(side.tokens) for side in (bundled.forget, bundled.retain, other.retain)]
    assert f"n = {counts[0]} forget, {counts[1]} and {counts[2]} retain tokens" in said


def test_reset_goes_back_to_the_first_screen(bundled: Profile, open_page: OpenPage) -> None:
    app = open_page("start", layer="3", expert="5", sel='{"top_k":4}')
    assert any("top 4 per layer" in text.value for text in app.text)
    next(button for button in app.button if button.label.startswith("Reset")).click().run()
    assert any("top 2 per layer" in text.value for text in app.text)
    assert "layer" not in app.query_params
    assert "sel" not in app.query_params
