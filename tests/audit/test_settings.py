"""An audit's settings file: what a person writes into it, and what is said where it is refused."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.audit.cases import small
from trace_engine.audit.case import Case
from trace_engine.audit.settings import HARNESS_SENTENCE, parse_audit, read_audit
from trace_engine.config import SetConfig, to_yaml
from trace_engine.errors import InputError

FILE = """kind: audit
model: {source: demo:target}
forget: {source: demo:forget}
retain: {source: demo:retain}
forget_category: hazard
"""


def test_a_date_without_quotes_is_the_text_it_looks_like(tmp_path: Path) -> None:
    path = tmp_path / "audit.yaml"
    path.write_text(FILE + "form: {auditor: somebody, date: 2026-01-31}\n", encoding="utf-8")
    found = read_audit(path)
    assert found.form.date == "2026-01-31"
    path.write_text(to_yaml(found), encoding="utf-8")
    assert read_audit(path) == found


def test_a_refused_date_is_named_with_its_field(tmp_path: Path) -> None:
    path = tmp_path / "audit.yaml"
    path.write_text(FILE + "form: {date: 5}\n", encoding="utf-8")
    with pytest.raises(InputError) as refused:
        read_audit(path)
    assert str(refused.value) == "audit.yaml: form.date: must be text (found 5)."


def published_questions(folder: Path) -> None:
    """WMDP and MMLU side by side, as they are downloaded."""
    for number, name in enumerate(("wmdp/wmdp-bio", "mmlu/anatomy", "mmlu/all")):
        rows = [
            {"question": f"{name} {n}?", "choices": list("wxyz"), "answer": (n + number) % 4}
            for n in range(3)
        ]
        (folder / name).mkdir(parents=True)
        pd.DataFrame(rows).to_parquet(folder / name / "test-00000-of-00001.parquet")


def test_wmdp_and_mmlu_are_questions_as_they_are_downloaded(tmp_path: Path) -> None:
    published_questions(tmp_path / "questions")
    path = tmp_path / "audit.yaml"
    config = small(tmp_path / "sets", before=None, reference=None)
    both = {"questions": str(tmp_path / "questions"), "forget_category": "wmdp/wmdp-bio"}
    path.write_text(to_yaml(config.model_copy(update=both)), encoding="utf-8")
    case = Case.read(read_audit(path))
    assert [q.question for q in case.forget_questions().values()] == [
        f"wmdp/wmdp-bio {n}?" for n in range(3)
    ]
    assert {q.category for q in case.utility_questions().values()} == {"mmlu/anatomy"}


def test_wmdp_by_hub_id_is_one_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str | None, str]] = []

    def hub(name: str, config: SetConfig) -> list[dict[str, Any]]:
        asked.append((name, config.hub_config, config.hub_split))
        return [{"question": "Which?", "choices": list("wxyz"), "answer": 2}] * 2

    monkeypatch.setattr("trace_engine.sets.published.hub_dataset", hub)
    config = small(tmp_path / "sets", before=None, reference=None)
    named = {"questions": "hub:cais/wmdp:wmdp-bio", "forget_category": "wmdp-bio"}
    case = Case.read(config.model_copy(update=named))
    assert len(case.forget_questions()) == 2
    assert set(asked) == {("cais/wmdp", "wmdp-bio", "test")}


@pytest.mark.parametrize(
    ("questions", "category", "style"),
    [
        ("hub:cais/wmdp:wmdp-bio", "wmdp-bio", "letters"),
        ("sets/questions", "wmdp/wmdp-bio", "letters"),
        ("/data/MMLU", "virology", "letters"),
        ("demo:questions/test", "hazard", "continuation"),
        ("sets/wmdpish.jsonl", "hazard", "continuation"),
        (None, "hazard", "continuation"),
    ],
)
def test_wmdp_and_mmlu_are_asked_by_letters(
    questions: str | None, category: str, style: str
) -> None:
    given: dict[str, Any] = {"forget": {"source": "f"}, "retain": {"source": "r"}}
    given |= {"questions": questions, "forget_category": category}
    config = parse_audit(given)
    assert config.style == style
    assert config.description == (HARNESS_SENTENCE if style == "letters" else "")
    assert parse_audit(given | {"description": "Now:"}).description == "Now:"
    # Of a single file nobody knows what its categories are called.
    alone = parse_audit(given | {"questions": "sets/wmdp/bio.jsonl"})
    assert (alone.style, alone.description) == ("letters", "")
    for said in ("letters", "continuation"):
        chosen = parse_audit(given | {"style": said})
        # As in a report of before there was a description.
        assert (chosen.style, chosen.description) == (said, "")
