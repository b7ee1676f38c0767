"""MUSE and TOFU in an audit: the figures of `evaluate`, what is said where there is none, what
follows from what, and what stays out of the folder."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.audit.cases import SECRET_WORDS, small, write_published
from trace_engine.audit.case import Case
from trace_engine.audit.manifest import write_manifest
from trace_engine.audit.page import render
from trace_engine.audit.parts import key_of
from trace_engine.audit.published import asked_numbers
from trace_engine.audit.published_section import MEANS, lines
from trace_engine.audit.report import derived_files
from trace_engine.audit.rules import RulesConfig, judge
from trace_engine.audit.run import Audited, run_audit
from trace_engine.audit.settings import PARTS, PUBLISHED, parse_audit
from trace_engine.audit.verify import Verified, verify_audit
from trace_engine.errors import InputError
from trace_engine.evaluation import Materials, evaluate, families_of
from trace_engine.progress import Progress
from trace_engine.runs.stopping import StopRequestedError

ROLES = ("model", "before", "reference")


def rows_of(found: Audited, name: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = found.report["parts"][name]["summary"]["rows"]
    return rows


def test_the_figures_are_those_of_evaluate(published: Audited) -> None:
    case = published.folder.parent
    config = small(case / "sets")
    named = {name: str(case / "published" / name) for name in PUBLISHED}
    for name, source in named.items():
        families = families_of(Materials(**{name: source}))  # type: ignore[arg-type]
        alone = evaluate(config.model, families, config.reference).rows
        mine = [row for row in rows_of(published, name) if row["model"] == "model"]
        assert len(mine) == len(alone) == {"muse": 5, "tofu": 15}[name]
        for row, known in zip(mine, alone, strict=True):
            assert row["measure"] == known.measure
            assert row["on"] == known.on.replace(source, name)
            assert known.estimate is not None
            expected = known.estimate.to_dict()
            assert (row["n"], row["method"]) == (expected["n"], expected["method"])
            for end in ("value", "low", "high"):
                assert row[end] == pytest.approx(expected[end], abs=1e-5), row["measure"]


def test_every_model_is_measured_and_the_reference_is_not_compared_with_itself(
    published: Audited,
) -> None:
    muse, tofu = (rows_of(published, name) for name in PUBLISHED)
    assert [row["model"] for row in muse if row["measure"].startswith("VerbMem")] == list(ROLES)
    assert [row["n"] for row in muse if row["model"] == "before"] == [4, 4, 4, 11, 11]
    untold = {(row["model"], row["measure"]) for row in muse + tofu if row["value"] is None}
    assert untold == {
        ("reference", "PrivLeak, %"),
        ("reference", "forget quality, KS p-value"),
        ("reference", "log truth ratio minus the reference's"),
    }
    notes = {row["note"] for row in muse + tofu if row["value"] is None}
    assert notes == {"this is the reference"}
    assert {row["measure"] for row in muse + tofu} == set(MEANS)


def test_the_page_tables_and_answers_hold_them(published: Audited) -> None:
    page = (published.folder / "report.html").read_text("utf-8")
    section = page.partition("Published benchmarks: MUSE and TOFU")[2].partition("<h2>")[0]
    for sentence in ("VerbMem, ROUGE-L F1: how well", "model utility, harmonic mean of nine:"):
        assert sentence in section
    found = {line.measure: line for line in lines(published.report["parts"]["muse"]["summary"])}
    assert found["VerbMem, ROUGE-L F1"].cell("model") in section
    assert found["PrivLeak, %"].cell("reference") == "this is the reference"
    table = (published.folder / "tables/published.csv").read_text("utf-8").splitlines()
    assert len(table) == 1 + 3 * (5 + 15)
    answers = (published.folder / "answers/tofu.csv").read_text("utf-8").splitlines()
    assert answers[0] == "part,number,hash,score,model,before,reference"
    assert len(answers) == 1 + 4 * 3 * 3
    asked = published.report["sets"]["tofu"]
    assert (asked["source"], asked["asked"]["forget"]) == ("tofu", 3)


def test_without_a_reference_it_is_said_and_nothing_stands_for_it(tmp_path: Path) -> None:
    config = small(
        tmp_path / "sets", parts=["muse", "tofu"], reference=None, before=None,
        published=write_published(tmp_path),
    )  # fmt: skip
    found = run_audit(config, tmp_path / "out", base=tmp_path / "home")
    untold = {
        row["measure"]: (row["value"], row["note"].partition(":")[0])
        for row in rows_of(found, "muse") + rows_of(found, "tofu")
        if row["value"] is None
    }
    assert untold == {
        "PrivLeak, %": (None, "no reference"),
        "forget quality, KS p-value": (None, "no reference"),
        "log truth ratio minus the reference's": (None, "no reference"),
    }
    page = render(found.report)
    assert "PrivLeak, %: no reference: give a model trained again" in page
    assert '<td class="n">no reference</td>' in page


def test_what_is_not_given_is_told_and_lowers_no_confidence(tmp_path: Path) -> None:
    found = run_audit(
        small(tmp_path / "sets", parts=["questions", "tofu"]),
        tmp_path / "out",
        base=tmp_path / "home",
    )
    assert found.finding.not_tested[-2:] == (
        "MUSE benchmark: left out by the settings",
        "TOFU benchmark: published.tofu names no folder and no hub set",
    )
    rules = RulesConfig()
    alone, beside = (judge([], [], None, rules, beside=told) for told in ((), ("MUSE: x",)))
    assert (alone.not_tested, beside.not_tested) == ((), ("MUSE: x",))
    assert alone.confidence == beside.confidence


def test_another_benchmark_throws_away_no_other_part(tmp_path: Path) -> None:
    given = write_published(tmp_path)
    one = Case.read(small(tmp_path / "sets", published={"muse": given["muse"]}))
    both = Case.read(small(tmp_path / "sets", published=given))
    assert [part for part in PARTS if key_of(part, one) != key_of(part, both)] == ["tofu"]
    fewer = Case.read(small(tmp_path / "sets", published=given | {"max_items": 2}))
    changed = [part for part in PARTS if key_of(part, fewer) != key_of(part, both)]
    assert changed == ["muse", "tofu"]
    numbers = asked_numbers(fewer, "muse")
    assert {piece: len(of) for piece, of in numbers.items()} == dict.fromkeys(numbers, 2)
    assert asked_numbers(both, "muse")["privleak/forget"] == [1, 2, 3, 4, 5, 6]


def test_a_stop_is_heard_and_the_part_is_made_again(tmp_path: Path) -> None:
    config = small(
        tmp_path / "sets", parts=["muse"], reference=None, before=None,
        published={"muse": write_published(tmp_path)["muse"]},
    )  # fmt: skip
    heard: list[str] = []

    def stops(progress: Progress) -> None:
        heard.append(progress.phase)
        if progress.phase == "answering questions":
            raise StopRequestedError

    with pytest.raises(StopRequestedError):
        run_audit(config, tmp_path / "out", base=tmp_path / "home", report=stops)
    assert "continuing passages" in heard
    found = run_audit(config, tmp_path / "out", base=tmp_path / "home")
    assert found.report["parts"]["muse"]["done"]
    assert [said for said in found.report["deviations"] if "muse was stopped" in said]


def test_an_error_that_quotes_a_benchmark_is_not_quoted(tmp_path: Path) -> None:
    config = small(
        tmp_path / "sets", parts=["tofu"], reference=None, before=None,
        published=write_published(tmp_path) | {"max_length": 8},
    )  # fmt: skip
    found = run_audit(config, tmp_path / "out", base=tmp_path / "home")
    assert found.failed == ("tofu",)
    assert "withheld" in found.report["parts"]["tofu"]["why"]
    text = "\n".join(p.read_text("utf-8") for p in found.folder.rglob("*") if p.is_file())
    assert [word for word in SECRET_WORDS if word in text] == []


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"muse": " "}, "published.muse: is blank; give a folder or hub:owner/name"),
        ({"muse": "demo:forget"}, "published.muse: the bundled pack has one corpus of MUSE"),
        ({"tofu": "demo:book"}, "published.tofu: the bundled pack has no TOFU"),
        ({"tofu_forget": "../forget10"}, "is no forget set of TOFU; expected forget10"),
        ({"prompt": "Who?"}, "published.prompt: has no {question}, which stands for"),
        ({"max_items": 1}, "published.max_items: must be at least 2 (found 1)"),
        ({"wmdp": "x"}, "published.wmdp: there is no such setting"),
    ],
)
def test_what_is_refused_is_named(given: dict[str, Any], said: str) -> None:
    asked = {"forget": {"source": "f"}, "retain": {"source": "r"}, "published": given}
    with pytest.raises(InputError) as refused:
        parse_audit(asked)
    assert said in str(refused.value)


def test_a_folder_that_is_not_there_costs_no_load(tmp_path: Path) -> None:
    config = small(tmp_path / "sets", published={"muse": str(tmp_path / "nothing")})
    with pytest.raises(InputError, match="is no folder"):
        run_audit(config, tmp_path / "out", base=tmp_path / "home")
    assert not (tmp_path / "out").exists()


# --- what a tamperer may try ---------------------------------------------------------------------


@pytest.fixture
def copy(published: Audited, tmp_path: Path) -> Path:
    shutil.copytree(published.folder, tmp_path / "copy")
    return tmp_path / "copy"


def change(path: Path, edit: Callable[[Any], None]) -> None:
    data = json.loads(path.read_text("utf-8"))
    edit(data)
    path.write_text(json.dumps(data, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def differing(found: Verified) -> str:
    return "\n".join(d for check in found.checks if check.state == "differs" for d in check.details)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_figure_that_does_not_follow_from_the_scores_is_found_offline(
    copy: Path, name: str
) -> None:
    def edit(summary: Any) -> None:
        summary["rows"][0]["value"] = 0.4321

    change(copy / f"parts/{name}.json", lambda data: edit(data["summary"]))
    change(copy / "report.json", lambda data: edit(data["parts"][name]["summary"]))
    for path, text in derived_files(json.loads((copy / "report.json").read_text("utf-8"))).items():
        (copy / path).write_text(text, encoding="utf-8")
    write_manifest(copy)
    found = verify_audit(copy, recompute=False)
    wrong = [check.what for check in found.checks if check.state == "differs"]
    assert wrong == [f"{name.upper()} against its scores"]
    assert f"parts/{name}.json, rows[0].value: 0.4321 is said" in differing(found)


def test_scores_that_the_models_do_not_have_are_found(copy: Path) -> None:
    def more(values: list[float]) -> list[float]:
        return [value + 0.5 for value in values]

    def muse(data: Any) -> None:
        scores = data["items"]["scores"]
        scores["before"]["privleak/forget"]["Min-40 %"][0] += 0.5
        written = scores["model"]["verbmem/forget"]
        written["ROUGE-L F1"] = more(written["ROUGE-L F1"])
        data["items"]["hash"]["knowmem/retain_qa"][1] = "0" * 64

    def tofu(data: Any) -> None:
        kept = data["items"]["scores"]["reference"]["world_facts"]
        kept["probability"] = more(kept["probability"])

    change(copy / "parts/muse.json", muse)
    change(copy / "parts/tofu.json", tofu)
    write_manifest(copy)
    said = differing(verify_audit(copy, base=copy.parent / "home", seed=1))
    assert "muse, privleak/forget 1: Min-40 % of the before is" in said
    assert said.count("ROUGE-L F1 of the model is") == 4
    assert "muse, knowmem/retain_qa 2: its hash is not the report's" in said
    assert said.count("probability of the reference is") == 3
    assert "parts/tofu.json, rows[" in said
