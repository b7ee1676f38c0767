"""Sweeps on the page: planned before launch, drawn as points arrive, each run a click away."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from streamlit.testing.v1 import AppTest

from app import sweep_figure, sweep_form, sweep_view
from app.theme import DARK, LIGHT
from tests.app.stored import eval_row
from tests.sweeps.test_outcomes import stored_sweep
from trace_engine import sweeps
from trace_engine.evaluation.outcome import Figure
from trace_engine.sweeps import SweepDirectory, list_sweeps, outcomes

Open = Callable[..., AppTest]
ROWS = [eval_row(0, 0.9, 0.9)]
GRID = {"selection.top_k": (1, 2), "weights.rule": ("mean", "exact")}


def with_points(home: Path) -> SweepDirectory:
    results: list[Any] = [
        [*ROWS, eval_row(20, 0.3, 0.8)],
        [*ROWS, eval_row(20, 0.5, 0.7)],
        [*ROWS, eval_row(20, 0.4, 0.85)],
        None,
    ]
    return stored_sweep(home, GRID, results)


def texts(app: AppTest) -> str:
    parts = [*app.markdown, *app.caption, *app.text, *app.error, *app.warning, *app.subheader]
    return "\n".join(str(part.value) for part in parts).replace("\\", "")


def test_one_grid_per_dial() -> None:
    found = sweep_form.grids_of(["1", "2"], ["uniform", "max", "exact"], ["0.5"], ["auto", "1"])
    assert found == [
        {"selection.top_k": [1, 2], "weights.rule": ["uniform"]},
        {"selection.top_k": [1, 2], "weights.rule": ["max"], "weights.strength": [0.5]},
        {"selection.top_k": [1, 2], "weights.rule": ["exact"], "weights.hardness": ["auto", 1.0]},
    ]


def test_the_count_is_said_before_launch_and_the_file_is_what_is_launched(
    own_sets: object, open_page: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched: list[Any] = []

    def launch(base: Any, grids: Any, name: str, token: str, owner: str | None) -> str:
        launched.append((base, grids, name))
        return "20260101-000000-abcdef"

    monkeypatch.setattr(sweeps, "launch_sweep", launch)
    app = open_page("unlearn", u_mode="a sweep")
    assert not app.exception
    # 1 uniform run, mean at 3 top-k, exact at 3 top-k and 2 hardnesses.
    assert "**10 runs.**" in texts(app)
    assert "nothing tells how long they take" in texts(app)
    assert "top-k 4, uniform is the same run as uniform." in texts(app)
    assert not [button for button in app.button if button.key == "u_launch"]
    app.multiselect(key="sw_rules").set_value(["mean"])
    app.multiselect(key="sw_top_k").set_value(["2"])
    app.run()
    assert "**1 run.**" in texts(app)
    [shown] = [str(b.value) for b in app.code if b.language == "yaml"]
    app.button(key="sw_launch").click().run()
    assert not app.exception
    [(base, grids, name)] = launched
    data = yaml.safe_load(shown)
    assert data == {"name": name, "grids": grids, "base": base.model_dump(mode="json")}
    assert app.query_params["sweep"] in ("20260101-000000-abcdef", ["20260101-000000-abcdef"])


def test_what_cannot_be_swept_is_refused_before_launch(own_sets: object, open_page: Open) -> None:
    app = open_page("unlearn", u_mode="a sweep", sw_rules="none")
    assert "Nothing varies" in texts(app)


def test_points_front_and_the_way_to_each_run(
    bundled: object, trace_home: Path, open_page: Open
) -> None:
    found = with_points(trace_home)
    app = open_page("unlearn", sweep=found.id)
    assert not app.exception
    assert "Sweep: stored" in texts(app)
    assert "chosen on the very questions it is drawn with" in texts(app)
    table = next(frame.value for frame in app.dataframe if "point" in frame.value)
    assert list(table["front"]) == ["A", "", "B", ""]
    assert "The front: A top-k 1, mean; B top-k 2, mean." in texts(app)
    assert list(table["state"]) == ["done", "done", "done", "waiting"]
    assert app.button(key="sweep_resume")
    assert not [button for button in app.button if button.key == "sweep_stop"]
    runs = [point.run for point in outcomes(found)]
    app.selectbox(key="sweep_pick").select(runs[2]).run()
    app.button(key="sweep_open").click().run()
    assert not app.exception
    assert app.query_params["run"] in (runs[2], [runs[2]])
    assert app.query_params["sweep"] in (found.id, [found.id])


def test_a_click_opens_the_points_run(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr(sweep_view.state, "set_run_id", opened.append)
    figure = Figure(0.1, 0, 1, 9)
    point = sweeps.Outcome(7, "a", {}, "run-7", "done", 1, figure, figure, True)
    chosen = {"selection": {"points": [{"customdata": {"0": 7}}]}}
    monkeypatch.setattr(sweep_view.st, "session_state", {sweep_view.CHART: chosen})
    sweep_view._clicked([point])
    assert opened == ["run-7"]
    for foreign in ({}, {"selection": {"points": []}}, {"selection": {"points": [{"x": 1}]}},
                    {"selection": {"points": [{"customdata": ["x"]}]}}):  # fmt: skip
        assert sweep_figure.clicked_point(foreign) is None


@pytest.mark.parametrize("colours", [LIGHT, DARK])
def test_the_figure_names_the_front_and_keeps_intervals(tmp_path: Path, colours: Any) -> None:
    points = outcomes(with_points(tmp_path))
    figure = sweep_figure.sweep_figure(points, "accuracy", chance=0.25, colours=colours)
    line, mean, exact = figure.data
    assert list(line.x) == [0.3, 0.4]
    assert list(mean.x) == [0.3, 0.4]
    assert list(exact.x) == [0.5]
    assert list(mean.text) == ["A", "B"]
    assert list(exact.text) == [""]
    assert [row[0] for row in mean.customdata] == [0, 2]
    assert mean.error_x.array[0] == pytest.approx(0.1)
    assert sweep_figure.finding(points) == "3 of 4 points; 2 runs that no other beats"


def test_points_at_one_place_share_a_letter_and_are_told_together(tmp_path: Path) -> None:
    rows = [*ROWS, eval_row(20, 0.3, 0.8)]
    points = outcomes(stored_sweep(tmp_path, {"selection.top_k": (1, 2, 3)}, [rows, rows, rows]))
    [trace] = [t for t in sweep_figure.sweep_figure(points, "accuracy").data if t.text]
    assert list(trace.text) == ["A", "A", "A"]
    assert sweep_figure.key_of(points) == "A top-k 1; A top-k 2; A top-k 3"
    assert all("top-k 1<br>top-k 2<br>top-k 3<br>" in text for text in trace.hovertext)


def test_without_questions_the_plane_is_of_losses(
    bundled: object, trace_home: Path, open_page: Open
) -> None:
    rows = [[{**row, "accuracy": {}} for row in (ROWS[0], eval_row(step, 0, 0))] for step in (3, 9)]
    found = stored_sweep(
        trace_home, {"selection.top_k": (1, 2)}, rows, evaluation={"questions": None}
    )
    app = open_page("unlearn", sweep=found.id)
    assert not app.exception
    table = next(frame.value for frame in app.dataframe if "point" in frame.value)
    assert list(table["forget loss"]) == [4.0, 10.0]
    # Equal retain loss: the one that forgot more beats the other.
    assert list(table["front"]) == ["", "A"]
    figure = sweep_figure.sweep_figure(outcomes(found), "loss")
    assert "right is more forgotten" in figure.layout.xaxis.title.text
    assert figure.data[0].textposition == "bottom right"


def test_an_address_with_no_such_sweep_is_a_sentence(
    bundled: object, trace_home: Path, open_page: Open
) -> None:
    app = open_page("unlearn", sweep="../../etc")
    assert not app.exception
    assert "There is no sweep" in texts(app)
    app.button(key="sweep_forget").click().run()
    assert "There is no sweep" not in texts(app)


def test_a_run_leads_back_to_its_sweep_and_sweeps_are_listed(
    bundled: object, trace_home: Path, open_page: Open
) -> None:
    found = with_points(trace_home)
    app = open_page("unlearn")
    app.button(key="sw_open").click().run()
    assert "Sweep: stored" in texts(app)
    app.button(key="sw_delete").click().run()
    assert not app.exception
    assert not list_sweeps(trace_home)
    assert "Sweep: stored" not in texts(app)
    found = with_points(trace_home)
    run = str(outcomes(found)[0].run)
    launch = trace_home / "runs" / run / "launch.json"
    launch.write_text(f'{{"folder": "/", "sweep": "{found.id}"}}')
    other = outcomes(found)[2].run
    elsewhere = trace_home / "runs" / str(other) / "launch.json"
    elsewhere.write_text('{"folder": "/", "sweep": "20200101-000000-abcdef"}')
    app = open_page("unlearn", run=str(other))
    assert not [button for button in app.button if button.key == "run_sweep"]
    app = open_page("unlearn", run=run)
    app.button(key="run_sweep").click().run()
    assert not app.exception
    assert "Sweep: stored" in texts(app)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("spoilt", ["a pipe", "a folder", "points"])
def test_a_damaged_sweep_is_named_beside_the_others_and_can_be_forgotten(
    bundled: object, trace_home: Path, open_page: Open, spoilt: str
) -> None:
    bad, good = with_points(trace_home), with_points(trace_home)
    if spoilt == "points":
        (bad.path / "points.json").write_text('{"points":5}')
    else:
        (bad.path / "sweep.yaml").unlink()
        make = os.mkfifo if spoilt == "a pipe" else os.mkdir
        make(bad.path / "sweep.yaml")
    app = open_page("unlearn")
    assert not app.exception
    assert f"Sweep {bad.id} is damaged: " in texts(app)
    assert app.selectbox(key="sw_pick").options == [f"stored · {good.id}", f"damaged · {bad.id}"]
    app.selectbox(key="sw_pick").set_value(bad.id).run()
    assert app.button(key="sw_open").disabled
    app.button(key="sw_delete").click().run()
    assert not app.exception
    assert not bad.path.exists()
    assert "damaged" not in texts(app)
    app.button(key="sw_open").click().run()
    assert "Sweep: stored" in texts(app)


@pytest.mark.parametrize(
    ("given", "key", "default"),
    [
        ({}, "sw_rules", ["uniform", "mean", "exact"]),
        ({"u_control": "shuffled_weights"}, "sw_rules_control", ["mean", "exact"]),
        ({"u_method": "ga", "weights": '{"rule":"uniform"}'}, "sw_rules_plain", ["uniform"]),
    ],
)
def test_the_rules_on_offer_are_those_that_the_settings_allow(
    own_sets: object, open_page: Open, given: dict[str, str], key: str, default: list[str]
) -> None:
    app = open_page("unlearn", u_mode="a sweep", sw_top_k="1", **given)
    assert not app.exception
    rules = app.multiselect(key=key)
    assert rules.value == default
    assert "odds" not in rules.options
    assert not app.button(key="sw_launch").disabled
