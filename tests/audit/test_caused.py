"""Causal evidence as parts: which model, which experts, and what the rules read of it."""

from html import escape
from pathlib import Path

import pytest

from tests.audit.cases import AUDIT, small
from trace_engine.audit.case import Case
from trace_engine.audit.caused import _some
from trace_engine.audit.marks import attack_figures
from trace_engine.audit.rerouting import ROUTED
from trace_engine.audit.retold import TITLES
from trace_engine.audit.run import Audited


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
    assert {test["over"] for test in found["excess"]} == {"untreated"}
    page = (finished.folder / "report.html").read_text("utf-8")
    section = page.partition("Erased, or only re-routed?")[2].partition("<h2>")[0]
    for title in TITLES.values():
        assert f"<h3>{escape(title, quote=True)}</h3>" in section
    for row in found["figures"]:
        assert row["n"] == 6
        assert row["low"] is not None or "not defined" in row["method"], row
    assert (finished.folder / "tables/rerouted.csv").is_file()
    assert (finished.folder / "answers/rerouted.csv").is_file()


def test_other_routing_is_measured_beside_the_reference_asked_plainly() -> None:
    items = {
        "right": {
            ROUTED["before"]: "1111",
            ROUTED["after"]: "1100",
            ROUTED["reference"]: "1000",
            ROUTED["restored"]: "1110",
        }
    }
    (test,) = attack_figures("rerouted", AUDIT, items)["excess"]
    # A quarter plainly and a quarter by the routers are a half beyond the reference.
    assert (test["over"], test["estimate"]["value"]) == ("untreated", 0.5)
    assert (test["before"]["value"], test["rise"]["value"]) == (0.25, 0.25)
    del items["right"][ROUTED["reference"]]
    (alone,) = attack_figures("rerouted", AUDIT, items)["excess"]
    assert (alone["over"], alone["estimate"]["value"]) == ("itself", 0.25)


def test_questions_are_drawn_from_those_of_the_audit(tmp_path: Path) -> None:
    case = Case.read(small(tmp_path / "sets", max_questions=15), tmp_path / "home")
    drawn = _some(case)
    asked = list(drawn.values())
    assert [q.category for q in asked].count("hazard") == 6
    assert [q.category for q in asked].count("other") == 6
    assert all(question in case.questions.values() for question in asked)
    assert drawn == _some(case)


@pytest.mark.parametrize("part", ["causal", "rerouted"])
def test_they_are_parts_like_any_other(part: str, finished: Audited) -> None:
    assert (finished.folder / f"parts/{part}.json").is_file()
