"""State and URL: seeds, mirrors, refusals as sentences, and no torch."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

import pytest
from streamlit.testing.v1 import AppTest

from app import state, wording
from tests.app.conftest import KEY, ROOT
from trace_engine.config import Cell
from trace_engine.demo.pack import PACK_SETS
from trace_engine.errors import InputError
from trace_engine.routing import Profile

OpenPage = Callable[..., AppTest]


def warnings(app: AppTest) -> str:
    return " ".join(warning.value for warning in app.warning).replace("\\", "")


def test_the_app_imports_no_torch() -> None:
    code = (
        "import sys, app.navigation, app.maps, app.expert_view, app.start_view, app.sets_view, "
        "app.model_view, app.job_view, trace_engine.runs; "
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr.decode()[-2000:]


def test_without_any_profile_the_page_says_so(
    trace_home: object, open_page: OpenPage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state, "BUNDLED_PATH", ROOT / "nowhere")
    for page in ("start", "routing_map", "expert"):
        app = open_page(page)
        assert not app.exception
        assert any("no bundled profile" in info.value for info in app.info)


def test_the_url_seeds_profile_and_cell(bundled: Profile, open_page: OpenPage) -> None:
    app = open_page("expert", profile=KEY, layer="3", expert="5")
    assert not app.exception
    assert "Layer 3, expert 5" in [heading.value for heading in app.subheader]
    assert app.query_params["layer"] == "3"
    assert app.query_params["profile"] == KEY


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ({"layer": "99", "expert": "0"}, "Layer 99 has no routed experts"),
        ({"layer": "3", "expert": "8"}, "experts 0 to 7"),
        ({"layer": "3", "expert": "-1"}, "experts 0 to 7"),
        ({"layer": "x", "expert": "1"}, "layer must be a whole number"),
        ({"layer": "3"}, "names no expert"),
        ({"profile": "0" * 32}, "no profile"),
        ({"profile": "../../etc"}, "no profile"),
        ({"profile": "a\0b"}, "no profile"),
        ({"profile": "f" * 300}, "no profile"),
        ({"sel": "{"}, "'sel' was refused"),
        ({"sel": '{"top_k":0}'}, "top_k"),
        ({"sel": '{"add":[[99,0]]}'}, "L99 E0"),
        ({"view": "<b>"}, "'view' was refused"),
    ],
)
def test_what_the_url_gets_wrong_is_a_sentence_and_the_default(
    bundled: Profile, open_page: OpenPage, address: dict[str, str], sentence: str
) -> None:
    app = open_page("routing_map", **address)
    assert not app.exception
    assert sentence in warnings(app)
    for name in address:
        assert name not in app.query_params


def test_a_refused_value_is_named_once(bundled: Profile, open_page: OpenPage) -> None:
    app = open_page("routing_map", layer="99", expert="0")
    assert len(app.warning) == 1
    assert not app.run().warning


def test_a_cell_outlives_a_page_change(bundled: Profile, open_page: OpenPage) -> None:
    app = open_page("routing_map", layer="3", expert="5")
    app.switch_page("pages/expert.py").run()
    assert "Layer 3, expert 5" in [heading.value for heading in app.subheader]


def test_a_cold_deep_link_reaches_the_page_inside_its_shell(bundled: Profile) -> None:
    app = AppTest.from_file(str(ROOT / "streamlit_app.py"), default_timeout=60).run()
    app.switch_page("pages/expert.py").run()
    assert not app.exception
    assert app.title[0].value == "What goes to this expert?"
    assert any("Model: " in text.value for text in app.sidebar.text)


@pytest.mark.parametrize(
    ("recorded", "shown"),
    [
        ({}, "forget set"),
        ({"name": "a" * 64}, "own forget set (aaaaaaaa)"),
        ({"name": "demo:forget"}, "hazard facts"),
        ({"name": "mine"}, "mine"),
    ],
)
def test_what_a_set_is_called(bundled: Profile, recorded: dict[str, str], shown: str) -> None:
    profile = replace(bundled, meta={"sets": {"forget": recorded}})
    assert state.side_name(profile, "forget") == shown


def test_every_bundled_set_has_a_name_in_words() -> None:
    assert set(wording.SET_NAMES) == {f"demo:{name}" for name in PACK_SETS}


def test_check_cell_names_what_there_is(bundled: Profile) -> None:
    assert state.check_cell(bundled, 6, 7) == Cell(6, 7)
    with pytest.raises(InputError, match="MoE layers: 1, 3, 6"):
        state.check_cell(bundled, 2, 0)
