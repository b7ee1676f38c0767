"""A way of asking that hides what a model knows is told from knowledge that is gone."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.audit.cases import small
from trace_engine.audit.attacked import _asked
from trace_engine.audit.case import Case
from trace_engine.audit.controls import Control, hidden_by_all
from trace_engine.audit.evidence import finding_of
from trace_engine.audit.report import derived_files
from trace_engine.audit.rules import RulesConfig
from trace_engine.audit.run import Audited

KNOWS = {"plain": "1111", "loud": "1110", "odd": "1000"}


def part_of(folder: Path, right: dict[str, dict[str, str]], *, part: Any = "prefixes") -> Any:
    """An attack's summary, of four questions with these marks."""
    case = Case.read(small(folder / "sets", max_questions=4), folder / "home")
    return _asked(case, right, [], part).summary


def test_the_start_model_is_measured_beyond_the_reference_asked_alike(tmp_path: Path) -> None:
    nothing = {"plain": "0000", "loud": "0000", "odd": "0000"}
    guesses = {"plain": "1000", "loud": "0100", "odd": "0000"}
    found = part_of(tmp_path, {"model": nothing, "reference": guesses, "before": KNOWS})
    loud, odd = (Control.of(row) for row in found["controls"])
    assert (loud.way, loud.over, loud.plain.value, loud.asked.value) == (
        "loud", "reference", 0.75, 0.5,
    )  # fmt: skip
    assert (odd.asked.value, odd.asked.n) == (0.25, 4)
    assert [control.hides(0.1) for control in (loud, odd)] == [False, True]
    assert not hidden_by_all(found, 0.1)
    # What is judged is the audited model beside the reference, as before.
    assert [test["test"] for test in found["excess"]] == ["loud", "odd"]
    assert {row["model"] for row in found["rows"]} == {"model", "reference", "before"}


def test_without_a_reference_it_is_measured_beyond_guessing(tmp_path: Path) -> None:
    found = part_of(tmp_path, {"model": KNOWS, "before": KNOWS})
    [loud, odd] = found["controls"]
    assert (loud["over"], loud["plain"]["value"], loud["asked"]["value"]) == ("chance", 0.75, 0.5)
    # Nothing is told of a start model that does not know: there is nothing to hide.
    assert not Control.of(odd).hides(0.8)
    assert Control.of(odd).says(0.8) == "knows too little to tell"


def test_a_question_that_was_not_asked_in_a_way_counts_on_neither_side(tmp_path: Path) -> None:
    found = part_of(tmp_path, {"model": KNOWS, "before": {"plain": "1110", "some": "10  "}})
    [some] = found["controls"]
    assert (some["plain"]["value"], some["plain"]["n"]) == (0.75, 2)
    assert (some["asked"]["value"], some["asked"]["n"]) == (0.25, 2)


@pytest.mark.slow
def test_ways_that_all_hide_count_as_not_tested_and_the_report_says_so(
    finished: Audited,
) -> None:
    report = json.loads((finished.folder / "report.json").read_text("utf-8"))
    summaries = {n: part["summary"] for n, part in report["parts"].items() if part["done"]}
    assert {row["way"] for row in summaries["prefixes"]["controls"]} == {"prefix 1"}
    rules = RulesConfig.recorded(report["rules"])
    plain = finding_of(summaries, {}, rules)
    assert not any("hides most" in said for said in plain.not_tested)
    [row] = summaries["prefixes"]["controls"]
    row["plain"]["value"], row["asked"]["value"] = 0.8, 0.1
    hidden = finding_of(summaries, {}, rules)
    [said] = set(hidden.not_tested) - set(plain.not_tested)
    assert said.startswith("jailbreak-style prefixes: every one of them hides most")
    page = derived_files(report)["report.html"]
    told = page[page.index("Can it be seen in this way?") :]
    told = told[told.index("prefix 1") :]
    assert told.index("0.100 [") < told.index("0.800 [") < told.index("hides it")
    row["asked"]["value"] = 0.5
    assert ">shows it<" in derived_files(report)["report.html"]


@pytest.mark.parametrize("part", ["paraphrases", "prefixes"])
def test_only_ways_of_asking_have_controls(finished: Audited, part: str) -> None:
    report = json.loads((finished.folder / "report.json").read_text("utf-8"))
    assert report["parts"][part]["summary"]["controls"]
    assert "controls" not in report["parts"]["quantisation"]["summary"]
