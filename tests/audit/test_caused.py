"""Causal evidence as parts: which model, which experts, and what the rules read of it."""

import copy
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import Any

import pytest

from tests.audit.cases import AUDIT, small
from trace_engine.audit import parts as audit_parts
from trace_engine.audit.ablated import told_loads
from trace_engine.audit.case import Case
from trace_engine.audit.caused import some_questions
from trace_engine.audit.marks import attack_figures
from trace_engine.audit.parts import key_of
from trace_engine.audit.report import derived_files
from trace_engine.audit.rerouting import ROUTED
from trace_engine.audit.retold import TITLES
from trace_engine.audit.run import Audited, run_audit
from trace_engine.audit.settings import PARTS, AuditConfig
from trace_engine.audit.verify import verify_audit
from trace_engine.causal.results import HARMS, Loads


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
    assert found["draws"] == 2
    page = (finished.folder / "report.html").read_text("utf-8")
    assert "All together: With L" in page


def section_of(page: str) -> str:
    return page.partition("What hangs on these experts together?")[2].partition("<h2>")[0]


def test_the_loads_and_bands_of_random_sets_stand_in_the_report(finished: Audited) -> None:
    found = finished.report["parts"]["causal"]["summary"]
    loads = found["loads"]
    assert loads["n"] == found["draws"] == 2
    assert loads["low"] <= loads["high"]
    told = f"{loads['equal']} of 2 within 10\N{NO-BREAK SPACE}% of its load of {loads['own']:.3f}"
    assert told in found["sentence"]
    section = section_of((finished.folder / "report.html").read_text("utf-8"))
    assert section.count(told) == 2
    table = (finished.folder / "tables/random_sets.csv").read_text("utf-8").splitlines()
    assert len(table) == 1 + len(found["bands"]) == 7
    for words in HARMS.values():
        assert f"<td>{words}</td>" in section
        assert any(line.startswith((words, f'"{words}"')) for line in table)


def test_sets_that_carry_less_are_not_called_equal() -> None:
    loads = Loads(own=0.482, low=0.384, high=0.469, equal=2, n=20)
    summary = {"loads": asdict(loads), "load_source": "made up", "bands": {}}
    said = told_loads(summary)
    assert (
        "2 of 20 within 10\N{NO-BREAK SPACE}% of its load of 0.482, all at 0.384 to 0.469." in said
    )
    alike = asdict(loads) | {"equal": 20}
    assert "The others" not in told_loads(summary | {"loads": alike})


def test_the_joint_ablations_p_is_corrected_over_groups_and_figures(finished: Audited) -> None:
    effects = finished.report["parts"]["causal"]["summary"]["effects"]
    changes = [effect[name] for effect in effects for name in ("accuracy", "loss")]
    assert len(changes) == 4
    assert min(change["p_corrected"] for change in changes) == pytest.approx(
        min(1.0, 4 * min(change["p"] for change in changes))
    )
    section = section_of((finished.folder / "report.html").read_text("utf-8"))
    assert '<th class="n">corrected p</th>' in section
    assert '<th class="n">p</th><th class="n">loss</th>' not in section


def test_a_report_that_kept_no_loads_is_drawn_as_it_was(finished: Audited) -> None:
    data = copy.deepcopy(finished.report)
    del data["parts"]["causal"]["summary"]["loads"]
    del data["parts"]["rerouted"]["summary"]["forced"]["loads"]
    files = derived_files(data)
    assert "tables/random_sets.csv" not in files
    section = section_of(files["report.html"])
    assert '<th class="n">accuracy</th><th class="n">p</th>' in section
    assert "corrected p" not in section.partition("All together")[0]
    assert "do as much" not in section


def test_the_tests_of_rerouting_are_told_and_judged(finished: Audited) -> None:
    found = finished.report["parts"]["rerouted"]["summary"]
    assert set(found["sentences"]) == {"overlap", "restored", "forced", "probing"}
    assert not {"before", "after", "reference"} & set(found)
    names = {test["test"] for test in found["excess"]}
    assert "the start model's routers put back" in names
    assert {test["kind"] for test in found["excess"]} == {"routed"}
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
    drawn = some_questions(case)
    asked = list(drawn.values())
    assert [q.category for q in asked].count("hazard") == 6
    assert [q.category for q in asked].count("other") == 6
    assert all(question in case.questions.values() for question in asked)
    assert drawn == some_questions(case)


def rerouting(folder: Path, **changed: Any) -> AuditConfig:
    """The small audit, with the next best taking over."""
    plain = small(folder, **changed)
    causal = plain.causal.model_copy(update={"mode": "reroute"})
    return plain.model_copy(update={"causal": causal})


def test_the_next_best_can_take_over_and_the_report_says_so(
    finished: Audited, tmp_path: Path
) -> None:
    config = rerouting(tmp_path / "sets", parts=["questions", "routing", "causal"])
    found = run_audit(config, tmp_path / "out", base=tmp_path / "home")
    dropped, taken_over = (
        audit.report["parts"]["causal"]["summary"] for audit in (finished, found)
    )
    assert (dropped["mode"], taken_over["mode"]) == ("drop", "reroute")
    assert "dropped, accuracy on hazard goes" in dropped["sentence"]
    assert "re-routed to the next best, accuracy on hazard goes" in taken_over["sentence"]
    page = (found.folder / "report.html").read_text("utf-8")
    assert taken_over["sentence"].partition(",")[0] in section_of(page)
    said = ("taken out one by one, the next best taking over (6 forget",
            "each by itself, the next best taking over, and 6 forget")  # fmt: skip
    assert all(words in page for words in said)
    assert "taking over" not in (finished.folder / "report.html").read_text("utf-8")
    # The same experts, one by one too; and what is lost is not the same.
    loss = [[row["forget_loss"] for row in of["cells"]] for of in (dropped, taken_over)]
    assert len(loss[0]) == len(loss[1]) == 3
    assert all(one != other for one, other in zip(*loss, strict=True))
    assert verify_audit(found.folder, base=tmp_path / "home", thorough=True).exit_code == 0


def test_how_experts_are_taken_out_is_part_of_one_key_and_of_no_older_one(tmp_path: Path) -> None:
    plain, changed = small(tmp_path / "sets"), rerouting(tmp_path / "sets")
    one, other = Case.read(plain), Case.read(changed)
    assert [part for part in PARTS if key_of(part, one) != key_of(part, other)] == ["causal"]
    before = {"experts": 3, "draws": 2, "questions": 6, "permutations": 99}
    for part in ("causal", "rerouted"):
        assert audit_parts._own(part, plain) == {"causal": before}


@pytest.mark.parametrize("part", ["causal", "rerouted"])
def test_they_are_parts_like_any_other(part: str, finished: Audited) -> None:
    assert (finished.folder / f"parts/{part}.json").is_file()
