"""Causal evidence: jobs as they stand, results as figures and tables, both maps side by side."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from app import causal_forms, causal_job, causal_view, doors, question_form, state, unlearn_form
from tests.support.profiles import synthetic_profile
from trace_engine.causal.paired import Change, Effect, corrected_together
from trace_engine.causal.rerouted_results import (
    Forced,
    LayerOverlap,
    Overlap,
    ProbedLayer,
    Probing,
    Rerouted,
    Restored,
)
from trace_engine.causal.results import (
    Ablation,
    Band,
    CellEffect,
    Order,
    OrderStep,
    RandomSet,
    Replayable,
    Scan,
    Specific,
)
from trace_engine.causal.settings import CausalConfig, parse_causal
from trace_engine.config import Cell, ProfileConfig, SetConfig
from trace_engine.disk import write_json
from trace_engine.evaluation.estimate import Estimate
from trace_engine.routing import Profile, mismatch
from trace_engine.runs import evidence

OpenPage = Callable[..., AppTest]
MODEL = {"source": "demo:target", "revision": None, "fingerprint": "f" * 64, "dtype": "float32"}


def effect(group: str, loss: float, p: float = 0.5) -> Effect:
    accuracy = Change(0.9, 0.8, -0.1, -0.2, 0.0, p, min(1.0, 2 * p))
    moved = Change(1.0, 1.0 + loss, loss, loss - 0.1, loss + 0.1, p, min(1.0, 2 * p))
    return Effect(group, 100, 12, 2, accuracy, moved)


def scanned(profile: Profile) -> Scan:
    cells = []
    for row, layer in enumerate(profile.layers):
        for expert in range(profile.num_experts_L[row]):
            harm = 0.01 * (row * 8 + expert)
            p = 0.001 if harm > 0.2 else 0.5
            specific = Specific(harm - 0.005, harm - 0.006, harm + 0.006)
            band = Band(specific.value, -0.01, 0.02, 3, 20)
            sides = effect("forget", harm, p), effect("utility", 0.005)
            cells.append(CellEffect(layer, expert, 50, 0.1, *sides, specific, band))
    check = (Replayable(profile.layers[0], True, 0.0),)
    return Scan(
        MODEL, "drop", "hazard", 400, 9_000, 0.9, 0.9, tuple(cells), "made up", check, 99, 0
    )


def ablated() -> Ablation:
    harm = dict.fromkeys(causal_view.HARMS, 0.01)
    return Ablation(
        MODEL,
        (Cell(1, 2),),
        "drop",
        "hazard",
        corrected_together([effect("forget", 0.3, 0.001), effect("utility", 0.01)]),
        0.2,
        "made up",
        (RandomSet((Cell(1, 3),), 0.19, True, {str(k): v for k, v in harm.items()}),) * 2,
        {name: Band(0.3, 0.01, 0.01, 0, 2) for name in causal_view.HARMS},
        (),
        99,
        0,
        Order("greedy", (OrderStep(Cell(1, 2), effect("forget", 0.3), effect("utility", 0.01)),)),
    )


def compared() -> Rerouted:
    share = Estimate(0.5, 0.4, 0.6, 100, "made up")
    two = (effect("forget", 0.3), effect("utility", 0.0))
    return Rerouted(
        MODEL,
        MODEL,
        None,
        "hazard",
        400,
        Overlap((LayerOverlap(1, share, share), LayerOverlap(3, share, share))),
        Restored(two, two, share, 3, 3),
        Forced((Cell(1, 2),), (0.3,), two, -0.1, 0.1, 20),
        Probing((ProbedLayer(1, share, share, None, 0.25, 0.3),), 0.25, 0.01, 0.02, None, 99),
        99,
        0,
    )


def keep(config: CausalConfig, result: Any) -> Path:
    folder = evidence.evidence_folder(config)
    folder.mkdir(parents=True)
    write_json(folder / "status.json", {"format": 1, "state": "done", "message": ""})
    write_json(folder / "result.json", result.to_dict())
    return folder


@pytest.fixture
def bundled(trace_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Profile:
    """The small profile in the bundled one's place, with the settings it was made by."""
    sets = {side: SetConfig(source=f"{side}.txt") for side in ("forget", "retain")}
    settings = ProfileConfig(**sets)
    profile = synthetic_profile(layers=(1, 3, 6), experts=8)
    profile = dataclasses.replace(
        profile, meta={**profile.meta, "settings": settings.model_dump(mode="json")}
    )
    folder = tmp_path / "profile"
    profile.save(folder)
    mismatch(profile, permutations=999, bootstrap=100).save(folder)
    monkeypatch.setattr(state, "BUNDLED_PATH", folder)
    return profile


@pytest.fixture
def view(bundled: Profile) -> state.ProfileView:
    found = state.open_profile(state.BUNDLED)
    assert found is not None
    return found


@pytest.fixture
def own_questions(tmp_path: Path) -> dict[str, str]:
    path = tmp_path / "questions.jsonl"
    path.write_text(json.dumps({"question": "q", "choices": ["a", "b"], "answer": 0}) + "\n")
    return {
        "causal_questions": question_form.OTHER_FILE,
        "causal_file": str(path),
        "causal_category": "hazard",
    }


def scan_config(view: state.ProfileView, questions: str) -> CausalConfig:
    base, _ = unlearn_form.base_settings(view)
    assert base is not None
    asked = {
        "questions": questions,
        "forget_category": "hazard",
        "max_questions": 100,
        "mode": "drop",
    }
    return causal_forms.config(view, base, dict(asked), "scan")


def text_of(app: AppTest) -> str:
    kinds = (app.markdown, app.caption, app.info, app.warning, app.error, app.subheader)
    return "\n".join(str(item.value) for kind in kinds for item in kind)


def test_before_anything_is_computed_the_page_offers_to(
    bundled: Profile, open_page: OpenPage, own_questions: dict[str, str]
) -> None:
    app = open_page("causal", **own_questions)
    assert not app.exception
    labels = [button.label for button in app.button]
    assert "Take out every expert, one at a time" in labels
    assert any("Take them out" in label for label in labels)
    assert "trace-moe ablate" in "".join(code.value for code in app.code)


def test_without_a_file_of_questions_nothing_is_asked(
    bundled: Profile, open_page: OpenPage
) -> None:
    app = open_page("causal", causal_questions=question_form.OTHER_FILE)
    assert not app.exception
    assert "Name a file of questions" in text_of(app)


def test_a_finished_scan_shows_both_maps(
    view: state.ProfileView, open_page: OpenPage, own_questions: dict[str, str]
) -> None:
    scan = scanned(view.profile)
    keep(scan_config(view, own_questions["causal_file"]), scan)
    app = open_page("causal", **own_questions)
    assert not app.exception
    charts = [item.key for item in app.get("plotly_chart")]
    shown = text_of(app)
    assert any("attribution_map" in str(key) for key in charts) or "Dot: corrected p" in shown
    assert "Where the two disagree most" in shown
    assert "nearest in load do as much" in shown


def test_a_failed_job_says_why_and_can_go_on(
    view: state.ProfileView, open_page: OpenPage, own_questions: dict[str, str]
) -> None:
    folder = evidence.evidence_folder(scan_config(view, own_questions["causal_file"]))
    folder.mkdir(parents=True)
    status = {"format": 1, "state": "failed", "message": "No question has it."}
    write_json(folder / "status.json", status)
    app = open_page("causal", **own_questions)
    assert not app.exception
    assert "No question has it." in text_of(app)
    assert "Go on" in [button.label for button in app.button]


def test_pressing_the_button_starts_the_job_that_the_page_then_shows(
    view: state.ProfileView,
    open_page: OpenPage,
    own_questions: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started: list[CausalConfig] = []
    monkeypatch.setattr(doors, "start_evidence", started.append)
    app = open_page("causal", **own_questions)
    app.button(key="scan_launch").click().run()
    assert started == [scan_config(view, own_questions["causal_file"])]


def test_the_map_holds_every_effect_and_marks_what_stands(view: state.ProfileView) -> None:
    scan = scanned(view.profile)
    spec = causal_view.effect_map(view, scan, "forget", None)
    values = causal_view.effect_LE(view, scan, "forget")
    assert values[2, 7] == pytest.approx(0.23)
    assert np.isfinite(values).all()
    assert spec.significant_LE is not None
    assert spec.significant_LE.sum() == 3
    assert "L6" in spec.title
    assert causal_view.effect_map(view, scan, "specific", None).significant_LE is not None


def test_an_expert_without_tokens_is_said_to_have_exactly_none(view: state.ProfileView) -> None:
    scan = scanned(view.profile)
    silent = dataclasses.replace(scan.cells[0], tokens=0)
    assert "exactly 0" in causal_view.cell_sentence(silent, scan)
    assert "3 of the 20" in causal_view.cell_sentence(scan.cells[0], scan)


def test_tables_have_a_line_a_group_figure_step_and_layer() -> None:
    found = ablated()
    assert list(causal_view.effects_table(found.effects)["group"]) == ["forget", "utility"]
    assert len(causal_view.band_table(found)) == 6
    assert len(causal_view.order_table(found)) == 1
    assert list(causal_view.overlap_table(compared())["forget"]) == [50.0, 50.0]
    assert causal_view.probe_table(compared())["reference"].tolist() == ["no reference"]


def test_a_result_of_each_kind_survives_the_jobs_file() -> None:
    for found in (ablated(), compared()):
        read = type(found).from_dict(json.loads(json.dumps(found.to_dict())))
        assert read == found


def test_the_command_asks_the_same(view: state.ProfileView) -> None:
    from trace_engine.cli.main import build_parser

    base, _ = unlearn_form.base_settings(view)
    assert base is not None
    asked: dict[str, object] = {"questions": "q.jsonl", "max_questions": 50, "mode": "reroute"}
    config = causal_forms.config(view, base, asked, "ablate", cells=(Cell(1, 2),), order="greedy")
    import shlex

    words = shlex.split(causal_forms.command(config, config.cells).replace("\\\n", " "))
    options = vars(build_parser().parse_args(words[1:]))
    assert options["cell"] == [Cell(1, 2)]
    for name in ("questions", "max_questions", "mode", "order", "profile"):
        assert options[name] == getattr(config, name)


def test_progress_is_words() -> None:
    progress = {"phase": "ablating experts", "done": 4, "total": 16, "unit": "experts"}
    found = evidence.EvidenceState("running", "", progress | {"eta_seconds": 12.0}, Path())
    share, words = causal_job.progress_words(found)
    assert share == 0.25
    assert "4 of 16 experts" in words
    waiting = evidence.EvidenceState("running", "", None, Path())
    assert causal_job.progress_words(waiting) == (0.0, "Starting the worker …")


def test_settings_of_the_page_are_refused_in_a_sentence(view: state.ProfileView) -> None:
    from trace_engine.errors import InputError

    with pytest.raises(InputError, match="cells is empty"):
        parse_causal({"what": "ablate"})
