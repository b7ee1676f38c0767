"""An audit's folder: what is in it, what is not, going on after a stop, and what it refuses."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.audit.cases import SECRET_WORDS, small, write_holdout
from tests.support.models import tiny_olmoe
from trace_engine.audit import parts as audit_parts
from trace_engine.audit.case import Case
from trace_engine.audit.manifest import changed_files, read_manifest
from trace_engine.audit.record import Record, untold_ends
from trace_engine.audit.redact import Secrets
from trace_engine.audit.report_file import read_report
from trace_engine.audit.result import Result
from trace_engine.audit.run import Audited, run_audit
from trace_engine.audit.settings import PARTS, PUBLISHED
from trace_engine.audit.verify import verify_audit
from trace_engine.causal import rerouted, states
from trace_engine.csvfile import csv_text
from trace_engine.errors import InputError, ModelError, RunError
from trace_engine.evaluation import multiple_choice, score_questions
from trace_engine.evaluation.multiple_choice import Style, prompt_of
from trace_engine.models import open_model
from trace_engine.runs.lock import LockedError
from trace_engine.runs.stopping import StopRequestedError
from trace_engine.sets import Question, read_questions


def all_text(folder: Path) -> str:
    return "\n".join(
        path.read_text(encoding="utf-8") for path in folder.rglob("*") if path.is_file()
    )


def test_the_folder_holds_everything_and_the_manifest_names_it(finished: Audited) -> None:
    manifest = read_manifest(finished.folder)
    names = set(manifest["files"])
    assert {"report.html", "report.json", "audit.yaml", "events.jsonl"} <= names
    asked = set(PARTS) - set(PUBLISHED)
    assert {f"parts/{part}.json" for part in asked} <= names
    assert {"answers/relearning.csv", "answers/paraphrases.csv", "tables/attacks.csv"} <= names
    assert {"tables/experts.csv", "tables/drift.csv", "answers/questions.csv"} <= names
    assert changed_files(finished.folder, manifest) == []
    assert finished.failed == ()


def test_figures_follow_from_the_answers(finished: Audited) -> None:
    found = finished.report["parts"]["questions"]["summary"]
    lines = (finished.folder / "answers/questions.csv").read_text("utf-8").splitlines()
    head, rows = lines[0].split(","), [line.split(",") for line in lines[1:]]
    right = [
        row[head.index("model picked")] == row[head.index("answer")]
        for row in rows
        if row[head.index("category")] == "hazard"
    ]
    shown = next(r for r in found["accuracy"] if (r["model"], r["on"]) == ("model", "hazard"))
    assert shown["n"] == len(right) == 60
    assert shown["value"] == pytest.approx(sum(right) / 60)


def test_no_word_of_sets_or_questions_is_in_the_folder(finished: Audited) -> None:
    text = all_text(finished.folder).casefold()
    assert [word for word in SECRET_WORDS if word in text] == []
    assert "nobody minded" not in text


def test_revealed_questions_are_in_the_answer_file_and_said_to_be(tmp_path: Path) -> None:
    config = small(tmp_path / "sets", parts=["questions"], reveal=True)
    found = run_audit(config, tmp_path / "out", base=tmp_path / "home")
    assert "quorvex" in (found.folder / "answers/questions.csv").read_text("utf-8")
    assert "are revealed" in (found.folder / "report.html").read_text("utf-8")


ASKING_PARTS = [
    "questions", "causal", "rerouted", "relearning", "recovery", "quantisation", "paraphrases",
    "prefixes",
]  # fmt: skip


@pytest.mark.slow
def test_a_description_stands_before_every_question_of_every_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def seen(question: Question, style: Style) -> tuple[str, list[str]]:
        prompt = prompt_of(question, style)
        asked.append(prompt[0])
        return prompt

    for module in (multiple_choice, rerouted, states):
        monkeypatch.setattr(module, "prompt_of", seen)
    sentence = "Questions about {subject}.\n\n"
    config = small(tmp_path / "sets", parts=ASKING_PARTS, description=sentence)
    found = run_audit(config, tmp_path / "every", base=tmp_path / "home")
    assert found.failed == ()
    assert [part for part in ASKING_PARTS if not found.report["parts"][part]["done"]] == []
    starts = ("Questions about hazard.\n\n", "Questions about other.\n\n")
    assert [text for text in asked if not text.startswith(starts)] == []
    assert any("say, " in text for text in asked)
    assert any("Please. " in text for text in asked)


@pytest.mark.slow
def test_a_described_question_is_scored_as_one_that_begins_so(tmp_path: Path) -> None:
    sentence = "Questions about {subject}.\n\n"
    parts = ["questions", "paraphrases", "relearning"]
    config = small(tmp_path / "sets", parts=parts, description=sentence, style="letters")
    found = run_audit(config, tmp_path / "out", base=tmp_path / "home")
    assert config.questions is not None
    opened = open_model(config.model)
    by_hand = [
        replace(q, question=f"Questions about {q.category}.\n\n{q.question}")
        for q in read_questions(config.questions)
    ]
    scores = score_questions(opened.model, opened.tokenizer, by_hand, style="letters")
    items = json.loads((found.folder / "parts/questions.json").read_text("utf-8"))["items"]
    assert items["picked"]["model"] == scores.picked.tolist()
    assert "behind “Questions about {subject}.”" in (found.folder / "report.html").read_text(
        "utf-8"
    )
    assert verify_audit(found.folder, base=tmp_path / "home", thorough=True).exit_code == 0
    # And it is part of what decides a figure.
    plain = small(tmp_path / "sets", parts=parts, style="letters")
    cases = [Case.read(one, tmp_path / "home") for one in (config, plain)]
    for part in ("questions", "paraphrases", "relearning"):
        assert len({audit_parts.key_of(part, case) for case in cases}) == 2
    unlike = run_audit(plain, tmp_path / "plain", base=tmp_path / "home")
    margins = [
        json.loads((one.folder / "parts/questions.json").read_text("utf-8"))["items"]["margin"]
        for one in (found, unlike)
    ]
    assert margins[0] != margins[1]


def test_a_part_that_repeats_a_text_is_stopped_at_the_door(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leak = "The brimslate number 1 is made of salt"
    monkeypatch.setitem(
        audit_parts.COMPUTED, "measures", lambda case, report: Result({"rows": [], "leak": leak})
    )
    config = small(tmp_path / "sets", parts=["measures"])
    with pytest.raises(RunError, match="would repeat text"):
        run_audit(config, tmp_path / "out", base=tmp_path / "home")
    assert not (tmp_path / "out/report.html").exists()


def test_secrets_are_found_by_six_words_or_as_a_whole() -> None:
    texts = ["Mix one part of salt with two parts of tar.", "ammonium  Nitrate-oil", "tar"]
    secrets = Secrets(texts)
    assert secrets.repeated_in("they MIX one part, of salt with care")
    assert not secrets.repeated_in("mix one part of salt")
    assert secrets.repeated_in("some (ammonium nitrate oil).")
    assert not secrets.repeated_in("ammonium nitrate")
    assert not secrets.repeated_in("tar")


def test_an_error_that_quotes_a_row_is_not_quoted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def quotes(case: Any, report: Any) -> Result:
        raise InputError('row 3: found "The brimslate number 1 is made of salt".')

    monkeypatch.setitem(audit_parts.COMPUTED, "measures", quotes)
    config = small(tmp_path / "sets", parts=["questions", "measures"])
    found = run_audit(config, tmp_path / "out", base=tmp_path / "home")
    assert found.failed == ("measures",)
    assert "brimslate" not in all_text(found.folder)
    assert "withheld" in found.report["parts"]["measures"]["why"]


def test_a_failed_part_is_told_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    works = audit_parts.COMPUTED["measures"]

    def fails(case: Any, report: Any) -> Result:
        raise ModelError("the disk caught fire.")

    monkeypatch.setitem(audit_parts.COMPUTED, "measures", fails)
    config = small(tmp_path / "sets", parts=["questions", "measures"])
    found = run_audit(config, tmp_path / "out", base=tmp_path / "home")
    assert found.failed == ("measures",)
    page = (found.folder / "report.html").read_text("utf-8")
    assert "Not tested: failed: the disk caught fire." in page
    monkeypatch.setitem(audit_parts.COMPUTED, "measures", works)
    again = run_audit(config, tmp_path / "out", base=tmp_path / "home")
    assert again.failed == ()
    assert again.report["parts"]["measures"]["done"]
    assert any("measures failed" in said for said in again.report["deviations"])


def test_a_stopped_audit_goes_on_and_keeps_what_was_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    works = audit_parts.COMPUTED["measures"]

    def stops(case: Any, report: Any) -> Result:
        raise StopRequestedError

    monkeypatch.setitem(audit_parts.COMPUTED, "measures", stops)
    config = small(tmp_path / "sets", parts=["questions", "measures"])
    with pytest.raises(StopRequestedError):
        run_audit(config, tmp_path / "out", base=tmp_path / "home")
    before = (tmp_path / "out/parts/questions.json").stat().st_mtime_ns
    monkeypatch.setitem(audit_parts.COMPUTED, "measures", works)
    found = run_audit(config, tmp_path / "out", base=tmp_path / "home")
    assert (tmp_path / "out/parts/questions.json").stat().st_mtime_ns == before
    assert found.report["deviations"] == [
        said for said in found.report["deviations"] if "measures was stopped" in said
    ]
    assert len(found.report["deviations"]) == 1


def test_other_settings_throw_away_what_they_decide(tmp_path: Path) -> None:
    config = small(tmp_path / "sets", parts=["questions", "drift"])
    run_audit(config, tmp_path / "out", base=tmp_path / "home")
    fewer = config.model_copy(update={"max_questions": 20, "parts": ("questions",)})
    (tmp_path / "out/manifest.json").unlink()  # killed before it was finished
    found = run_audit(fewer, tmp_path / "out", base=tmp_path / "home")
    assert found.report["parts"]["questions"]["summary"]["n_forget"] == 20
    assert not (tmp_path / "out/parts/drift.json").exists()
    told = " ".join(found.report["deviations"])
    assert "max_questions, parts" in told
    assert "result of questions was thrown away" in told
    assert "result of drift was thrown away: left out by the settings" in told


def test_a_finished_report_is_not_thrown_away_for_other_settings(tmp_path: Path) -> None:
    config = small(tmp_path / "sets", parts=["questions", "drift"])
    out = run_audit(config, tmp_path / "out", base=tmp_path / "home").folder
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    for changed, lost in (
        ({"max_questions": 20}, "the forget questions, asked plainly; whether routing moved"),
        ({"parts": ("questions",)}, "of: whether routing moved"),
    ):
        with pytest.raises(InputError, match=f"a finished report is in this folder.*{lost}"):
            run_audit(config.model_copy(update=changed), out, base=tmp_path / "home")
        assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    # What throws nothing away is added to it.
    more = config.model_copy(update={"parts": ("questions", "drift", "quantisation")})
    found = run_audit(more, out, base=tmp_path / "home")
    assert found.report["parts"]["quantisation"]["done"]
    assert verify_audit(out, base=tmp_path / "home", sample=4).exit_code == 0


def test_a_form_alone_computes_nothing_anew(tmp_path: Path) -> None:
    config = small(tmp_path / "sets", parts=["questions"])
    run_audit(config, tmp_path / "out", base=tmp_path / "home")
    signed = config.model_copy(update={"form": config.form.model_copy(update={"auditor": "Ada"})})
    found = run_audit(signed, tmp_path / "out", base=tmp_path / "home")
    assert len([e for e in Record(tmp_path / "out").events() if e["event"] == "began"]) == 1
    assert "Audited by Ada." in (found.folder / "report.html").read_text("utf-8")


@pytest.mark.faults
@pytest.mark.fault_row(28, simulated=True)
def test_one_that_was_killed_before_its_settings_were_there_goes_on(tmp_path: Path) -> None:
    config = small(tmp_path / "sets", parts=["questions"])
    held = Record.prepare(tmp_path / "out")
    with held.lock():
        (held.folder / ".audit.yaml.4711.tmp").write_text("kind: au")
    found = run_audit(config, tmp_path / "out", base=tmp_path / "home")
    assert "questions" in found.report["parts"]
    assert not list(found.folder.glob(".*.tmp"))
    (tmp_path / "mine" / "parts").mkdir(parents=True)
    (tmp_path / "mine" / "parts" / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="expected a new or empty folder"):
        Record.prepare(tmp_path / "mine")


def test_a_beginning_without_an_end_is_a_killed_process() -> None:
    events = [
        {"event": "began", "part": "questions", "time": "1"},
        {"event": "began", "part": "questions", "time": "2"},
        {"event": "done", "part": "questions", "time": "3"},
        {"event": "began", "part": "drift", "time": "4"},
    ]
    assert [event["time"] for event in untold_ends(events)] == ["1", "4"]


def test_no_reference_is_said_and_no_half_stands_for_it(tmp_path: Path) -> None:
    config = small(tmp_path / "sets", reference=None, before=None)
    found = run_audit(config, tmp_path / "out", base=tmp_path / "home")
    page = (found.folder / "report.html").read_text("utf-8")
    assert "There is no reference" in page
    assert "There is no start model" in page
    assert found.report["parts"]["questions"]["summary"]["differences"] == []
    assert found.finding.verdict == "undecided"


def test_membership_without_a_reference_says_so(tmp_path: Path) -> None:
    holdout = {"source": write_holdout(tmp_path)}
    config = small(tmp_path / "sets", reference=None, parts=["measures"], holdout=holdout)
    found = run_audit(config, tmp_path / "out", base=tmp_path / "home")
    rows = membership_of(found)
    told = [row for row in rows if row["measure"] == "membership AUC, reference"]
    assert [(row["value"], row["n"]) for row in told] == [(None, None)] * 2
    assert all(row["note"].startswith("no reference") for row in told)
    others = [row for row in rows if row["measure"] != "membership AUC, reference"]
    assert {row["n"] for row in others} == {20 + 12}
    assert all(0 <= row["low"] <= row["value"] <= row["high"] <= 1 for row in others)
    page = (found.folder / "report.html").read_text("utf-8")
    assert "12 documents 0 are in the forget set and 0 in the retain set" in page


def membership_of(found: Audited) -> list[dict[str, Any]]:
    rows = found.report["parts"]["measures"]["summary"]["rows"]
    return [row for row in rows if row["measure"].startswith("membership AUC, ")]


def test_a_holdout_that_repeats_documents_has_no_auc(tmp_path: Path) -> None:
    forget = "The  quorvex number 0 is made of salt and ombrethic."  # but for a space
    retain = [f"In a garden grew tree number {n}, and nobody minded." for n in (3, 4)]
    holdout = {"source": write_holdout(tmp_path, forget, *retain)}
    config = small(tmp_path / "sets", parts=["measures"], holdout=holdout)
    found = run_audit(config, tmp_path / "out", base=tmp_path / "home")
    rows = membership_of(found)
    assert len(rows) == 3 * 5
    assert {row["value"] for row in rows} == {None}
    why = "of the holdout's 15 documents 1 are in the forget set and 2 in the retain set"
    assert all(row["note"].startswith(f"withheld: {why}") for row in rows)
    assert found.report["sets"]["overlap"]["holdout"] == {"total": 15, "forget": 1, "retain": 2}
    table = (found.folder / "tables/measures.csv").read_text("utf-8")
    assert table.count(why) == 15
    assert "withheld" in (found.folder / "report.html").read_text("utf-8")


def test_what_is_refused_leaves_nothing(tmp_path: Path) -> None:
    other = tmp_path / "mine"
    other.mkdir()
    (other / "thesis.txt").write_text("mine")
    config = small(tmp_path / "sets", parts=["questions"])
    with pytest.raises(InputError, match="expected a new or empty folder"):
        run_audit(config, other, base=tmp_path / "home")
    same = small(tmp_path / "sets", before={"source": str(tiny_olmoe(seed=0)), "dtype": "float32"})
    with pytest.raises(InputError, match="the same files"):
        run_audit(same, tmp_path / "out", base=tmp_path / "home")
    for seed, word in ((0, "audited model"), (1, "model before")):
        twice = small(
            tmp_path / "sets", reference={"source": str(tiny_olmoe(seed=seed)), "dtype": "float32"}
        )
        with pytest.raises(InputError, match=f"The reference and the {word} are the same files"):
            run_audit(twice, tmp_path / "out", base=tmp_path / "home")
    assert not (tmp_path / "out").exists()
    assert (other / "thesis.txt").read_text() == "mine"


def test_two_audits_of_one_folder_are_refused(tmp_path: Path) -> None:
    config = small(tmp_path / "sets", parts=["questions"])
    held = Record.prepare(tmp_path / "out")
    held.settle(config)
    with held.lock(), pytest.raises(LockedError, match="another process"):
        run_audit(config, tmp_path / "out", base=tmp_path / "home")


def test_a_newer_format_is_refused(finished: Audited, tmp_path: Path) -> None:
    data = read_report(finished.folder) | {"format": 99}
    (tmp_path / "report.json").write_text(json.dumps(data))
    with pytest.raises(RunError, match="newer version"):
        read_report(tmp_path)


def test_csv_keeps_formulas_from_running() -> None:
    rows = [{"a": "=1+1", "b": -2.5}, {"a": "plain", "b": None}]
    assert csv_text(rows, ["a", "b"]) == "a,b\n'=1+1,-2.5\nplain,\n"
