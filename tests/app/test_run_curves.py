"""The curves of a run: which row counts, gaps, bands, the line of chance, the saved step."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

from app import curves
from app.theme import LIGHT
from tests.app.stored import eval_row, train_row, write_run
from trace_engine.runs.curve import Curve


def test_the_last_row_of_a_step_counts() -> None:
    rows = [eval_row(0, 0.9, 0.9), eval_row(5, 0.6, 0.8), eval_row(5, 0.4, 0.7)]
    frame = curves.accuracy_frame(rows, "hazard")
    last = frame[(frame["step"] == 5) & (frame["role"] == "forget")]
    assert list(last["value"]) == [0.4]
    assert list(curves.wide(frame).columns) == [
        "forget: hazard",
        "utility: general",
        "utility: neighbour",
    ]


@pytest.mark.fault_row(12)
def test_a_value_that_is_not_finite_is_a_gap_and_never_zero(trace_home: Path) -> None:
    run = write_run(trace_home, [train_row(1), train_row(2, None)])
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"attempt": 1, **train_row(3), "loss": math.nan}) + "\n")
    frame = pd.DataFrame(Curve(run.path / "metrics.jsonl").look().train)
    assert math.isnan(frame.set_index("step")["loss"][2])
    assert math.isnan(frame.set_index("step")["loss"][3])
    figure = curves.panel_figure(frame, curves.LOSS_COLUMNS, colours=LIGHT)
    assert all(trace.connectgaps is False for trace in figure.data)


def test_each_loss_has_an_axis_of_its_own() -> None:
    rows = [{**train_row(step), "forget_loss": 40.0 - step, "retain_loss": 0.4} for step in (1, 2)]
    figure = curves.panel_figure(pd.DataFrame(rows), curves.LOSS_COLUMNS, colours=LIGHT)
    assert [trace.line.color for trace in figure.data] == [LIGHT.forget, LIGHT.retain]
    assert len({trace.yaxis for trace in figure.data}) == 2
    titles = (figure.layout.yaxis.title.text, figure.layout.yaxis2.title.text)
    assert titles == ("forget loss", "retain loss")


def test_a_run_that_never_stepped_has_no_empty_figures(
    own_sets: dict[str, Path], trace_home: Path, open_page: Callable[..., AppTest]
) -> None:
    for rows in ([], [eval_row(0, 0.9, 0.9)]):
        run = write_run(trace_home, rows, "failed", "failed: NaN at step 1.")
        app = open_page("unlearn", run=run.id)
        assert not app.exception
        assert not app.get("plotly_chart")
        assert any("no curve" in caption.value for caption in app.caption)
        assert any(text.value == "Failed at step 0 of 20: NaN at step 1." for text in app.text)


def test_curves_have_a_band_and_the_chance_line() -> None:
    frame = curves.accuracy_frame([eval_row(0, 0.9, 0.9), eval_row(5, 0.4, 0.8)], "hazard")
    figure = curves.curve_figure(frame, y_title="accuracy", chance=0.25, colours=LIGHT)
    bands = [trace for trace in figure.data if trace.fill == "toself"]
    assert len(bands) == 3
    assert figure.layout.shapes[0].y0 == 0.25
    colours = {trace.name: trace.line.color for trace in figure.data if trace.name}
    assert colours["forget: hazard"] == LIGHT.forget


@pytest.mark.parametrize(("chance", "shown"), [(0.5, "0.5"), (1 / 3, "0.333"), (None, None)])
def test_the_chance_line_is_the_recorded_one(
    own_sets: dict[str, Path],
    trace_home: Path,
    open_page: Callable[..., AppTest],
    chance: float | None,
    shown: str | None,
) -> None:
    rows = [eval_row(step, 0.9 - step / 10, 0.9, chance) for step in (0, 4)]
    run = write_run(trace_home, rows)
    app = open_page("unlearn", run=run.id)
    assert not app.exception
    drawn = json.loads(app.get("plotly_chart")[0].proto.spec)["layout"]
    assert "Forget accuracy 0.90" in drawn["title"]["text"]
    assert drawn["yaxis"]["range"] == [0.0, 1.02]
    assert [line["y0"] for line in drawn.get("shapes", [])] == ([] if chance is None else [chance])
    assert [note["text"] for note in drawn.get("annotations", [])] == (
        [] if shown is None else [f"chance {shown}"]
    )


def test_the_saved_step_is_marked_and_the_title_is_about_its_model(
    trace_home: Path, open_page: Callable[..., AppTest]
) -> None:
    rows = [eval_row(step, 0.9 - step / 20, 0.9 - step / 40, None) for step in (0, 4, 8)]
    facts = {"kept": {"step": 4, "sentence": "The model of step 4 is saved: it is."}}
    keep = {"which": "best", "forget_at_most": 0.75}
    best = write_run(trace_home, rows, facts=facts, keep=keep, message=facts["kept"]["sentence"])
    app = open_page("unlearn", run=best.id)
    assert not app.exception
    drawn = json.loads(app.get("plotly_chart")[0].proto.spec)["layout"]
    assert "Forget accuracy 0.90 → 0.70" in drawn["title"]["text"]
    assert [(line["x0"], line["x1"]) for line in drawn["shapes"]] == [(4, 4)]
    assert [note["text"] for note in drawn["annotations"]] == ["saved: step 4"]
    assert any("The model of step 4 is saved" in text.value for text in app.text)
    last = write_run(trace_home, rows, facts={"kept": {"step": 8, "sentence": ""}})
    app = open_page("unlearn", run=last.id)
    drawn = json.loads(app.get("plotly_chart")[0].proto.spec)["layout"]
    assert "Forget accuracy 0.90 → 0.50" in drawn["title"]["text"]
    assert not drawn.get("shapes")


def test_the_live_curve_reads_chance_from_the_rows(
    own_sets: dict[str, Path], trace_home: Path, open_page: Callable[..., AppTest]
) -> None:
    for chance, dotted in ((0.5, " (dotted: chance, 0.5)"), (None, "")):
        rows = [eval_row(step, 0.9, 0.9, chance) for step in (0, 4)]
        run = write_run(trace_home, rows, "interrupted")
        with run.lock():
            app = open_page("unlearn", run=run.id)
        assert not app.exception
        assert f"**Accuracy**{dotted}" in [text.value for text in app.markdown]


def test_a_band_never_spans_a_gap() -> None:
    broken = {**eval_row(5, 0.5, 0.5), "accuracy": {"hazard": {"value": None, "n": 100}}}
    rows = [eval_row(0, 0.9, 0.9), broken, eval_row(10, 0.4, 0.8)]
    frame = curves.accuracy_frame(rows, "hazard")
    figure = curves.curve_figure(
        frame[frame["group"] == "hazard"], y_title="accuracy", colours=LIGHT
    )
    assert [trace for trace in figure.data if trace.fill == "toself"] == []
