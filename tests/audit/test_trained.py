"""Training on retained text as a part: what is trained on, which questions count, what is said."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.audit.cases import small
from trace_engine.attacks.relearning import Relearned
from trace_engine.audit.case import Case
from trace_engine.audit.page import render
from trace_engine.audit.parts import key_of
from trace_engine.audit.run import Audited
from trace_engine.audit.settings import PARTS
from trace_engine.audit.trained import Unseen, _recovered, recovery
from trace_engine.errors import InputError
from trace_engine.sets import Document
from trace_engine.sets.documents import normalised


def test_every_model_is_trained_alike_and_on_no_forget_document(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small(tmp_path / "sets", max_questions=4, before=None)
    with Path(config.retain.source).open("a") as retain:
        retain.write(Path(config.forget.source).read_text().splitlines()[0].upper().replace(
            '"TEXT"', '"text"') + "\n")  # fmt: skip
    case = Case.read(config, tmp_path / "home")
    assert case.overlap.count == 1
    seen: list[tuple[list[str], dict[str, Any]]] = []

    def trains(opened: Any, documents: Sequence[Document], *rest: Any, **how: Any) -> Relearned:
        seen.append(([document.text for document in documents], how))
        return Relearned({0: "0000", 2: "1000"}, {0: "0000", 2: "0000"})

    monkeypatch.setattr("trace_engine.audit.trained.relearn", trains)
    summary = recovery(case, lambda progress: None).summary
    forgotten = {normalised(document.text) for document in case.forget.documents}
    (model, how), (reference, alike) = seen
    # Two steps of four documents, of the 24 that are not in the forget set.
    assert len(model) == 8
    assert model == reference
    assert how == alike
    assert how["trains"] == "all"
    assert not {normalised(text) for text in model} & forgotten
    assert (
        "8 documents of the retain set, none of which is in the forget set"
        in (summary["sentences"][0])
    )


def test_answers_that_the_retained_text_tells_are_left_out(tmp_path: Path) -> None:
    case = Case.read(small(tmp_path / "sets", max_questions=4, before=None), tmp_path / "home")
    found = {
        ("model", 0): Relearned({0: "0000", 2: "1110"}, {}),
        ("reference", 0): Relearned({0: "0000", 2: "1001"}, {}),
    }
    unseen = Unseen({0: [False, True, True, True]}, {0: 1}, {0: [True, False, False, False]})
    result = _recovered(case, found, unseen, {0: 8}, {})
    (test,) = result.summary["excess"]
    # Model: 1, 1, 0 of the unseen three; reference: 0, 0, 1.
    assert test["estimate"]["value"] == pytest.approx(1 / 3)
    assert (test["estimate"]["n"], test["kind"], test["over"]) == (3, "recovered", "reference")
    assert (
        "so those 3 are judged whose right answer stands in none"
        in (result.summary["sentences"][0])
    )
    assert result.items["shown"] == {"0": "1000"}
    assert set(result.items["right"]) == {
        f"{role}, training on retained text, seed 0, step {step}"
        for role in ("model", "reference")
        for step in (0, 2)
    }


def test_without_a_reference_it_is_compared_with_itself(tmp_path: Path) -> None:
    config = small(tmp_path / "sets", max_questions=4, before=None, reference=None)
    case = Case.read(config, tmp_path / "home")
    found = {("model", 0): Relearned({0: "0100", 2: "1110"}, {})}
    result = _recovered(case, found, Unseen({0: [True] * 4}, {0: 4}, {0: [False] * 4}), {0: 8}, {})
    (test,) = result.summary["excess"]
    assert (test["over"], test["estimate"]["value"]) == ("itself", 0.5)
    assert "There is no reference" in result.summary["sentences"][-1]


def test_retained_text_that_tells_every_answer_is_refused_before_anything_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = Case.read(small(tmp_path / "sets", max_questions=4), tmp_path / "home")
    monkeypatch.setattr(
        "trace_engine.audit.trained.not_shown",
        lambda questions, shown, **how: [False] * len(questions),
    )
    monkeypatch.setattr(
        "trace_engine.audit.trained.relearn", lambda *a, **k: pytest.fail("trained")
    )
    with pytest.raises(InputError, match="stands in the retained text, so none is left"):
        recovery(case, lambda progress: None)


def test_its_settings_decide_it_and_nothing_else(tmp_path: Path) -> None:
    config = small(tmp_path / "sets")
    longer = config.model_copy(update={"recovery": config.recovery.model_copy(update={"steps": 3})})
    one, other = Case.read(config), Case.read(longer)
    assert [part for part in PARTS if key_of(part, one) != key_of(part, other)] == ["recovery"]


def test_it_is_in_the_report_and_the_finding(finished: Audited) -> None:
    part = finished.report["parts"]["recovery"]
    assert part["done"]
    assert any("training on retained text: " in reason for reason in finished.finding.reasons)
    page = (finished.folder / "report.html").read_text("utf-8")
    section = page.partition("Retained text alone")[2].partition("<h3>")[0]
    assert "No fact of the forget set is told" in section
    assert "Training on retained text: utility" in section
    assert "optimizer updates on retained text" in section
    assert "recovery,training on retained text,model" in (
        finished.folder / "tables/attacks.csv"
    ).read_text("utf-8")


def test_a_report_from_before_it_has_no_place_for_it(finished: Audited) -> None:
    old = finished.report | {
        "parts": {name: part for name, part in finished.report["parts"].items()
                  if name != "recovery"},
        "rules": {k: v for k, v in finished.report["rules"].items() if k != "utility_lost"},
    }  # fmt: skip
    page = render(old)
    assert "Retained text alone" not in page
    assert "still answers other questions" not in page
    assert "still answers other questions" in render(finished.report)
