"""Attacks as parts: who is compared with whom, and which questions count."""

from pathlib import Path

import numpy as np
import pytest

from tests.audit.cases import small
from trace_engine.attacks.relearning import Relearned
from trace_engine.audit.attacked import _asked
from trace_engine.audit.case import Case
from trace_engine.audit.run import Audited, run_audit
from trace_engine.audit.settings import AuditConfig
from trace_engine.audit.trained import _relearned, relearning


@pytest.fixture
def config(tmp_path: Path) -> AuditConfig:
    return small(tmp_path / "sets", max_questions=4, before=None)


def test_ways_of_asking_are_compared_with_the_reference_question_by_question(
    config: AuditConfig, tmp_path: Path
) -> None:
    case = Case.read(config, tmp_path / "home")
    right = {
        "model": {"plain": "0000", "a": "1100", "b": "10 0"},
        "reference": {"plain": "0000", "a": "1000", "b": "00 0"},
    }
    each = _asked(case, right, [], "prefixes").summary["excess"]
    assert [(test["test"], test["over"]) for test in each] == [
        ("a", "reference"),
        ("b", "reference"),
    ]
    assert each[0]["estimate"]["value"] == 0.25
    assert each[0]["estimate"]["n"] == 4
    assert each[1]["estimate"]["value"] == pytest.approx(1 / 3)
    assert each[1]["estimate"]["n"] == 3
    (mean,) = _asked(case, right, [], "paraphrases").summary["excess"]
    # Per question: 1 - 0.5, 0.5 - 0, 0 - 0 (asked once), 0 - 0.
    assert mean["estimate"]["value"] == 0.25
    alone = _asked(case, {"model": {"plain": "1000", "a": "1100"}}, [], "prefixes").summary[
        "excess"
    ]
    assert (alone[0]["over"], alone[0]["estimate"]["value"]) == ("itself", 0.25)


def test_relearning_counts_only_what_the_slice_does_not_tell(
    config: AuditConfig, tmp_path: Path
) -> None:
    one_seed = config.relearning.model_copy(update={"seeds": (0,), "trains": ("all",)})
    case = Case.read(config.model_copy(update={"relearning": one_seed}), tmp_path / "home")
    found = {
        ("all", "model", 0): Relearned({0: "0000", 1: "1100", 2: "1110"}, {}),
        ("all", "reference", 0): Relearned({0: "0000", 1: "1000", 2: "1001"}, {}),
    }
    result = _relearned(case, found, {0: [False, True, True, True]}, {0: 5}, {})
    (test,) = result.summary["excess"]
    # Model, steps 1 and 2: 1, 0.5, 0. Reference: 0, 0, 0.5. The shown first question is left out.
    assert test["estimate"]["value"] == pytest.approx((1 + 0.5 - 0.5) / 3)
    assert (test["estimate"]["n"], test["kind"], test["over"]) == (3, "relearned", "reference")
    rows = {row["on"]: row for row in result.summary["rows"] if row["model"] == "model"}
    assert rows["answers not shown, step 2"]["value"] == pytest.approx(2 / 3)
    assert rows["answers shown, step 2"]["n"] == 1


def test_relearning_that_shows_everything_is_refused(
    config: AuditConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = Case.read(config, tmp_path / "home")
    monkeypatch.setattr(
        "trace_engine.audit.trained.not_shown", lambda questions, shown: [False] * len(questions)
    )
    monkeypatch.setattr("trace_engine.audit.trained.relearn", lambda *a, **k: Relearned({}, {}))
    with pytest.raises(Exception, match="none is left to ask about"):
        relearning(case, lambda progress: None)


def test_every_attack_is_in_the_report(finished: Audited) -> None:
    parts = finished.report["parts"]
    names = {
        test["test"]
        for part in parts.values()
        if part["done"]
        for test in part["summary"].get("excess", ())
    }
    assert {"relearning, all weights", "relearning, the routers alone", "8 bits", "4 bits"} <= names
    assert "all wordings together" in names
    page = (finished.folder / "report.html").read_text("utf-8")
    assert "Relearning, all weights: answers not shown" in page
    assert "A CPU stand-in for quantised deployment" in page


def test_a_reference_is_attacked_alike_and_its_absence_is_said(tmp_path: Path) -> None:
    config = small(
        tmp_path / "sets", reference=None, before=None, parts=["questions", "relearning"]
    )
    found = run_audit(config, tmp_path / "out", base=tmp_path / "home")
    summary = found.report["parts"]["relearning"]["summary"]
    assert {test["over"] for test in summary["excess"]} == {"itself"}
    assert "There is no reference" in " ".join(summary["sentences"])
    assert not np.isnan([row["value"] for row in summary["rows"]]).any()
