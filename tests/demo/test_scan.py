"""The bundled scan is what the engine finds today; page and job take it for an answer."""

from collections.abc import Callable
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from tests.app import conftest as app_fixtures
from tests.demo.test_card import commands
from trace_engine.bundled import PACK
from trace_engine.causal import profile_load, scan
from trace_engine.causal.perform import read_questions
from trace_engine.causal.results import Scan
from trace_engine.causal.settings import CausalConfig
from trace_engine.cli.main import main
from trace_engine.config import Cell, ModelConfig
from trace_engine.disk import read_json
from trace_engine.errors import InputError
from trace_engine.models import inspect_model, open_model
from trace_engine.routing import Profile
from trace_engine.runs import evidence

open_page = app_fixtures.open_page
trace_home = app_fixtures.trace_home
saved_profile = app_fixtures.saved_profile
USUAL = CausalConfig(profile=str(PACK / "profile"))
AGAIN = (Cell(1, 2), Cell(3, 4))
"""The first and the third by what they harm the hazard answers beyond the others."""


@pytest.fixture(scope="module")
def bundled() -> Scan:
    return Scan.from_dict(read_json(evidence.BUNDLED / "result.json"))


@pytest.mark.slow
def test_a_few_experts_measured_again_give_the_same(bundled: Scan) -> None:
    opened = open_model(USUAL.model)
    load = profile_load(Profile.load(PACK / "profile"))
    found = scan(
        opened, read_questions(USUAL), cells=AGAIN, load=load, permutations=99, seed=USUAL.seed
    )
    assert (found.questions, found.tokens) == (bundled.questions, bundled.tokens)
    known = {cell.cell: cell for cell in bundled.cells}
    for cell in found.cells:
        then = known[cell.cell]
        assert (cell.tokens, cell.load) == (then.tokens, pytest.approx(then.load))
        for now, before in ((cell.forget, then.forget), (cell.utility, then.utility)):
            assert (now.n, now.accuracy.after) == (before.n, pytest.approx(before.accuracy.after))
            assert now.loss.change == pytest.approx(before.loss.change, abs=1e-5)
        assert cell.specific.value == pytest.approx(then.specific.value, abs=1e-5)


def test_it_is_of_the_bundled_model_whole_and_small(bundled: Scan) -> None:
    assert bundled.model["fingerprint"] == inspect_model(ModelConfig()).fingerprint
    assert len(bundled.cells) == 4 * 32
    assert (evidence.BUNDLED / "result.json").stat().st_size < 300_000


@pytest.mark.usefixtures("trace_home")
def test_it_answers_the_usual_settings_and_no_others() -> None:
    found = evidence.evidence_state(USUAL)
    assert (found.state, found.bundled) == ("done", True)
    assert evidence.start_evidence(USUAL) == found
    for other in ({"max_questions": 50}, {"mode": "reroute"}, {"profile": None}, {"seed": 1}):
        assert evidence.evidence_state(USUAL.model_copy(update=other)).state == "none"


@pytest.mark.usefixtures("trace_home")
def test_the_cards_command_makes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[CausalConfig] = []

    def perform(config: CausalConfig, *_: object) -> Scan:
        asked.append(config)
        raise InputError("It was asked, and that is enough.")

    monkeypatch.setattr("trace_engine.causal.perform.perform", perform)
    monkeypatch.chdir(PACK.parents[2])
    (line,) = [words for words in commands() if words[:2] == ["trace-moe", "ablate"]]
    assert main(line[1:]) == 2
    assert evidence.evidence_state(asked[0]).bundled
    assert Path(line[-1]).resolve() == evidence.BUNDLED / "result.json"


@pytest.mark.usefixtures("trace_home")
def test_the_page_shows_it_at_once(open_page: Callable[..., AppTest]) -> None:
    app = open_page("causal")
    assert not app.exception
    assert any("Computed beforehand" in found.value for found in app.caption)
    assert len(app.get("plotly_chart")) >= 3
