"""The two finished runs that ship with the project: readable, complete, a fair pair, free of
machine paths.
"""

import re
from collections.abc import Callable

import pytest
from streamlit.testing.v1 import AppTest

from app import compare_view, replay
from trace_engine.bundled import PACK
from trace_engine.config import identity_of
from trace_engine.demo.settings import bundled_run
from trace_engine.runs import RunDirectory
from trace_engine.sets import read_questions

RUNS = {"run": "exact", "run_uniform": "uniform"}


@pytest.mark.parametrize("name", RUNS)
def test_a_bundled_run_is_the_demo_of_this_version(name: str) -> None:
    run = RunDirectory(PACK / name)
    # Identities, since a default may be left out or written out: all that decides a result.
    expected, found = identity_of(bundled_run()), identity_of(run.config())
    expected["weights"]["rule"] = RUNS[name]
    for settings in (expected, found):
        del settings["threads"]
    assert found == expected
    assert run.status().state == "done"
    assert [row["step"] for row in run.rows("eval")] == [0, 10, 20, 30, 40, 50, 60]
    assert [row["step"] for row in run.rows("train")] == list(range(1, 61))


@pytest.mark.parametrize("name", RUNS)
def test_its_chance_is_that_of_the_questions_it_was_asked(name: str) -> None:
    questions = read_questions(PACK / "questions" / "validation.jsonl")
    for row in RunDirectory(PACK / name).rows("eval"):
        asked = [questions[int(number)] for number in row["picked"]]
        for category, cell in row["accuracy"].items():
            mine = [question for question in asked if question.category == category]
            assert cell["n"] == len(mine)
            assert cell["chance"] == sum(1 / len(question.choices) for question in mine) / len(mine)


def test_the_pair_started_from_the_same_model_and_map() -> None:
    facts = [RunDirectory(PACK / name).facts() for name in RUNS]
    for field in ("profile_key", "model", "forget", "retain", "versions", "threads"):
        assert facts[0][field] == facts[1][field], field


def test_both_come_with_routing_before_and_after(trace_home: object) -> None:
    labels, skipped = compare_view.offered()
    found, unread = compare_view.read(labels)
    assert skipped == unread == []
    assert [run.path for run in found] == [replay.BUNDLED_RUN, replay.BUNDLED_CONTROL]
    for run in found:
        pair = compare_view.routing_profiles(run)
        assert pair is not None
        before, after = pair
        assert before.forget.document_ids == after.forget.document_ids
        assert compare_view.map_change(before, after).startswith("The strongest expert before")


def test_compare_shows_them(trace_home: object, open_page: Callable[..., AppTest]) -> None:
    app = open_page("compare")
    assert not app.exception
    assert any("Pareto front" in text.value for text in app.markdown)
    assert len(app.multiselect(key="compare_runs").value) == 2


@pytest.mark.parametrize("name", RUNS)
def test_no_file_names_a_folder_of_the_machine_that_made_it(name: str) -> None:
    for path in (PACK / name).rglob("*"):
        if path.suffix in {".json", ".jsonl", ".yaml"}:
            text = path.read_text(encoding="utf-8")
            assert not re.search(r'[" ]/(home|root|tmp|work|Users)/', text), path.name
