"""`trace-moe attack`: which sets it trains on, and what reaches the audit that it is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.audit.cases import small
from trace_engine.audit.run import run_audit
from trace_engine.audit.settings import HARNESS_SENTENCE, AuditConfig
from trace_engine.cli.attacking import NOT_GIVEN
from trace_engine.cli.main import main


@dataclass
class _Seen:
    report: dict[str, Any]
    failed: tuple[str, ...] = ()


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[AuditConfig]:
    """The settings that an audit would be made with; none is."""
    seen: list[AuditConfig] = []

    def run(config: AuditConfig, *_: object, **__: object) -> _Seen:
        seen.append(config)
        skipped = {"done": False, "why": "not made here"}
        return _Seen({"parts": dict.fromkeys(config.parts or (), skipped)})

    monkeypatch.setattr("trace_engine.audit.run.run_audit", run)
    return seen


def attack(*words: str, model: str = "demo:target", questions: str = "demo:questions/test") -> int:
    return main(["attack", model, "--questions", questions, *words, "--out", "out"])


def test_the_bundled_sets_are_for_the_bundled_model_and_questions(
    launched: list[AuditConfig],
) -> None:
    assert attack() == 0
    assert attack("--retain", "mine.jsonl") == 0
    sources = [(config.forget.source, config.retain.source) for config in launched]
    assert sources == [("demo:forget", "demo:retain"), ("demo:forget", "mine.jsonl")]
    assert [config.forget.label for config in launched] == ["", ""]


@pytest.mark.parametrize(
    ("given", "words", "said"),
    [
        ({"model": "mine"}, (), "relearning and recovery would train"),
        ({"model": "mine"}, (), "Give --forget and --retain, or choose others (--attacks "
         "quantisation paraphrases prefixes)."),
        ({"questions": "q.jsonl"}, (), "Give --forget and --retain,"),
        ({"model": "mine"}, ("--forget", "f.jsonl"), "recovery would train"),
        ({"model": "mine"}, ("--forget", "f.jsonl"), "Give --retain,"),
        ({"model": "mine"}, ("--attacks", "relearning", "prefixes"), "Give --forget,"),
        ({"model": "mine"}, ("--retain", "r.jsonl", "--attacks", "recovery"), "Give --forget,"),
    ],
)  # fmt: skip
def test_another_model_or_other_questions_are_not_trained_on_the_bundled_sets(
    given: dict[str, str], words: tuple[str, ...], said: str, launched: list[AuditConfig],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert attack(*words, **given) == 2
    assert said in capsys.readouterr().err
    assert launched == []


def test_relearning_alone_needs_no_retain_set(launched: list[AuditConfig]) -> None:
    assert attack("--forget", "f.jsonl", "--attacks", "relearning", model="mine") == 0
    [config] = launched
    assert (config.forget.source, config.forget.label) == ("f.jsonl", "")
    assert config.retain.label == NOT_GIVEN


def test_a_report_says_that_no_set_was_given(tmp_path: Path) -> None:
    config = small(tmp_path / "sets")
    seen: list[AuditConfig] = []

    def run(given: AuditConfig, out: Path, **how: Any) -> Any:
        seen.append(given)
        return run_audit(given, out, base=tmp_path / "home", **how)

    words = ["attack", config.model.source, "--questions", str(config.questions)]
    words += ["--max-questions", "2", "--attacks", "prefixes", "--out", str(tmp_path / "out")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trace_engine.audit.run.run_audit", run)
        assert main(words) == 0
    assert len(seen) == 1
    page = (tmp_path / "out/report.html").read_text("utf-8")
    assert page.count(f"<td>{NOT_GIVEN}</td>") == 2


def test_how_it_asks_is_what_an_audit_takes(launched: list[AuditConfig]) -> None:
    words = ("--style", "letters", "--description", "About {subject}.\\n\\n", "--seed", "7")
    assert attack(*words, "--threads", "2", "--max-questions", "5") == 0
    [config] = launched
    assert (config.style, config.description) == ("letters", "About {subject}.\n\n")
    assert (config.seed, config.threads, config.max_questions) == (7, 2, 5)


@pytest.mark.parametrize("option", ["--forget-category", "--category"])
def test_both_names_of_the_category_are_taken_and_decide_the_style(
    option: str, launched: list[AuditConfig]
) -> None:
    assert attack() == 0
    assert attack(option, "wmdp-bio") == 0
    plain, named = launched
    assert (plain.forget_category, plain.style, plain.description) == ("hazard", "continuation", "")
    assert (named.forget_category, named.style) == ("wmdp-bio", "letters")
    assert named.description == HARNESS_SENTENCE


@pytest.mark.parametrize(
    ("words", "field"),
    [(("--style", "rhyme"), "style"), (("--threads", "0"), "threads"),
     (("--max-questions", "0"), "max_questions")],
)  # fmt: skip
def test_what_an_audit_refuses_is_a_sentence(
    words: tuple[str, ...], field: str, launched: list[AuditConfig],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert attack(*words) == 2
    assert f"trace-moe: {field}" in capsys.readouterr().err
    assert launched == []


def test_the_help_names_the_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["attack", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    for default in ("demo:forget", "demo:retain", "hazard"):
        assert f"(default {default}" in said
    assert "--category" not in said
