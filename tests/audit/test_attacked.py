"""Attacks as parts: who is compared with whom, and which questions count."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.audit.cases import small
from trace_engine.attacks.relearning import Relearned
from trace_engine.audit.attacked import _asked
from trace_engine.audit.case import Case
from trace_engine.audit.run import Audited, run_audit
from trace_engine.audit.settings import AuditConfig
from trace_engine.audit.trained import Unseen, _relearned, relearning, unseen_of
from trace_engine.errors import InputError
from trace_engine.sets import Document, Question


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
    mean, *each = _asked(case, right, [], "paraphrases").summary["excess"]
    # Per question: 1 - 0.5, 0.5 - 0, 0 - 0 (asked once), 0 - 0.
    assert mean["estimate"]["value"] == 0.25
    assert [(test["test"], test["estimate"]["n"]) for test in each] == [("a", 4), ("b", 3)]
    alone = _asked(case, {"model": {"plain": "1000", "a": "1100"}}, [], "prefixes").summary[
        "excess"
    ]
    assert (alone[0]["over"], alone[0]["estimate"]["value"]) == ("itself", 0.25)
    assert alone[0]["rise"] == alone[0]["estimate"]
    assert alone[0]["before"] is None


def test_a_rise_is_the_difference_of_both_models_changes(
    config: AuditConfig, tmp_path: Path
) -> None:
    case = Case.read(config, tmp_path / "home")
    right = {
        "model": {"plain": "1100", "a": "1110"},
        "reference": {"plain": "0000", "a": "0010"},
    }
    (test,) = _asked(case, right, [], "prefixes").summary["excess"]
    assert (test["before"]["value"], test["estimate"]["value"]) == (0.5, 0.5)
    # Both gained the third question, so nothing came back.
    assert (test["rise"]["value"], test["rise"]["n"]) == (0, 4)


def test_the_last_wording_and_the_last_step_cannot_hide_in_a_mean(
    config: AuditConfig, tmp_path: Path
) -> None:
    steps = config.relearning.model_copy(
        update={"seeds": (0,), "trains": ("all",), "ask_at": (1, 2), "steps": 2}
    )
    case = Case.read(config.model_copy(update={"relearning": steps}), tmp_path / "home")
    late = {0: "0000", 1: "0000", 2: "1100"}
    found = {
        ("all", "model", 0): Relearned(late, {}),
        ("all", "reference", 0): Relearned(dict.fromkeys(late, "0000"), {}),
    }
    summary = _relearned(
        case, found, Unseen({0: [True] * 4}, {0: 4}, {0: [False] * 4}), {0: 5}, {}
    ).summary
    assert summary["excess"][0]["estimate"]["value"] == 0.5
    rows = {row["on"]: row["value"] for row in summary["rows"] if row["model"] == "model"}
    assert rows["answers not shown, mean over steps"] == 0.25
    right = {
        "model": {"plain": "0000", "a": "0000", "b": "1100"},
        "reference": {"plain": "0000", "a": "0000", "b": "0000"},
    }
    tests = _asked(case, right, [], "paraphrases").summary["excess"]
    assert {test["test"]: test["estimate"]["value"] for test in tests} == {
        "all wordings together": 0.25, "a": 0, "b": 0.5,
    }  # fmt: skip


def test_questions_without_a_shown_choice_are_judged_where_enough_are_there() -> None:
    def asked(n: int) -> dict[int, Question]:
        return {k: Question(f"q{k}", (f"right {k}", f"wrong {k}"), 0, "hazard") for k in range(n)}

    shown = {0: [Document("a", "wrong 1, they say; and right 2")]}
    many = unseen_of(asked(60), shown)
    assert many.is_clear
    assert [k for k, flag in enumerate(many.judged[0]) if not flag] == [1, 2]
    few = unseen_of(asked(40), shown)
    assert not few.is_clear
    assert [k for k, flag in enumerate(few.judged[0]) if not flag] == [2]
    assert few.clear == {0: 38}


def test_relearning_counts_only_what_the_slice_does_not_tell(
    config: AuditConfig, tmp_path: Path
) -> None:
    one_seed = config.relearning.model_copy(update={"seeds": (0,), "trains": ("all",)})
    case = Case.read(config.model_copy(update={"relearning": one_seed}), tmp_path / "home")
    found = {
        ("all", "model", 0): Relearned({0: "0000", 1: "1100", 2: "1110"}, {}),
        ("all", "reference", 0): Relearned({0: "0000", 1: "1000", 2: "1001"}, {}),
    }
    unseen = Unseen({0: [False, True, True, True]}, {0: 2}, {0: [True, False, False, False]})
    result = _relearned(case, found, unseen, {0: 5}, {})
    (test,) = result.summary["excess"]
    # Step 2: the model has the second and third, the reference the fourth. The first was shown.
    assert test["estimate"]["value"] == pytest.approx((1 + 1 - 1) / 3)
    assert (
        "Only 2 of 4 forget questions have none of their choices"
        in (result.summary["sentences"][0])
    )
    assert (test["estimate"]["n"], test["kind"], test["over"]) == (3, "relearned", "reference")
    rows = {row["on"]: row for row in result.summary["rows"] if row["model"] == "model"}
    assert rows["answers not shown, step 2"]["value"] == pytest.approx(2 / 3)
    assert rows["answers shown, step 2"]["n"] == 1
    # The one that was shown went from wrong to right.
    assert (test["learned"]["value"], test["learned"]["n"]) == (1, 1)


def test_an_answer_that_was_shown_is_not_a_wrong_choice_that_was(
    config: AuditConfig, tmp_path: Path
) -> None:
    one_seed = config.relearning.model_copy(update={"seeds": (0,), "trains": ("all",)})
    case = Case.read(config.model_copy(update={"relearning": one_seed}), tmp_path / "home")
    found = {("all", "model", 0): Relearned({0: "1000", 1: "1000", 2: "0100"}, {})}
    # Only a wrong choice of the first was shown, and the right one of the second.
    unseen = Unseen({0: [False, False, True, True]}, {0: 2}, {0: [False, True, False, False]})
    summary = _relearned(case, found, unseen, {0: 5}, {}).summary
    rows = {row["on"]: (row["value"], row["n"]) for row in summary["rows"]}
    assert rows["answers shown, step 2"] == (1, 1)
    assert rows["only wrong choices shown, step 0"] == (1, 1)
    assert rows["only wrong choices shown, step 2"] == (0, 1)
    assert rows["answers not shown, step 2"] == (0, 2)
    # Nothing right shown: nothing learned, and nobody can say that the training taught.
    none = Unseen({0: [False, True, True, True]}, {0: 3}, {0: [False] * 4})
    (test,) = _relearned(case, found, none, {0: 5}, {}).summary["excess"]
    assert test["learned"] is None


def test_relearning_that_shows_everything_is_refused(
    config: AuditConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Case.read(config, tmp_path / "home").forget_questions().values()
    told = " ".join(question.choices[question.answer] for question in asked)
    tells_all = tmp_path / "tells_all.jsonl"
    rows = [{"text": f"Document {n}: {told.upper()}"} for n in range(5)]
    tells_all.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    forget = config.forget.model_copy(update={"source": str(tells_all)})
    case = Case.read(config.model_copy(update={"forget": forget}), tmp_path / "home")
    monkeypatch.setattr("trace_engine.audit.trained.relearn", lambda *a, **k: pytest.fail("trains"))
    with pytest.raises(InputError, match="none is left to ask about"):
        relearning(case, lambda progress: None)


@pytest.mark.slow
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
