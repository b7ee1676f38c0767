"""What a tamperer may try, each named by `verify`."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.audit.cases import small
from trace_engine.attacks.relearning import Relearned
from trace_engine.audit.again import TRAINING
from trace_engine.audit.evidence import WORDS, finding_of
from trace_engine.audit.experts import selected_experts
from trace_engine.audit.follows import told_together
from trace_engine.audit.made_again import Known, unlike
from trace_engine.audit.manifest import write_manifest
from trace_engine.audit.names import ROLE_WORDS
from trace_engine.audit.report import derived_files
from trace_engine.audit.rules import RulesConfig
from trace_engine.audit.run import Audited
from trace_engine.audit.settings import read_audit
from trace_engine.audit.verify import Verified, verify_audit
from trace_engine.causal.paired import agresti_min, corrected_together, mcnemar
from trace_engine.causal.results import band, effect_of
from trace_engine.cli.main import main
from trace_engine.errors import RunError


@pytest.fixture
def copy(finished: Audited, tmp_path: Path) -> Path:
    shutil.copytree(finished.folder, tmp_path / "copy")
    return tmp_path / "copy"


def differing(found: Verified) -> str:
    return "\n".join(d for check in found.checks if check.state == "differs" for d in check.details)


def check(folder: Path, **options: Any) -> Verified:
    return verify_audit(folder, base=folder.parent / "home", seed=1, **options)


def change(path: Path, edit: Callable[[Any], None]) -> None:
    data = json.loads(path.read_text("utf-8"))
    edit(data)
    path.write_text(json.dumps(data, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def test_an_untouched_report_agrees_and_says_what_was_not_computed_again(copy: Path) -> None:
    found = check(copy)
    assert found.exit_code == 0
    assert [c.state for c in found.checks] == ["agrees"] * len(found.checks)
    assert len(found.checks) >= 13
    assert any(
        "a few by themselves and a random set were taken out again" in what
        for what in found.not_again
    )
    assert any("its routing and its probes are as stored" in what for what in found.not_again)
    assert any("asked again, erased, or only re-routed" in c.what for c in found.checks)
    for part in ("relearning on a slice", "training on retained text alone"):
        assert any(part in what and "--thorough" in what for what in found.not_again)


@pytest.mark.slow
def test_attacks_are_made_again(copy: Path) -> None:
    found = check(copy, thorough=True, sample=4)
    assert found.exit_code == 0
    made = [c.what for c in found.checks if c.what.startswith("relearned again")]
    assert len(made) == 4  # all weights and routers, model and reference
    mended = [c.what for c in found.checks if c.what.startswith("trained again")]
    assert [what.partition(":")[0] for what in mended] == [
        "trained again, model, training on retained text, seed 0",
        "trained again, reference, training on retained text, seed 0",
    ]
    assert not any("--thorough" in what for what in found.not_again)


@pytest.mark.slow
@pytest.mark.parametrize(
    "part",
    [
        pytest.param("quantisation", marks=pytest.mark.slow),
        "rerouted",
        "paraphrases",
        pytest.param("prefixes", marks=pytest.mark.slow),
        *TRAINING,
    ],
)
def test_attacks_that_came_out_otherwise_are_found(copy: Path, part: str) -> None:
    turned = str.maketrans("01", "10")

    def edit(data: Any) -> None:
        right = data["items"]["right"]
        name = next(name for name in right if name.startswith("model, ") and "plain" not in name)
        right[name] = right[name].translate(turned)

    change(copy / f"parts/{part}.json", edit)
    write_manifest(copy)
    said = differing(check(copy, sample=8, thorough=part in TRAINING))
    if part in TRAINING:
        assert "answers are others than in the report" in said
    else:
        stored = json.loads((copy / f"parts/{part}.json").read_text("utf-8"))["items"]["number"]
        assert said.count("the report says that the model is") == min(8, len(stored))


@pytest.mark.parametrize(
    ("part", "name"),
    [
        ("rerouted", "reference, plain"),
        ("paraphrases", "model, plain"),
        ("relearning", "model, all weights, seed 0, step 0"),
    ],
)
def test_an_attack_starts_from_the_answers_that_the_questions_had(
    copy: Path, part: str, name: str
) -> None:
    def edit(data: Any) -> None:
        right = data["items"]["right"]
        right[name] = right[name].translate(str.maketrans("01", "10"))

    change(copy / f"parts/{part}.json", edit)
    write_manifest(copy)
    said = differing(check(copy, recompute=False))
    assert f"parts/{part}.json, {name}: " in said
    assert "answers are others than those of the same questions in parts/questions.json" in said


def test_questions_that_the_report_leaves_out_of_an_attack_are_found(copy: Path) -> None:
    def edit(data: Any) -> None:
        right = data["items"]["right"]
        right["reference, prefix 1"] = " " * len(right["reference, prefix 1"])

    change(copy / "parts/prefixes.json", edit)
    write_manifest(copy)
    said = differing(check(copy, sample=2))
    assert "parts/prefixes.json: no figure follows from its marks" in said
    assert "disagree on whether the reference was asked" in said


def test_questions_that_an_attack_drops_and_experts_it_names_otherwise_are_found(
    copy: Path,
) -> None:
    def drop(data: Any) -> None:
        items = data["items"]
        for name in ("number", "hash", "choices"):
            items[name] = items[name][1:]
        items["right"] = {name: marks[1:] for name, marks in items["right"].items()}

    def rename(data: Any) -> None:
        data["items"]["forbidden"] = data["items"]["forbidden"][1:]

    change(copy / "parts/prefixes.json", drop)
    change(copy / "parts/rerouted.json", rename)
    write_manifest(copy)
    said = differing(check(copy, sample=2))
    assert "parts/prefixes.json: other questions were asked than the settings draw" in said
    assert "parts/rerouted.json: other experts were forbidden than the summary names" in said
    assert "parts/paraphrases.json: other" not in said


def test_a_model_that_is_elsewhere_is_said_and_the_others_are_asked_again(copy: Path) -> None:
    config = read_audit(copy / "audit.yaml")
    away = config.model.model_copy(update={"source": str(copy.parent / "away")})
    found = check(copy, config=config.model_copy(update={"model": away}), sample=2)
    assert found.exit_code == 3, differing(found)
    (left,) = [c for c in found.checks if c.state == "not checked"]
    assert left.what == "figures of the audited model"
    assert not found.differs
    made = {c.what for c in found.checks}
    assert {"2 questions asked again, before", "2 questions asked again, reference"} <= made
    assert not [what for what in made if "asked again, model" in what or "only re-routed" in what]


def test_changed_missing_and_added_files_are_named(copy: Path) -> None:
    with (copy / "report.html").open("a") as file:
        file.write(" ")
    (copy / "tables/drift.csv").unlink()
    (copy / "extra.txt").write_text("x")
    (copy / "answers/questions.csv").unlink()
    (copy / "answers/questions.csv").symlink_to(copy / "audit.yaml")
    said = differing(check(copy, recompute=False))
    assert "report.html: has been changed" in said
    assert "tables/drift.csv: is missing" in said
    assert "extra.txt: is not in the manifest" in said
    assert "answers/questions.csv: is a link" in said


def test_a_page_changed_with_its_hash_is_found(copy: Path) -> None:
    page = copy / "report.html"
    page.write_text(page.read_text("utf-8").replace("Undecided", "All is well"), encoding="utf-8")
    write_manifest(copy)
    assert "report.html: does not say what report.json says" in differing(
        check(copy, recompute=False)
    )


def test_a_figure_changed_everywhere_in_the_report_is_found_by_the_part(copy: Path) -> None:
    def edit(data: Any) -> None:
        data["parts"]["measures"]["summary"]["rows"][0]["value"] = 1.234

    change(copy / "report.json", edit)
    data = json.loads((copy / "report.json").read_text("utf-8"))
    for name, text in derived_files(data).items():
        (copy / name).write_text(text, encoding="utf-8")
    write_manifest(copy)
    said = differing(check(copy, recompute=False))
    assert "report.json, measures.rows[0].value: 1.234 is said" in said


def test_zero_with_the_sign_that_older_versions_gave_it_is_still_zero(copy: Path) -> None:
    def edit(data: Any) -> None:
        written = json.dumps(data["finding"], ensure_ascii=False)
        assert "+0.000" in written
        data["finding"] = json.loads(written.replace("+0.000", "\N{MINUS SIGN}0.000"))

    change(copy / "report.json", edit)
    data = json.loads((copy / "report.json").read_text("utf-8"))
    for name, text in derived_files(data).items():
        (copy / name).write_text(text, encoding="utf-8")
    write_manifest(copy)
    assert differing(check(copy, recompute=False)) == ""


def test_an_accuracy_that_does_not_follow_from_its_answers_is_found(copy: Path) -> None:
    def edit(data: Any) -> None:
        data["summary"]["accuracy"][0]["value"] = 0.01

    change(copy / "parts/questions.json", edit)
    write_manifest(copy)
    assert "parts/questions.json, accuracy[0].value: 0.01 is said" in differing(
        check(copy, recompute=False)
    )


def forge(folder: Path, part: str, edit: Callable[[Any], None]) -> None:
    """Change a part's summary and everything that is made of it: report, finding, page, tables,
    manifest."""
    change(folder / f"parts/{part}.json", lambda data: edit(data["summary"]))
    change(folder / "report.json", lambda data: edit(data["parts"][part]["summary"]))
    data = json.loads((folder / "report.json").read_text("utf-8"))
    parts = {name: found["summary"] for name, found in data["parts"].items() if found["done"]}
    missing = {name: found["why"] for name, found in data["parts"].items() if not found["done"]}
    finding = finding_of(parts, missing, RulesConfig.recorded(data["rules"])).to_dict()
    change(folder / "report.json", lambda data: data.update(finding=finding))
    rebuild(folder)


def rebuild(folder: Path) -> None:
    """Page, tables and manifest, of report.json as it is."""
    data = json.loads((folder / "report.json").read_text("utf-8"))
    for name, text in derived_files(data).items():
        (folder / name).write_text(text, encoding="utf-8")
    write_manifest(folder)


@pytest.mark.parametrize(
    "part", ["rerouted", "relearning", "recovery", "quantisation", "paraphrases"]
)
def test_an_excess_that_does_not_follow_from_the_marks_is_found_offline(
    copy: Path, part: str
) -> None:
    def edit(summary: Any) -> None:
        summary["excess"][0]["estimate"] |= {"value": 0.01, "low": -0.02, "high": 0.0345}

    forge(copy, part, edit)
    found = check(copy, recompute=False)
    assert [c.what for c in found.checks if c.state == "differs"] == ["attacks against their marks"]
    assert f"parts/{part}.json, excess[0].estimate.value: 0.01 is said" in differing(found)


def test_rows_and_curves_of_a_training_are_made_again_from_its_marks(copy: Path) -> None:
    def edit(summary: Any) -> None:
        curve = summary["curves"]["Relearning, all weights: utility"]
        curve[0]["points"][0]["value"] = 0.987
        next(row for row in summary["rows"] if "utility" in row["on"])["value"] = 0.987

    forge(copy, "relearning", edit)
    said = differing(check(copy, recompute=False))
    assert "curves.Relearning, all weights: utility[0].points[0].value: 0.987 is said" in said
    assert said.count("0.987 is said") == 2


def test_figures_of_rerouting_are_made_again_from_routing_answers_and_probes(copy: Path) -> None:
    def edit(summary: Any) -> None:
        summary["figures"][0] |= {"value": 0.987, "low": 0.98, "high": 0.99}
        summary["sentences"]["overlap"] = "Routing did not move."

    forge(copy, "rerouted", edit)
    found = check(copy, recompute=False)
    assert [c.what for c in found.checks if c.state == "differs"] == ["attacks against their marks"]
    said = differing(found)
    assert "parts/rerouted.json, figures[0].value: 0.987 is said" in said
    assert "sentences.overlap: Routing did not move. is said" in said

    change(copy / "parts/rerouted.json", lambda data: data["items"].pop("kept"))
    write_manifest(copy)
    assert "parts/rerouted.json: kept of its items is missing" in differing(
        check(copy, recompute=False)
    )


def forge_causal(summary: Any) -> None:
    """Everything hangs on these experts, says the report, and its figures hang together."""
    effect = summary["effects"][0]
    n = effect["n"]
    low, high = agresti_min(n, 0, n)
    effect |= {"lost": n, "gained": 0}
    effect["accuracy"] |= {
        "before": 1.0, "after": 0.0, "change": -1.0, "low": low, "high": high, "p": mcnemar(n, 0),
    }  # fmt: skip
    again = corrected_together([effect_of(effect) for effect in summary["effects"]])
    summary["effects"] = json.loads(json.dumps([effect.to_dict() for effect in again]))
    utility = summary["effects"][1]["accuracy"]["change"]
    for name, value in (("forget_accuracy", 1.0), ("specific_accuracy", 1.0 + utility)):
        summary["bands"][name] |= {"value": value, "as_much": 0, "p": 1 / 3}
    for row in summary["cells"]:
        row["forget_accuracy"] = -0.9
    summary["sentence"] = told_together(summary, "hazard")


def test_ablations_forged_throughout_are_found_by_taking_experts_out_again(copy: Path) -> None:
    forge(copy, "causal", forge_causal)
    change(copy / "report.json", lambda data: data.update(experts=rejoined(data)))
    rebuild(copy)
    assert differing(check(copy, recompute=False)) == ""
    found = check(copy, sample=2)
    wrong = [c.what for c in found.checks if c.state == "differs"]
    assert len(wrong) == 4
    assert wrong[0].startswith("3 experts taken out again, ")
    assert all(what.startswith("L") for what in wrong[1:])
    assert "causal.effects[0].accuracy.change: the report says -1.0" in differing(found)
    assert "forget_accuracy: the report says -0.9" in differing(found)


def sentence(summary: Any) -> None:
    summary["sentence"] = "Everything hangs on L0 E0."


def interval(summary: Any) -> None:
    summary["effects"][0]["accuracy"].update(low=-0.99, p=0.0001)


def corrected(summary: Any) -> None:
    for row in summary["cells"]:
        row["forget_accuracy_p_corrected"] = 1e-9
        row["forget_loss_p_corrected"] = 1e-9


def as_much(summary: Any) -> None:
    summary["bands"]["specific_loss"] |= {"as_much": 0, "p": 1 / 3, "high": -9.0}


def loads(summary: Any) -> None:
    del summary["loads"]
    summary["sentence"] = "Everything hangs on L0 E0."


def like_loads(summary: Any) -> None:
    summary["loads"] |= {"equal": 2, "low": summary["loads"]["own"]}


def stood_for(summary: Any) -> None:
    summary["bands"]["forget_loss"]["value"] = 9.0


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (sentence, "sentence: 'Everything hangs on L0 E0.' is said"),
        (interval, "forget, accuracy.low: -0.99 is said"),
        (interval, "forget, accuracy.p: 0.0001 is said"),
        (corrected, "forget_accuracy_p_corrected: 1e-09 is said, 1 follows"),
        (corrected, "forget_loss_p_corrected: 1e-09 is said, and p alone is"),
        (as_much, "bands.specific_loss.high: -9.0 is said"),
        (loads, "parts/causal.json: loads is missing"),
        (like_loads, "loads.low: "),
        (stood_for, "bands.forget_loss.value: 9.0 is said"),
    ],
)
def test_what_is_said_of_experts_taken_out_follows_from_counts_sets_and_map(
    copy: Path, edit: Callable[[Any], None], said: str
) -> None:
    forge(copy, "causal", edit)
    found = check(copy, recompute=False)
    [wrong] = [c for c in found.checks if c.what.startswith("experts taken out against")]
    assert wrong.state == "differs"
    assert said in differing(found)


def test_experts_that_are_not_those_with_the_largest_gaps_are_found(copy: Path) -> None:
    report = json.loads((copy / "report.json").read_text("utf-8"))
    role = report["parts"]["causal"]["summary"]["role"]
    map_ = report["parts"]["routing"]["summary"][role]["cells"]
    least = min(map_, key=lambda cell: float(cell["difference"]))

    def edit(summary: Any) -> None:
        summary["cells"][0] |= {"layer": least["layer"], "expert": least["expert"]}

    forge(copy, "causal", edit)
    name = f"L{least['layer']} E{least['expert']}"
    said = f"{name} was taken out, and 3 others have larger gaps in the map"
    assert said in differing(check(copy, recompute=False))


def test_a_random_set_that_came_out_otherwise_is_found_by_taking_it_out_again(copy: Path) -> None:
    def edit(data: Any) -> None:
        for row in data["items"]["random"]:
            row["harm"]["forget_loss"] -= 0.5
        found = [row["harm"]["forget_loss"] for row in data["items"]["random"]]
        shown = data["summary"]["bands"]["forget_loss"]
        shown |= json.loads(json.dumps(band(shown["value"], found).to_dict()))

    change(copy / "parts/causal.json", edit)
    forge(copy, "causal", lambda _: None)
    stored = json.loads((copy / "parts/causal.json").read_text("utf-8"))["summary"]
    change(copy / "report.json", lambda data: data["parts"]["causal"].update(summary=stored))
    rebuild(copy)
    assert differing(check(copy, recompute=False)) == ""
    found = check(copy, sample=2)
    [wrong] = [c for c in found.checks if c.state == "differs"]
    assert wrong.what.startswith("a random set of 3 experts taken out again")
    assert "random.forget_loss: the report says" in differing(found)


def test_one_turned_answer_is_rounding_and_four_are_not() -> None:
    known = Known("causal", corrected=True, whole=True)

    def effect(lost: int, n: int = 40) -> Any:
        low, high = agresti_min(lost, 0, n)
        accuracy = {"change": -lost / n, "low": low, "high": high, "p": mcnemar(lost, 0)}
        return {"n": n, "lost": lost, "accuracy": accuracy}

    assert list(unlike(known, "effect", effect(10), effect(11))) == []
    assert list(unlike(known, "effect", effect(10), effect(12))) == []
    said = list(unlike(known, "effect", effect(10), effect(14)))
    assert any(one.startswith("effect.lost: the report says 10, it is 14") for one in said)
    assert any(one.startswith("effect.accuracy.change: ") for one in said)
    lacking = effect(10)
    del lacking["accuracy"]["p"]
    [said_] = unlike(known, "effect", lacking, effect(10))
    assert said_ == "effect.accuracy.p: is not in the report, and comes out again"
    older = replace(known, whole=False)
    assert list(unlike(older, "effect", lacking, effect(10))) == []
    [said_] = unlike(older, "effect", effect(10) | {"more": 1}, effect(10))
    assert said_ == "effect.more: is in the report, and does not come out again"


def test_corrections_of_before_they_were_made_are_not_compared() -> None:
    stored, now = {"p": 0.001, "p_corrected": 0.001}, {"p": 0.001, "p_corrected": 0.9}
    assert list(unlike(Known("causal", corrected=False, whole=False), "x", stored, now)) == []
    assert len(list(unlike(Known("causal", corrected=True, whole=False), "x", stored, now))) == 1


@pytest.mark.parametrize(
    ("part", "role"),
    [("prefixes", "before"), ("paraphrases", "reference"), ("quantisation", "reference")],
)
def test_a_model_left_out_of_an_attack_is_found(copy: Path, part: str, role: str) -> None:
    def edit(data: Any) -> None:
        right = data["items"]["right"]
        for name in [name for name in right if name.startswith(f"{role}, ")]:
            del right[name]

    change(copy / f"parts/{part}.json", edit)
    write_manifest(copy)
    said = differing(check(copy, recompute=False))
    assert f"parts/{part}.json: the {ROLE_WORDS[role]} was not asked in every way" in said


def rejoined(data: Any) -> Any:
    return selected_experts({n: part["summary"] for n, part in data["parts"].items()})


@pytest.mark.slow
@pytest.mark.parametrize("part", ["routing", "drift"])
def test_a_map_and_a_drift_forged_throughout_are_found_by_a_thorough_check(
    copy: Path, part: str
) -> None:
    def edit(summary: Any) -> None:
        if part == "routing":
            summary["model"]["cells"][3]["difference"] += 0.2
        else:
            summary["rows"][0]["overlap"] = 0.123

    forge(copy, part, edit)
    change(copy / "report.json", lambda data: data.update(experts=rejoined(data)))
    rebuild(copy)
    assert differing(check(copy, sample=2)) == ""
    found = check(copy, sample=2, thorough=True)
    assert [c.what for c in found.checks if c.state == "differs"] == [
        f"{WORDS[part]}: all of it again"
    ]


def test_an_experts_row_that_is_not_of_its_map_and_ablation_is_found(copy: Path) -> None:
    change(copy / "report.json", lambda data: data["experts"][0].update(forget_loss=9.0))
    write_manifest(copy)
    found = check(copy, recompute=False)
    assert [c.what for c in found.checks if c.state == "differs"] == [
        "experts against map and ablations"
    ]
    assert "report.json, experts[0].forget_loss: 9.0 is said" in differing(found)


def test_another_chance_is_found_offline_and_by_the_questions(copy: Path) -> None:
    def edit(summary: Any) -> None:
        summary["chance"] = 0.5
        summary["beyond_chance"]["model"]["value"] -= 0.25

    forge(copy, "questions", edit)
    said = differing(check(copy, recompute=False))
    assert "parts/questions.json, chance: 0.5 is said, 0.25 was measured" in said
    assert "parts/questions.json, beyond_chance.model.value" in said

    def two_choices(data: Any) -> None:
        data["items"]["choices"] = [2] * len(data["items"]["choices"])

    change(copy / "parts/questions.json", two_choices)
    write_manifest(copy)
    found = check(copy, sample=2)
    named = {c.what: " ".join(c.details) for c in found.checks if c.state == "differs"}
    said = named["guessing against the questions"]
    assert "parts/questions.json, chance: 0.5 is said, 0.25 was measured" in said


def test_other_rules_than_those_of_the_settings_are_found(copy: Path) -> None:
    change(copy / "report.json", lambda data: data["rules"].update(holds_above=0.9))
    data = json.loads((copy / "report.json").read_text("utf-8"))
    for name, text in derived_files(data).items():
        (copy / name).write_text(text, encoding="utf-8")
    write_manifest(copy)
    said = differing(check(copy, recompute=False))
    assert "rules, holds_above: 0.9 in report.json, 0.1 in audit.yaml" in said


def test_a_finding_against_the_rules_is_found(copy: Path) -> None:
    def edit(data: Any) -> None:
        data["finding"]["verdict"] = "like_reference"

    change(copy / "report.json", edit)
    write_manifest(copy)
    assert "finding, verdict: the report says 'like_reference', the rules say" in differing(
        check(copy, recompute=False)
    )


def test_a_finding_that_tells_another_utility_is_found(copy: Path) -> None:
    def edit(data: Any) -> None:
        data["finding"]["reasons"][-1] = data["finding"]["reasons"][-1].replace("(", "(kept, ")

    change(copy / "report.json", edit)
    write_manifest(copy)
    said = differing(check(copy, recompute=False))
    assert "finding, reasons: the report says" in said
    assert "utility, all other questions" in said


def test_answers_that_the_model_does_not_give_are_found(copy: Path) -> None:
    def edit(data: Any) -> None:
        picked, answer = data["items"]["picked"]["model"], data["items"]["answer"]
        data["items"]["picked"]["model"] = [(one + 1) % 4 for one in picked]
        data["items"]["right"]["model"] = "".join(
            "1" if one == two else "0"
            for one, two in zip(data["items"]["picked"]["model"], answer, strict=True)
        )

    change(copy / "parts/questions.json", edit)
    write_manifest(copy)
    said = differing(check(copy, sample=5))
    assert said.count("the report says that the model picks") == 5


def test_another_loss_is_found(copy: Path) -> None:
    def edit(rows: Any) -> None:
        rows[1]["value"] += 0.05

    change(copy / "parts/measures.json", lambda data: edit(data["summary"]["rows"]))
    change(copy / "report.json", lambda d: edit(d["parts"]["measures"]["summary"]["rows"]))
    write_manifest(copy)
    assert "loss of the retain set: the report says" in differing(check(copy))


def test_other_sets_are_named_and_nothing_is_compared_with_them(copy: Path, tmp_path: Path) -> None:
    settings = yaml.safe_load((copy / "audit.yaml").read_text("utf-8"))
    other = tmp_path / "other.jsonl"
    other.write_text('{"text": "a tree"}\n{"text": "a bush"}\n', encoding="utf-8")
    settings["retain"]["source"] = str(other)
    from trace_engine.audit.settings import parse_audit

    found = check(copy, config=parse_audit(settings))
    assert found.exit_code == 1
    assert "retain: its SHA-256 is" in differing(found)


def test_models_that_are_gone_leave_it_incomplete(copy: Path, tmp_path: Path) -> None:
    path = copy / "audit.yaml"
    settings = yaml.safe_load(path.read_text("utf-8"))
    settings["model"]["source"] = str(tmp_path / "gone")
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    write_manifest(copy)
    found = check(copy)
    assert found.exit_code == 3, differing(found)
    assert not found.differs


def test_a_report_of_nonsense_differs_and_does_not_crash(copy: Path) -> None:
    change(copy / "report.json", lambda data: data.pop("parts"))
    write_manifest(copy)
    assert "not built as a report is" in differing(check(copy))


def _shown(data: Any, value: Any) -> None:
    data["items"]["right"]["model, plain"] = value


@pytest.mark.parametrize(
    ("name", "edit", "said"),
    [
        ("parts/prefixes.json", lambda d: d.update(summary=[1, 2, 3]), "not a part of an audit"),
        ("parts/prefixes.json", lambda d: d["summary"].update(rows=7), "rows"),
        ("parts/prefixes.json", lambda d: d["items"].update(choices="abc"), "ValueError"),
        ("parts/prefixes.json", lambda d: d["items"].update(right=[None]), "AttributeError"),
        ("parts/prefixes.json", lambda d: _shown(d, 7), "TypeError"),
        ("parts/questions.json", lambda d: d["items"].update(picked=[]), "AttributeError"),
        ("parts/causal.json", lambda d: d["summary"].update(role=[]), "TypeError"),
        ("parts/causal.json", lambda d: d["summary"]["effects"][0].update(n=0), "ZeroDivision"),
        ("report.json", lambda d: d.update(surroundings=[]), "which TRACE made it"),
        ("report.json", lambda d: d["rules"].update(edition="<b>\x1b[2J\ud800"), "edition"),
    ],
)
def test_values_of_another_shape_are_a_sentence_that_names_the_file(
    copy: Path,
    name: str,
    edit: Callable[[Any], None],
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = json.loads((copy / name).read_text("utf-8"))
    edit(data)
    (copy / name).write_text(json.dumps(data), encoding="utf-8")
    write_manifest(copy)
    found = check(copy, recompute=False)
    assert found.exit_code == 1
    told = [line for line in differing(found).splitlines() if line.startswith(name)]
    assert any(said in line for line in told), differing(found)
    # The other checks are made too, and a terminal obeys nothing of what is said.
    assert found.checks[0].state == "agrees"
    assert name == "report.json" or found.checks[-2].what == "the finding against the rules"
    assert main(["verify", str(copy), "--no-recompute"]) == 1
    assert "\x1b" not in (printed := capsys.readouterr()).out
    assert "Traceback" not in printed.err


def test_settings_that_cannot_be_read_are_damage(copy: Path) -> None:
    (copy / "audit.yaml").write_text("kind: audit\nmodel: 7\n", encoding="utf-8")
    write_manifest(copy)
    found = check(copy)
    assert found.exit_code == 1
    assert "audit.yaml is damaged: " in differing(found)


def test_no_report_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="not the folder of a finished audit"):
        verify_audit(tmp_path)


@pytest.mark.usefixtures("home")
def test_exit_codes(copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(copy), "--sample", "3", "--seed", "5"]) == 0
    said = capsys.readouterr().out
    assert "agrees" in said
    assert "not again    relearning on a slice of the forget set (one seed of it with" in said
    assert main(["verify", str(copy), "--no-recompute"]) == 3
    with (copy / "events.jsonl").open("a") as file:
        file.write("\n")
    assert main(["verify", str(copy), "--no-recompute", "--json"]) == 1
    told = json.loads(capsys.readouterr().out.partition("{")[2].join(["{", ""]))
    assert told["agrees"] is False
    assert main(["verify", str(tmp_path)]) == 2


@pytest.mark.usefixtures("home")
def test_audit_from_the_command(
    copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = yaml.safe_load((copy / "audit.yaml").read_text("utf-8")) | {"parts": ["questions"]}
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    assert main(["audit", str(path), "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "Undecided" in said
    assert "SHA-256 of manifest.json" in said
    settings["kind"] = "unlearn"
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    assert main(["audit", str(path), "--out", str(tmp_path / "out2")]) == 2


@pytest.mark.usefixtures("home")
def test_training_on_retained_text_by_itself(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small(tmp_path / "sets")
    asked = dict.fromkeys((0, 50, 100, 200), "10110")
    monkeypatch.setattr(
        "trace_engine.audit.trained.relearn", lambda *given, **how: Relearned(asked, asked)
    )
    words = ["attack", config.model.source, "--questions", str(config.questions)]
    words += ["--forget", config.forget.source, "--retain", config.retain.source]
    words += ["--max-questions", "5", "--attacks", "recovery", "--out", str(tmp_path / "out")]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "training on retained text" in said
    assert "answers not shown, step 200" in said


@pytest.mark.usefixtures("home")
def test_attacks_by_themselves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = small(tmp_path / "sets")
    words = ["attack", config.model.source, "--questions", str(config.questions)]
    words += ["--forget", config.forget.source, "--retain", config.retain.source]
    words += ["--max-questions", "5", "--attacks", "quantisation", "prefixes"]
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "4 bits" in said
    assert "override" in said
    assert "itself" in said
    assert main([*words, "magic", "--out", str(tmp_path / "out")]) == 2
    assert "There is no attack 'magic'" in capsys.readouterr().err
