"""The model card: the run's own numbers, nothing filled in, a person's words inert."""

import json
from pathlib import Path

import pytest
import yaml

from tests.app.stored import eval_row, write_run
from trace_engine.bundled import PACK
from trace_engine.config import Cell, UnlearnConfig
from trace_engine.export.card import model_card
from trace_engine.export.words import base_model, plain, short_source
from trace_engine.runs import RunDirectory
from trace_engine.unlearning.anchor import anchor_facts


def card(run: RunDirectory) -> str:
    config = run.config()
    assert isinstance(config, UnlearnConfig)
    return model_card(run, config, "merged", {"model.safetensors": "ab" * 32})


def test_accuracies_before_and_after_by_hand(tmp_path: Path) -> None:
    rows = [eval_row(0, 0.9, 0.8), eval_row(20, 0.3, 0.7)]
    text = card(write_run(tmp_path, rows, facts={"loss_curve": "training documents"}))
    assert (
        "| accuracy, to forget (hazard) | 0.900 [0.800, 1.000] | 0.300 [0.200, 0.400] | 100 |"
        in text
    )
    # 280 of 400 right: Wilson's interval by its formula.
    kept = "0.800 [0.758, 0.836] | 0.700 [0.653, 0.743] | 400 |"
    assert f"| accuracy, to keep (all other groups) | {kept}" in text
    assert "guessing gives 25.0" in text
    assert "Losses are of training documents." in text
    # Two layers: 0.8 and 1.0.
    assert "is 90.0\N{NO-BREAK SPACE}% on average (layer 1 80.0\N{NO-BREAK SPACE}%" in text
    assert "ab" * 32 in text


def test_the_result_stands_first_and_says_when_nothing_was_forgotten(tmp_path: Path) -> None:
    start = eval_row(0, 0.9, 0.8)
    text = card(write_run(tmp_path, [start, eval_row(20, 0.3, 0.7)]))
    assert (
        "**Result.** Accuracy on what should be forgotten: 0.900 [0.800, 1.000] before, 0.300 "
        "[0.200, 0.400] after. That is beyond its interval: by this measure it has forgotten. "
        "Accuracy on what should be kept: 0.800 [0.758, 0.836] before, 0.700" in text
    )
    assert text.index("**Result.**") < text.index("## Open it")
    # 0.85 with an interval to 0.95 still holds the start's 0.9.
    text = card(write_run(tmp_path, [start, eval_row(20, 0.85, 0.8)]))
    assert "The interval still includes the start: by this measure nothing is forgotten." in text
    loss = {"accuracy": {}}
    without = [start | loss, eval_row(20, 0.3, 0.7) | loss]
    text = card(write_run(tmp_path, without, evaluation={"questions": None}))
    # 1.0 before, 21.0 after with an interval of a tenth.
    assert "Loss on the forget documents: 1.000 [0.900, 1.100] before, 21.000" in text
    assert "by this measure it has forgotten" in text
    assert "It was not measured before and after." in card(write_run(tmp_path, [start]))


def test_a_method_without_a_retain_term_is_not_called_unweighted(tmp_path: Path) -> None:
    run = write_run(tmp_path, [eval_row(0, 0.9, 0.8)], method="ga", weights={"rule": "uniform"})
    assert "without a retain term" in card(run)


def test_seufs_expert_and_its_anchor_are_named(tmp_path: Path) -> None:
    config = UnlearnConfig.model_validate(
        {"forget": {"source": "f"}, "retain": {"source": "r"}, "model": {"source": "m"},
         "trainable": {"kind": "top_experts"}, "anchor": 0.5}
    )  # fmt: skip
    facts = {"anchor": anchor_facts(config, [(Cell(layer=3, expert=7), 0.25)])}
    text = card(write_run(tmp_path, [eval_row(0, 0.9, 0.8)], facts=facts))
    said = plain(facts["anchor"]["sentence"])
    assert "L3 E7" in said
    assert "its router is anchored to it with weight 0.5" in said
    assert f"**Expert that trained.** {said}" in text
    assert "Expert that trained" not in card(RunDirectory(PACK / "run"))


def test_what_was_not_recorded_is_said(tmp_path: Path) -> None:
    rows = [eval_row(0, 0.9, 0.8), eval_row(20, 0.3, 0.7)]
    del rows[1]["drift"]
    rows[1]["accuracy"]["general"]["value"] = None
    rows[1]["retain_nll"] |= {"low": None, "high": None, "n": 1}
    text = card(write_run(tmp_path, rows))
    assert "Routing drift was not measured." in text
    assert (
        "| accuracy, to keep (all other groups) | 0.800 [0.758, 0.836] | not measured | 400, 0 |"
        in text
    )
    assert "| 2.000 (too few for an interval) | 100, 1 |" in text
    assert "fingerprint `not recorded`" in text
    assert "No evaluation was recorded." in card(write_run(tmp_path, []))


def test_the_bundled_run_has_a_card() -> None:
    text = card(RunDirectory(PACK / "run"))
    assert "# TRACE's bundled model demo:target, unlearned" in text
    assert "7b6c9350d578a9b1d268c1ade3bd52751f08bb641eddf198133ecbfd97e56e37" in text
    assert "L0 E11" in text


@pytest.mark.parametrize(
    ("source", "expected"),
    [("allenai/OLMoE-1B-7B-0924", "allenai/OLMoE-1B-7B-0924"), ("demo:target", None),
     ("/srv/models/secret/moe", None), ("./moe", None)],
)  # fmt: skip
def test_the_base_model_is_a_hub_id_or_left_to_the_user(
    tmp_path: Path, source: str, expected: str | None
) -> None:
    run = write_run(tmp_path, [eval_row(0, 0.9, 0.8)], model={"source": source})
    config = run.config()
    assert isinstance(config, UnlearnConfig)
    assert base_model(config) == expected
    text = card(run)
    head = yaml.safe_load(text.split("---\n", 2)[1])
    assert head.get("base_model") == expected
    assert "/srv/models" not in text


def test_a_relative_model_folder_is_looked_for_where_the_run_began(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`models/moe` has the shape of a hub id; only the launch folder tells that it is none."""
    began, elsewhere = tmp_path / "began", tmp_path / "elsewhere"
    (began / "models" / "moe").mkdir(parents=True)
    elsewhere.mkdir()
    run = write_run(tmp_path, [eval_row(0, 0.9, 0.8)], model={"source": "models/moe"})
    monkeypatch.chdir(elsewhere)
    assert "base_model: models/moe" in card(run)
    (run.path / "launch.json").write_text(json.dumps({"folder": str(began)}))
    text = card(run)
    assert "base_model" not in yaml.safe_load(text.split("---\n", 2)[1])
    assert "models/moe" not in text
    assert str(tmp_path) not in text


def test_words_of_a_person_do_nothing(tmp_path: Path) -> None:
    label = "x | y](http://evil) <script>`\n# title"
    run = write_run(
        tmp_path, [eval_row(0, 0.9, 0.8)], name="````\n# out",
        forget={"source": "demo:forget", "label": label},
    )  # fmt: skip
    text = card(run)
    assert "<script>" not in text.replace(text[text.index("yaml\n") :], "")
    assert "\n# title" not in text
    assert "\n# out" not in text
    assert plain("a|b\n<c>") == "a\\|b \\<c\\>"
    assert short_source("/home/me/forget.jsonl") == "forget.jsonl"
    assert short_source("hub:owner/name") == "hub:owner/name"


def test_a_start_model_that_is_stored_packed_is_told(tmp_path: Path) -> None:
    rows = [eval_row(0, 0.9, 0.8), eval_row(20, 0.3, 0.7)]
    facts = {"model": {"stored_as": "mxfp4", "dtype": "bfloat16"}}
    text = card(write_run(tmp_path, rows, facts=facts))
    assert (
        "is stored as mxfp4 and was unpacked to bfloat16 for training; this folder holds bfloat16."
        in text
    )
    assert "stored as" not in card(write_run(tmp_path / "plain", rows))
