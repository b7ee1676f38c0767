"""The list of past runs and a run's figures: nothing is mistaken, stale or broken off."""

from collections.abc import Callable
from pathlib import Path

from streamlit.testing.v1 import AppTest

from app import charts, curves, runs_view, wording
from app.theme import LIGHT
from tests.app.stored import eval_row, write_run
from trace_engine.runs import list_runs


def test_of_two_runs_with_one_label_the_chosen_one_is_deleted(
    bundled: object, trace_home: Path, open_page: Callable[..., AppTest]
) -> None:
    runs = [write_run(trace_home, [eval_row(0, 0.9, 0.9)], name="twin") for _ in range(2)]
    app = open_page("unlearn")
    box = app.selectbox(key="runs_pick")
    assert len(set(box.options)) == 2
    # Streamlit tells options apart by what they show, so choose as the browser does: by text.
    older = next(option for option in box.options if runs[0].id in option)
    box.select(older).run()
    app.button(key="runs_delete").click().run()
    assert not app.exception
    assert [run.id for run in list_runs()] == [runs[1].id]


def test_a_damaged_run_has_no_made_up_start(
    bundled: object, trace_home: Path, open_page: Callable[..., AppTest]
) -> None:
    run = write_run(trace_home, [eval_row(0, 0.9, 0.9)])
    (run.path / "status.json").write_text("{", encoding="utf-8")
    (line,) = [runs_view.run_line(found) for found in list_runs()]
    assert (line["state"], line["started"], line["step"]) == ("damaged", "not recorded", "")
    app = open_page("unlearn", run=run.id)
    assert not app.exception


def test_progress_says_only_what_can_be_read() -> None:
    progress = {"phase": "opening the model", "done": 0, "total": 1, "unit": "steps"}
    assert runs_view.progress_sentence(progress) == "opening the model"
    progress = {"phase": "evaluating", "done": 5000, "total": 5000, "unit": "tokens"}
    assert runs_view.progress_sentence({**progress, "per_second": 6000.4, "eta_seconds": 0.2}) == (
        f"evaluating: {wording.count(5000)} of {wording.count(5000)} tokens, "
        f"{wording.count(6000)} tokens/s"
    )


def test_a_loss_curve_says_on_how_many_documents_it_is() -> None:
    facts = {"held_out": True, "forget": {"measured_on": 1}, "retain": {"measured_on": 6}}
    (sentence,) = runs_view.fact_sentences(facts)
    assert "1 forget and 6 retain documents" in sentence
    assert runs_view.fact_sentences({**facts, "held_out": False}) == []
    (alone,) = runs_view.fact_sentences({"held_out": True, "retain": {"measured_on": 1}})
    assert "1 retain document, which is never" in alone


def test_the_overlap_that_the_worker_found_is_said() -> None:
    def said(count: int) -> list[str]:
        found = {"count": count, "forget_total": 1031, "retain_total": 4006}
        return runs_view.fact_sentences({"overlap": found})

    assert said(0) == [
        f"Overlap: none of {wording.count(1031)} forget documents is among the "
        f"{wording.count(4006)} retain documents."
    ]
    (several,) = said(12)
    assert several.startswith(f"Overlap: 12 of {wording.count(1031)} forget documents are among")
    assert "1 of" in said(1)[0]
    assert " is among" in said(1)[0]
    assert runs_view.fact_sentences({}) == []


def test_a_short_run_has_no_step_before_the_first() -> None:
    frame = curves.accuracy_frame([eval_row(0, 0.9, 0.9), eval_row(4, 0.4, 0.8)], "hazard")
    low, high = curves.curve_figure(frame, y_title="accuracy", colours=LIGHT).layout.xaxis.range
    assert -1 < low < 0
    assert 4 < high < 5


def test_a_curves_title_breaks_between_forget_and_utility() -> None:
    frame = curves.accuracy_frame([eval_row(0, 0.9, 0.9), eval_row(4, 0.4, 0.8)], "hazard")
    lines = charts.title(curves.finding(frame, "accuracy"))["text"].split("<br>")
    assert [line.split()[0] for line in lines] == ["Forget", "utility"]


def test_live_lines_are_told_apart_without_colour_and_stay_in_their_order() -> None:
    frame = curves.accuracy_frame([eval_row(0, 0.9, 0.8), eval_row(4, 0.4, 0.7)], "hazard")
    table = curves.wide(frame)
    line = curves.live_spec(table.columns, "accuracy", 0.25, LIGHT)["layer"][-1]["encoding"]
    colours, dashes = line["color"]["scale"], line["strokeDash"]["scale"]
    assert colours["domain"] == dashes["domain"] == list(table.columns)
    assert colours["range"][0] == LIGHT.forget
    assert len({tuple(dash) for dash in dashes["range"]}) == 3
    data = curves.live_data(table)
    forget = data[data["series"] == "forget: hazard"]
    assert list(zip(forget["step"], forget["value"], strict=True)) == [(0, 0.9), (4, 0.4)]


def test_only_accuracies_have_a_chance_line() -> None:
    assert len(curves.live_spec(["a"], "accuracy", 0.25, LIGHT)["layer"]) == 2
    assert len(curves.live_spec(["a"], "nats per token", None, LIGHT)["layer"]) == 1


def test_a_live_loss_fills_its_panel_and_needs_no_legend() -> None:
    (line,) = curves.live_spec(["forget loss"], "forget loss", None, LIGHT)["layer"]
    assert line["encoding"]["y"]["scale"] == {"zero": False}
    assert line["encoding"]["color"]["legend"] is None
    assert line["encoding"]["color"]["scale"]["range"] == [LIGHT.forget]
