"""Causal evidence as parts: which model, which experts, and what the rules read of it."""

from pathlib import Path

import pytest

from tests.audit.cases import small
from trace_engine.audit.case import Case
from trace_engine.audit.caused import _excess, _some
from trace_engine.audit.run import Audited
from trace_engine.causal import Change


def test_the_largest_gaps_of_the_start_model_are_taken_out(finished: Audited) -> None:
    parts = finished.report["parts"]
    found = parts["causal"]["summary"]
    assert found["role"] == "before"
    cells = {(row["layer"], row["expert"]) for row in found["cells"]}
    ranked = sorted(
        parts["routing"]["summary"]["before"]["cells"], key=lambda cell: -cell["difference"]
    )
    assert cells == {(cell["layer"], cell["expert"]) for cell in ranked[:3]}
    assert {row["n_forget"] for row in found["cells"]} == {6}
    assert found["draws"] <= 2
    page = (finished.folder / "report.html").read_text("utf-8")
    assert "All together: With L" in page


def test_the_tests_of_rerouting_are_told_and_judged(finished: Audited) -> None:
    found = finished.report["parts"]["rerouted"]["summary"]
    assert set(found["sentences"]) == {"overlap", "restored", "forced", "probing"}
    assert not {"before", "after", "reference"} & set(found)
    names = {test["test"] for test in found["excess"]}
    assert "the start model's routers put back" in names
    assert {test["kind"] for test in found["excess"]} == {"intact"}


def test_a_change_is_an_excess_over_the_model_as_it_is() -> None:
    change = Change(before=0.2, after=0.7, change=0.5, low=0.4, high=0.6, p=0.001, p_corrected=0.01)
    found = _excess("old routers", change, 80)
    assert (found.over, found.kind, found.estimate.n) == ("itself", "intact", 80)
    assert (found.estimate.value, found.estimate.low, found.estimate.high) == (0.5, 0.4, 0.6)


def test_questions_are_drawn_from_those_of_the_audit(tmp_path: Path) -> None:
    case = Case.read(small(tmp_path / "sets", max_questions=15), tmp_path / "home")
    asked = _some(case)
    assert [q.category for q in asked].count("hazard") == 6
    assert [q.category for q in asked].count("other") == 6
    assert all(question in case.questions.values() for question in asked)
    assert asked == _some(case)


@pytest.mark.parametrize("part", ["causal", "rerouted"])
def test_they_are_parts_like_any_other(part: str, finished: Audited) -> None:
    assert (finished.folder / f"parts/{part}.json").is_file()
