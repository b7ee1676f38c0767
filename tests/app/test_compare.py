"""Compare: pooled utility with its n, a front that is not beaten, and "not recorded" in words."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import binomtest
from streamlit.testing.v1 import AppTest

from app import compare_view, pareto, prompts_view, replay
from app.theme import LIGHT
from tests.app.stored import estimate, eval_row, unlearn_config, write_run
from tests.support.profiles import synthetic_profile
from trace_engine.sets import Question


@pytest.fixture(autouse=True)
def without_the_bundled_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """What ships with a checkout must not decide these tests."""
    monkeypatch.setattr(replay, "BUNDLED_RUN", Path("no-such-run"))
    monkeypatch.setattr(replay, "BUNDLED_CONTROL", Path("no-such-run"))
    monkeypatch.setattr(replay.bundled_run, "__defaults__", (Path("no-such-run"),))


def point(key: str, forget: float, utility: float) -> pareto.Point:
    return pareto.point_of(key, key, [eval_row(9, forget, utility)], "hazard")


def test_two_runs_are_compared(
    bundled: object, trace_home: Path, open_page: Callable[..., AppTest]
) -> None:
    write_run(trace_home, [eval_row(0, 0.9, 0.9), eval_row(9, 0.3, 0.85)], name="trace")
    write_run(
        trace_home,
        [eval_row(0, 0.9, 0.9), eval_row(9, 0.3, 0.7)],
        name="plain",
        weights={"rule": "uniform"},
    )
    app = open_page("compare")
    assert not app.exception
    assert any("Pareto front\\: trace; 1 of 2" in text.value for text in app.markdown)
    tables = [frame.value for frame in app.dataframe]
    differing = next(table for table in tables if "setting" in table)
    assert list(differing["setting"]) == ["weights.rule"]
    assert any(caption.value.startswith("Not recorded") for caption in app.caption)


def test_before_and_after_maps_are_on_one_scale(
    bundled: object, trace_home: Path, open_page: Callable[..., AppTest]
) -> None:
    run = write_run(trace_home, [eval_row(0, 0.9, 0.9), eval_row(9, 0.3, 0.85)])
    synthetic_profile(seed=1).save(run.path / "profile-before")
    synthetic_profile(seed=2, planted=()).save(run.path / "profile-after")
    app = open_page("compare")
    assert not app.exception
    assert any("strongest expert before" in caption.value for caption in app.caption)


def test_nothing_to_compare_is_said(bundled: object, open_page: Callable[..., AppTest]) -> None:
    app = open_page("compare")
    assert not app.exception
    assert "nothing to compare" in app.info[0].value


def test_utility_is_pooled_over_questions_not_over_groups() -> None:
    _, utility = pareto.forget_and_utility(
        {"hazard": estimate(0.5), "a": estimate(1.0, 300), "b": estimate(0.0, 100)}, "hazard"
    )
    expected = binomtest(300, 400).proportion_ci(0.95, method="wilson")
    assert (utility.value, utility.n) == (0.75, 400)
    assert (utility.low, utility.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_a_group_that_was_not_measured_makes_utility_unknown() -> None:
    broken: dict[str, Any] = {"value": None, "n": 10}
    _, utility = pareto.forget_and_utility({"a": estimate(0.5), "b": broken}, "hazard")
    assert math.isnan(utility.value)
    assert utility.sentence() == "not measured"


def test_the_front_holds_what_no_run_beats() -> None:
    points = [point("a", 0.3, 0.9), point("b", 0.3, 0.8), point("c", 0.2, 0.7)]
    assert pareto.front(points) == {"a", "c"}
    assert "1 of 3 are beaten" in pareto.finding(points)


def test_a_run_that_has_not_forgotten_is_called_so_even_on_the_front() -> None:
    def run(key: str, *forget: float) -> pareto.Point:
        utility = 0.9 if key == "kept" else 0.8
        rows = [eval_row(step, value, utility) for step, value in enumerate(forget)]
        return pareto.point_of(key, key, rows, "hazard")

    # Intervals reach a tenth to both sides.
    kept, forgot, start = run("kept", 0.9, 0.85), run("forgot", 0.9, 0.3), run("start", 0.9)
    assert [point.forgotten for point in (kept, forgot, start)] == [False, True, False]
    finding = pareto.finding([kept, forgot])
    assert "kept (has not forgotten)" in finding
    assert "forgot (has not" not in finding
    assert "still includes the value at the start" in finding
    assert "has not forgotten" in pareto.finding([kept])
    both = pareto.finding([kept, dataclasses.replace(kept, key="same")])
    assert "None of these has forgotten" in both
    assert "(has not" not in both
    assert "forgotten" not in pareto.finding([forgot])
    names = {trace.name for trace in pareto.pareto_figure([kept, forgot], chance=0.25).data}
    assert {"kept (not forgotten)", "forgot"} <= names


def test_what_was_not_measured_is_said_in_words(
    bundled: object, trace_home: Path, open_page: Callable[..., AppTest]
) -> None:
    without = {**eval_row(9, 0.3, 0.85), "accuracy": None}
    write_run(trace_home, [without], name="no questions", evaluation={"questions": None})
    write_run(trace_home, [eval_row(0, 0.9, 0.9), eval_row(9, 0.3, 0.85)], name="asked")
    app = open_page("compare")
    assert not app.exception
    table = next(frame for frame in app.dataframe if "front" in frame.value)
    line = table.value.set_index("run").loc["no questions"]
    assert math.isnan(line["forget"])
    assert set(line[["forgotten", "front", "n"]]) == {"not measured"}
    assert table.proto.placeholder == "not measured"


def test_overlapping_intervals_are_said() -> None:
    assert "may be chance" in pareto.finding([point("a", 0.30, 0.9), point("b", 0.31, 0.9)])
    assert "may be chance" not in pareto.finding([point("a", 0.3, 0.9), point("b", 0.9, 0.2)])


def test_pareto_draws_bars_paths_and_reference() -> None:
    rows = [eval_row(0, 0.9, 0.9), eval_row(9, 0.3, 0.8)]
    run = pareto.point_of("a", "<b>a</b>", rows, "hazard")
    reference = pareto.Point("r", "reference", run.forget, run.utility, reference=True)
    figure = pareto.pareto_figure([run, reference], chance=0.25, paths=True, colours=LIGHT)
    assert [trace.name for trace in figure.data if trace.name] == [
        "&lt;b&gt;a&lt;/b&gt;",
        "reference",
    ]
    assert any(trace.mode == "lines+markers" for trace in figure.data)
    assert "r" not in pareto.front([run, reference])


def test_reference_fits_only_the_same_questions() -> None:
    scores = {
        "models": {
            "retrain_no_hazard": {
                "validation": {"hazard": estimate(0.3), "general": estimate(0.9)},
            }
        }
    }
    run = stored(unlearn_config())
    found, sentence = compare_view.reference_point([run], scores)
    assert found is not None
    assert found.forget.value == 0.3
    assert "validation" in sentence
    other = stored(unlearn_config(forget={"source": "elsewhere.jsonl"}))
    assert compare_view.reference_point([other], scores)[0] is None
    assert compare_view.reference_point([run], None)[1].startswith("No reference")


def test_chance_on_the_chart_is_the_recorded_one() -> None:
    def run(chance: float | None) -> replay.StoredRun:
        return stored(unlearn_config(), (eval_row(0, 0.9, 0.9, chance),))

    assert compare_view.chance_of([run(0.5), run(0.5)]) == 0.5
    assert compare_view.chance_of([run(0.5), run(0.25)]) is None
    assert compare_view.chance_of([run(None)]) is None


def stored(config: Any, rows: tuple[Any, ...] = ()) -> replay.StoredRun:
    return replay.StoredRun("id", "label", Path("nowhere"), config, rows)


def test_only_differing_settings_are_listed() -> None:
    runs = [
        stored(unlearn_config(name="a", seed=1)),
        stored(unlearn_config(name="b", seed=2, weights={"rule": "mean"})),
    ]
    frame = compare_view.differences(runs, ["a", "b"])
    assert set(frame["setting"]) == {"seed", "weights.rule"}


def test_answers_are_shown_where_they_were_recorded() -> None:
    question = Question("what?", ("one", "two"), 0, "hazard")
    rows = (
        eval_row(0, 0.9, 0.9, picked={"4": 0}),
        eval_row(9, 0.3, 0.8, picked={"4": 1}),
    )
    runs = [stored(unlearn_config(), rows), stored(unlearn_config(), (eval_row(0, 1.0, 1.0),))]
    frame = prompts_view.answers_frame([(4, question)], runs, ["a", "b"])
    assert list(frame["before"]) == ["right: one", "not recorded"]
    assert list(frame["after"]) == ["wrong: two", "not recorded"]


def test_equal_labels_stay_two_runs() -> None:
    assert pareto.shorten(["a", "a", "b"]) == ["a", "a (2)", "b"]


def test_runs_of_one_label_can_be_chosen_apart(
    bundled: object, trace_home: Path, open_page: Callable[..., AppTest]
) -> None:
    rows = [eval_row(0, 0.9, 0.9), eval_row(9, 0.3, 0.85)]
    runs = [write_run(trace_home, rows, name="twin") for _ in range(2)]
    app = open_page("compare")
    box = app.multiselect(key="compare_runs")
    assert sorted(box.options) == sorted(f"twin {run.id[-6:]}" for run in runs)
    box.unselect(runs[0].id).run()
    assert not app.exception
    assert app.session_state["compare_runs"] == [runs[1].id]


def test_a_run_without_questions_shows_its_losses_and_nothing_to_reveal(
    bundled: object, trace_home: Path, open_page: Callable[..., AppTest]
) -> None:
    rows = [eval_row(step, 0.0, 0.0, accuracy={}, picked={}, held_out=True) for step in (0, 9)]
    write_run(trace_home, rows, evaluation={"questions": None})
    app = open_page("compare")
    assert not app.exception
    final = next(frame.value for frame in app.dataframe if "measure" in frame.value)
    assert dict(zip(final["group"], final["value"], strict=True)) == {
        "forget text": 10.0,
        "retain text": 2.0,
    }
    assert set(final["measure"]) == {"loss on held-out text, nats per token"}
    assert any(caption.value.startswith("No chosen run asked") for caption in app.caption)
    assert [button for button in app.button if button.key == "prompts_reveal"] == []


def test_questions_that_all_runs_were_asked_come_first(
    bundled: object, trace_home: Path, open_page: Callable[..., AppTest]
) -> None:
    many = {str(number): 0 for number in range(0, 900)}
    for name, asked in (("many", many), ("few", dict(list(many.items())[-300:]))):
        rows = [eval_row(step, 0.9, 0.9, picked=asked) for step in (0, 9)]
        write_run(trace_home, rows, name=name)
    app = open_page("compare")
    assert not app.exception
    answers = next(frame.value for frame in app.dataframe if "before" in frame.value)
    assert len(answers) == 10
    assert "not recorded" not in set(answers["before"])
