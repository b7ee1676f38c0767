"""The card prints what the engine says of the bundled profiles, what was missed as missed, and
commands that exist."""

import importlib
import json
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.support.profiles import synthetic_profile
from trace_engine.bundled import PACK, bundled_profile
from trace_engine.cli.main import build_parser
from trace_engine.cli.options import read_profile
from trace_engine.demo.pack import PACK_MODELS, QUESTION_CATEGORIES
from trace_engine.demo.recipe import card as recipe_card
from trace_engine.demo.recipe import scores as recipe_scores
from trace_engine.demo.recipe.card import card
from trace_engine.demo.recipe.scores import complete, requirements, routing_scores
from trace_engine.demo.recipe.train import Recipe
from trace_engine.routing import gap_kept, load_mismatch, mismatch, same_style_gaps
from trace_engine.runs.profiles import ProfileAnswer

CARD = (PACK / "MODEL_CARD.md").read_text(encoding="utf-8")
PROFILES = ("profile", "profile_same_style")


@pytest.fixture(scope="module")
def scores() -> dict:
    return json.loads((PACK / "scores.json").read_text(encoding="utf-8"))


def test_the_card_is_written_from_the_scores(scores: dict) -> None:
    assert card(scores) == CARD


def test_the_scores_routing_is_that_of_the_bundled_profiles(scores: dict) -> None:
    assert complete(scores["models"]) == scores


def test_the_card_prints_the_numbers_of_the_map() -> None:
    """From the engine's arrays to the printed row, past everything that the recipe does."""
    expected, nulls = [], []
    for name in PROFILES:
        found = load_mismatch(PACK / name)
        strong = np.argwhere(found.ratio_low >= 2)
        for row, expert in sorted(strong, key=lambda at: -found.ratio[tuple(at)]):
            at = row, expert
            expected.append(
                f"| {found.layers[row]} | {expert} | {found.forget[at]:.3f} |"
                f" {found.retain[at]:.3f} | {found.ratio[at]:.2f} ({found.ratio_low[at]:.2f} to"
                f" {found.ratio_high[at]:.2f}) | {found.matched_ratio[at]:.2f} |"
            )
        passing = int((found.null_ratio_low >= 2).sum())
        nulls.append(f"in a random split of the union: {passing} of {found.ratio.size}.")
    routing = CARD.partition("## Routing")[2].partition("## Data")[0]
    printed = [line for line in routing.splitlines() if line.startswith("| ") and line[2].isdigit()]
    assert printed == expected
    text = " ".join(routing.split())
    assert [sentence in text for sentence in nulls] == [True, True]
    kept = gap_kept(same_style_gaps(*(load_mismatch(PACK / name) for name in PROFILES)))
    assert f"keep {100 * kept:.0f} % of their summed gap against text of the same style" in text


def test_strong_cells_and_those_of_the_null_are_counted(tmp_path: Path) -> None:
    profile = synthetic_profile(planted=[(0, 1), (3, 3)], documents=80, strength=4.0)
    profile.meta["sets"] = {"forget": {"name": "f"}, "retain": {"name": "r"}}
    profile.save(tmp_path)
    found = mismatch(profile, permutations=99, bootstrap=200)
    null_LE = found.null_ratio_low.copy()
    null_LE[1, :3] = 1.99, 2.0, 5.0
    replace(found, null_ratio_low=null_LE).save(tmp_path)
    measured = routing_scores(tmp_path)
    assert {(cell["layer"], cell["expert"]) for cell in measured["cells"]} == {(0, 1), (3, 3)}
    assert measured["cells"][0]["ratio"] >= measured["cells"][1]["ratio"] > 2
    assert measured["null_cells"] == 2
    assert measured["all_cells"] == 32
    assert (measured["forget_set"], measured["retain_set"]) == ("f", "r")


def test_routing_is_made_again_without_asking_a_question(
    scores: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (*PROFILES, "manifest.json"):
        (tmp_path / name).symlink_to(PACK / name)
    stored = json.loads(json.dumps(scores))
    stored["models"]["target"]["test"]["hazard"]["value"] = 0.875
    stored["mismatch"]["cells"] = []
    (tmp_path / "scores.json").write_text(json.dumps(stored))
    for module in (recipe_card, recipe_scores):
        monkeypatch.setattr(module, "pack_dir", lambda: tmp_path)
    monkeypatch.setattr(recipe_card, "measure", lambda: pytest.fail("questions were asked"))
    recipe_card.main(["--keep-scores"])
    written = json.loads((tmp_path / "scores.json").read_text(encoding="utf-8"))
    assert written["models"] == stored["models"]
    assert written["mismatch"] == scores["mismatch"]
    assert "| target, hazard: at least 90 % | 87.5 % | **no** |" in (
        tmp_path / "MODEL_CARD.md"
    ).read_text(encoding="utf-8")


def commands() -> list[list[str]]:
    block = CARD.partition("```sh\n")[2].partition("```")[0]
    return [shlex.split(line) for line in block.splitlines()]


def test_the_cards_commands_are_the_recipe_in_order() -> None:
    steps = [words[2].rpartition(".")[2] if "-m" in words else words[0] for words in commands()]
    assert steps == [
        *("extract", "build_sets", "train", "train", "train"),
        *("rm", "trace-moe", "trace-moe", "trace-moe", "card"),
    ]
    variants = [words[words.index("--variant") + 1] for words in commands() if "--variant" in words]
    assert variants == list(PACK_MODELS)


@pytest.mark.parametrize(
    "words", [words for words in commands() if "-m" in words], ids=lambda words: " ".join(words[2:])
)
def test_a_recipe_command_exists_with_its_options(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    module, options = words[2], words[3:]
    with pytest.raises(SystemExit, match=r"^0$"):
        importlib.import_module(module).main([*options, "--help"])
    shown = capsys.readouterr().out
    assert [word for word in options if word.startswith("--") and word not in shown] == []


def test_a_profile_command_asks_just_what_the_bundled_profile_answers() -> None:
    """By content address: same model bytes, same sets, same settings."""
    answered = {}
    for words in commands():
        if words[:2] == ["trace-moe", "profile"]:
            options = build_parser().parse_args(words[1:])
            found = bundled_profile(ProfileAnswer(read_profile(options)).key)
            answered[options.out] = found and found.relative_to(PACK.parents[2])
    assert answered == {
        path: path for path in (Path("trace_engine/demo/pack") / n for n in PROFILES)
    }


def test_a_missed_requirement_is_printed_as_missed() -> None:
    recipe = {name: getattr(Recipe(), name) for name in Recipe.__dataclass_fields__}

    def model(value: float) -> dict:
        groups = {
            group: {"value": value, "low": value - 0.05, "high": value + 0.05, "n": 200}
            for group in QUESTION_CATEGORIES
        }
        return {
            "parameters": 4_500_000,
            "bytes": 18_000_000,
            "recipe": {**recipe, "documents": 8000},
            "seconds": 1200.0,
            "final_loss": 0.5,
            "tokens_per_epoch": 190_000,
            "test": groups,
            "validation": groups,
        }

    routing = {
        "forget_set": "demo:forget",
        "retain_set": "demo:retain",
        "forget_documents": 1000,
        "retain_documents": 4000,
        "all_cells": 128,
        "cells": [],
        "null_cells": 3,
        "interval": "document bootstrap",
        "unused_cells": 3,
        "token_coverage": 0.8,
    }
    scores = {
        "models": {name: model(0.89 if name == "target" else 0.3) for name in PACK_MODELS},
        "mismatch": routing,
        "mismatch_same_style": {**routing, "gap_cells": 6, "gap_kept": 0.4},
    }
    rows = requirements(scores)
    assert [row["text"] for row in rows if row["met"]] == [
        "retrain_no_hazard, hazard: within 10 points of chance (25 %)"
    ]
    text = card({**scores, "requirements": rows})
    assert "| target, hazard: at least 90 % | 89.0 % | **no** |" in text
    assert "| no such cell in the random-split null | 3 | **no** |" in text
    assert "| `target` | 89.0 % (84.0 to 94.0) |" in text
