"""Compare: pooled utility with its n, a front that is not beaten, and "not recorded" in words."""

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import binomtest
from streamlit.testing.v1 import AppTest

from app import compare_view, judged, pareto, prompts_view, replay
from app.theme import LIGHT
from tests.app.stored import estimate, eval_row, unlearn_config, write_run
from tests.support.profiles import synthetic_profile
from trace_engine.evaluation.outcome import forget_and_utility
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
    _, utility = forget_and_utility(
        {"hazard": estimate(0.5), "a": estimate(1.0, 300), "b": estimate(0.0, 100)}, "hazard"
    )
    expected = binomtest(300, 400).proportion_ci(0.95, method="wilson")
    assert (utility.value, utility.n) == (0.75, 400)
    assert (utility.low, utility.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_a_group_that_was_not_measured_makes_utility_unknown() -> None:
    broken: dict[str, Any] = {"value": None, "n": 10}
    _, utility = forget_and_utility({"a": estimate(0.5), "b": broken}, "hazard")
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


SCORES = {
    "models": {
        "retrain_no_hazard": {
            split: {"hazard": estimate(value), "general": estimate(0.9)}
            for split, value in (("validation", 0.3), ("test", 0.2))
        }
    }
}
ROWS = (eval_row(0, 0.9, 0.9), eval_row(9, 0.3, 0.8))


def test_reference_fits_the_bundled_model_set_and_questions() -> None:
    run = stored(unlearn_config(), ROWS)
    found, sentence = compare_view.reference_point([run], SCORES)
    assert found is not None
    assert found.forget.value == 0.3
    assert "validation" in sentence
    assert compare_view.reference_point([run], None)[1].startswith("No reference")
    again = stored(
        unlearn_config(model={"source": "a/copy"}),
        ROWS,
        model={"fingerprint": judged.target_fingerprint()},
    )
    assert compare_view.reference_point([again], SCORES)[0] == found


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"evaluation": {"questions": "elsewhere/validation"}}, "for these questions"),
        ({"evaluation": {"questions": "/own/questions/test"}}, "for these questions"),
        ({"model": {"source": "owner/validation"}}, "for this model"),
        ({"model": {"source": "demo:retrain_no_book"}}, "for this model"),
        ({"forget": {"source": "elsewhere.jsonl"}}, "for this forget set"),
        (
            {
                "evaluation": {
                    "questions": "demo:questions/validation",
                    "forget_category": "neighbour",
                }
            },
            "another category",
        ),
        (
            {"evaluation": {"questions": "demo:questions/validation", "style": "letters"}},
            "another way",
        ),
    ],
)
def test_anything_else_has_no_reference_and_says_why(changes: dict[str, Any], why: str) -> None:
    found, sentence = compare_view.reference_point(
        [stored(unlearn_config(**changes), ROWS)], SCORES
    )
    assert found is None
    assert sentence.startswith("No reference")
    assert why in sentence


QUESTIONS = {"questions": "demo:questions/validation"}


@pytest.mark.parametrize(
    ("changes", "rows", "why"),
    [
        ({"evaluation": {"questions": "own.jsonl"}}, ROWS, "other questions (questions of own"),
        ({"evaluation": {"questions": "demo:questions/test"}}, ROWS, "other questions (bundled"),
        ({"model": {"source": "owner/name"}}, ROWS, "another model (name)"),
        ({"evaluation": {**QUESTIONS, "style": "letters"}}, ROWS, "another scoring style"),
        (
            {"evaluation": {**QUESTIONS, "forget_category": "general"}},
            ROWS,
            "another category to forget (general)",
        ),
        ({}, (eval_row(9, 0.1, 1.0, accuracy={"hazard": estimate(0.1, 20)}),), "another number"),
        (
            {"evaluation": {"questions": None}},
            (eval_row(9, 0.0, 0.0, accuracy={}),),
            "it has no accuracies",
        ),
    ],
)
def test_unlike_runs_share_no_front(
    changes: dict[str, Any], rows: tuple[Any, ...], why: str
) -> None:
    like = [dataclasses.replace(stored(unlearn_config(), ROWS), id=name) for name in ("a", "b")]
    odd = dataclasses.replace(stored(unlearn_config(**changes), rows), id="odd")
    chosen = [odd, *like]
    group = compare_view.choose_group(chosen[1:])
    assert group == like
    assert next(iter(judged.groups(chosen).values())) == like
    said = compare_view.left_out(group, chosen, {"odd": "Odd", "a": "A", "b": "B"})
    said = said.replace("\\", "")
    assert said.startswith("Not on this front: Odd: ")
    assert why in said
    assert compare_view.left_out(group, like, {}) == ""


def test_runs_left_out_for_one_reason_are_named_together() -> None:
    settings = {
        "own": {"questions": "own.jsonl"},
        "more": {"questions": "own.jsonl"},
        "a": QUESTIONS,
    }
    settings["letters"] = {**QUESTIONS, "style": "letters"}
    chosen = [
        dataclasses.replace(stored(unlearn_config(evaluation=how), ROWS), id=name)
        for name, how in settings.items()
    ]
    said = compare_view.left_out([chosen[2]], chosen, {name: f"*{name}*" for name in settings})
    assert said.splitlines() == [
        "Not on this front:",
        r"- \*own\*, \*more\*\: other questions (questions of own.jsonl).",
        r"- \*letters\*\: another scoring style (letters).",
    ]


def test_a_run_left_out_is_neither_drawn_nor_on_the_front(
    bundled: object, trace_home: Path, open_page: Callable[..., AppTest]
) -> None:
    for name in ("one", "two"):
        write_run(trace_home, list(ROWS), name=name)
    best = eval_row(9, 0.0, 1.0)
    write_run(trace_home, [best], name="odd", evaluation={**QUESTIONS, "style": "letters"})
    app = open_page("compare")
    assert not app.exception
    (said,) = [box.value.replace("\\", "") for box in app.info]
    assert said == "Not on this front: odd: another scoring style (letters)."
    drawn = json.loads(app.get("plotly_chart")[0].proto.spec)["data"]
    names = {trace.get("name") for trace in drawn}
    assert {"one", "two"} <= names
    assert "odd" not in names
    front = next(frame.value for frame in app.dataframe if "front" in frame.value)
    assert dict(zip(front["run"], front["front"], strict=True)) == {
        "odd": "left out",
        "one": "yes",
        "two": "yes",
    }


def test_the_smaller_group_can_be_chosen_and_is_kept_in_the_address(
    bundled: object, trace_home: Path, open_page: Callable[..., AppTest]
) -> None:
    for name in ("one", "two"):
        write_run(trace_home, list(ROWS), name=name)
    write_run(trace_home, list(ROWS), name="odd", evaluation={"questions": "own.jsonl"})
    app = open_page("compare")
    box = app.selectbox(key="compare_on")
    assert [option.split(":")[0] for option in box.options] == ["2 of 3 runs", "1 of 3 runs"]
    box.select_index(1).run()
    assert not app.exception
    assert any("odd stands alone" in text.value for text in app.markdown)
    assert any("exists for these questions" in caption.value for caption in app.caption)
    again = open_page("compare", compare_on=app.query_params["compare_on"])
    assert any("odd stands alone" in text.value for text in again.markdown)


def test_one_file_of_questions_under_two_paths_is_the_same() -> None:
    def run(path: str, fingerprint: str) -> replay.StoredRun:
        config = unlearn_config(evaluation={"questions": path})
        return stored(config, ROWS, questions={"fingerprint": fingerprint})

    assert judged.judged(run("a.jsonl", "1")) == judged.judged(run("b.jsonl", "1"))
    assert judged.judged(run("a.jsonl", "1")) != judged.judged(run("a.jsonl", "2"))


def test_a_run_that_kept_the_best_stands_where_its_saved_model_was_measured() -> None:
    rows = [eval_row(0, 0.9, 0.8), eval_row(10, 0.3, 0.7), eval_row(20, 0.2, 0.4)]
    last = pareto.point_of("a", "a", rows, "hazard")
    assert (last.forget.value, last.utility.value) == (0.2, 0.4)
    kept = pareto.point_of("a", "a", rows, "hazard", {"kept": {"step": 10}})
    assert (kept.forget.value, kept.utility.value) == (0.3, 0.7)
    assert kept.path == last.path
    assert kept.start == last.start
    # Facts of a run from before the choice, and of one that kept the last step.
    for facts in ({}, {"kept": {"step": 20, "sentence": ""}}):
        assert pareto.point_of("a", "a", rows, "hazard", facts) == last


def test_other_samples_of_the_same_questions_are_said() -> None:
    runs = [
        stored(unlearn_config(seed=seed), (eval_row(9, 0.3, 0.8, picked={number: 0}),))
        for seed, number in ((0, "4"), (1, "7"))
    ]
    assert len(judged.groups(runs)) == 1
    assert judged.other_samples(runs)
    assert not judged.other_samples(runs[:1])


def test_chance_on_the_chart_is_the_recorded_one() -> None:
    def run(chance: float | None) -> replay.StoredRun:
        return stored(unlearn_config(), (eval_row(0, 0.9, 0.9, chance),))

    assert compare_view.chance_of([run(0.5), run(0.5)]) == 0.5
    assert compare_view.chance_of([run(0.5), run(0.25)]) is None
    assert compare_view.chance_of([run(None)]) is None


def stored(config: Any, rows: tuple[Any, ...] = (), **facts: Any) -> replay.StoredRun:
    return replay.StoredRun("id", "label", Path("nowhere"), config, rows, facts)


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


def test_picked_runs_and_focus_are_kept_in_the_address(
    bundled: object, trace_home: Path, open_page: Callable[..., AppTest]
) -> None:
    for name in ("a", "b", "c"):
        write_run(trace_home, list(ROWS), name=name)
    app = open_page("compare")
    first, second, third = app.multiselect(key="compare_runs").value
    assert "compare_runs" not in app.query_params
    app.multiselect(key="compare_runs").unselect(second).run()
    app.selectbox(key="compare_focus").select(third).run()
    assert not app.exception
    address = {name: app.query_params[name] for name in ("compare_runs", "compare_focus")}
    again = open_page("compare", **address)
    assert not again.exception
    assert again.multiselect(key="compare_runs").value == [first, third]
    assert again.selectbox(key="compare_focus").value == third
    for run in first, third:
        again.multiselect(key="compare_runs").unselect(run).run()
    empty = open_page("compare", compare_runs=again.query_params["compare_runs"])
    assert empty.multiselect(key="compare_runs").value == []
    assert "Choose at least one run" in empty.info[0].value


def test_a_run_that_is_gone_is_left_out_of_the_address_and_said(
    bundled: object, trace_home: Path, open_page: Callable[..., AppTest]
) -> None:
    run = write_run(trace_home, list(ROWS), name="a").id
    write_run(trace_home, list(ROWS), name="b")
    app = open_page("compare", compare_runs=f"20200101-000000-abcdef,{run}")
    assert not app.exception
    assert app.multiselect(key="compare_runs").value == [run]
    assert "20200101" in app.warning[0].value
    app = open_page("compare", compare_runs="nothing", compare_focus="<b>")
    assert not app.exception
    assert len(app.multiselect(key="compare_runs").value) == 2
