"""Start: the map at once, its words on the same page, no torch, the style control."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from app import start_view, state
from tests.app.conftest import KEY, ROOT
from trace_engine.config import Cell
from trace_engine.routing import Profile

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
    bundled: Profile, saved_profile: Path, open_page: OpenPage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state, "SAME_STYLE_PATH", saved_profile)
    app = open_page("start")
    assert not app.exception
    assert len(app.get("plotly_chart")) == 2
    view = state.open_profile(state.SAME_STYLE)
    assert view is not None
    table = start_view.style_table(view, view)
    assert table["gap"].tolist() == pytest.approx(table["same_style"].tolist())
    assert Cell(int(table["layer"][0]), int(table["expert"][0])) == state.strongest_cell(view)
    assert any("keep 100\N{NO-BREAK SPACE}%" in caption.value for caption in app.caption)


def test_reset_goes_back_to_the_first_screen(bundled: Profile, open_page: OpenPage) -> None:
    app = open_page("start", layer="3", expert="5", sel='{"top_k":4}')
    assert any("top 4 per layer" in text.value for text in app.text)
    next(button for button in app.button if button.label.startswith("Reset")).click().run()
    assert any("top 2 per layer" in text.value for text in app.text)
    assert "layer" not in app.query_params
    assert "sel" not in app.query_params
