"""The runs that led to a model: their curves, and whether they were asked the audit's questions."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.audit.cases import small
from trace_engine.audit.case import Case
from trace_engine.audit.led import drawn_runs, run_entry, told_questions
from trace_engine.audit.report import derived_files
from trace_engine.audit.run import run_audit
from trace_engine.audit.verify import verify_audit
from trace_engine.bundled import PACK


def write_run(folder: Path, fingerprint: str | None, **facts: Any) -> Path:
    """The bundled pack's run, with a fingerprint of its questions and other facts."""
    shutil.copytree(PACK / "run", folder, ignore=shutil.ignore_patterns("profile-after"))
    known = json.loads((folder / "facts.json").read_text("utf-8")) | facts
    if fingerprint is not None:
        known["questions"]["fingerprint"] = fingerprint
    (folder / "facts.json").write_text(json.dumps(known), encoding="utf-8")
    return folder


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case.read(small(tmp_path / "sets"), tmp_path / "home")


def test_a_run_keeps_its_figures_with_n_and_interval(case: Case, tmp_path: Path) -> None:
    entry = run_entry(str(write_run(tmp_path / "mine", None, kept={"step": 40})), case)
    assert [row["step"] for row in entry["evaluations"]] == [0, 10, 20, 30, 40, 50, 60]
    first, last = entry["evaluations"][0], entry["evaluations"][-1]
    assert (first["forget"]["value"], first["utility"]["n"]) == (1.0, 300)
    assert last["forget"]["value"] == pytest.approx(0.44)
    assert last["utility"]["value"] == pytest.approx((84 + 91 + 77) / 300)
    assert last["utility"]["low"] < last["utility"]["value"] < last["utility"]["high"]
    (drawn,) = drawn_runs([entry])
    assert "100 and 300 questions" in drawn.told
    assert drawn.told.endswith("It saved the model of step 40.")


def test_a_run_that_was_asked_the_same_questions_is_named(case: Case, tmp_path: Path) -> None:
    same = run_entry(str(write_run(tmp_path / "same", case.questions_hash)), case)
    other = run_entry(str(write_run(tmp_path / "other", "f" * 64)), case)
    older = run_entry(str(write_run(tmp_path / "older", None)), case)
    missing = run_entry(str(tmp_path / "nothing"), case)
    assert [run.get("same_questions") for run in (same, other, older)] == [True, False, None]
    named, unknown = told_questions([same, other, older, missing])
    assert "questions of this audit: same." in named
    assert unknown.endswith("is not known: older.")
    assert told_questions([other, missing]) == []
    assert missing["state"] == "not readable"


def test_bundled_questions_are_known_by_name(tmp_path: Path) -> None:
    for split, same in (("validation", True), ("test", False)):
        config = small(tmp_path / "sets", questions=f"demo:questions/{split}")
        asked = Case.read(config, tmp_path / "home")
        assert run_entry(str(PACK / "run"), asked)["same_questions"] is same


@pytest.mark.parametrize("accuracy", [[1], {"hazard": 0.5, "other": 0.5}, {"hazard": [1]}])
def test_rows_that_no_run_writes_are_left_out(case: Case, tmp_path: Path, accuracy: Any) -> None:
    run = write_run(tmp_path / "mine", None)
    row = {"attempt": 1, "kind": "eval", "step": 70, "accuracy": accuracy}
    with (run / "metrics.jsonl").open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(row) + "\n")
    entry = run_entry(str(run), case)
    assert not entry.get("evaluations")
    assert drawn_runs([entry]) == []


def test_curves_and_warning_stand_in_the_report_and_its_tables(tmp_path: Path) -> None:
    config = small(tmp_path / "sets", parts=["questions"])
    asked = Case.read(config, tmp_path / "home")
    run = write_run(tmp_path / "mine", asked.questions_hash)
    config = config.model_copy(update={"runs": (str(run),)})
    found = run_audit(config, tmp_path / "out", base=tmp_path / "home")
    page = (found.folder / "report.html").read_text("utf-8")
    assert "Evaluated on the very questions of this audit: mine." in page
    section = page.partition("The runs that led to the model</h3>")[2]
    assert "<figcaption>Run mine: forget and utility</figcaption>" in section
    rows = (found.folder / "tables/runs.csv").read_text("utf-8").splitlines()
    assert len(rows) == 1 + 7 * 2
    verified = verify_audit(found.folder, recompute=False)
    assert not verified.differs
    for entry in found.report["runs"]:
        for later in ("same_questions", "kept_step", "evaluations"):
            del entry[later]
    older = derived_files(found.report)
    assert "tables/runs.csv" not in older
    assert "forget and utility</figcaption>" not in older["report.html"]
    assert "Evaluated on the very questions" not in older["report.html"]
