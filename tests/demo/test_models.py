"""The committed models are what the card says: size, format, and what they know."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from trace_engine.demo.pack import PACK_MODELS, model_dir, pack_dir, question_path
from trace_engine.demo.recipe.scores import CHANCE
from trace_engine.evaluation.multiple_choice import score_questions
from trace_engine.sets.questions import read_questions

MOST = {"hazard": None, "general_retain": 60, "general_other": 60, "neighbour": 60}
"""Questions of a category that are asked again, for speed; None asks all."""


@pytest.fixture(scope="module")
def scores() -> dict:
    return json.loads((pack_dir() / "scores.json").read_text(encoding="utf-8"))


@pytest.mark.slow
@pytest.mark.parametrize("name", PACK_MODELS)
def test_a_model_is_small_safe_and_answers_as_scored(name: str, scores) -> None:
    folder = model_dir(name)
    assert (folder / "model.safetensors").stat().st_size <= 20 * 2**20
    assert {path.suffix for path in folder.iterdir()} == {".safetensors", ".json", ".jsonl"}
    log = [json.loads(line) for line in (folder / "training_log.jsonl").open()]
    assert [entry["epoch"] for entry in log] == list(range(1, len(log) + 1))
    assert log[-1]["seconds"] == scores["models"][name]["seconds"]

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert sum(p.numel() for p in model.parameters()) == scores["models"][name]["parameters"]
    # Test questions were scored once, for the last word; a check asks the others.
    questions = read_questions(question_path("validation"))
    for category, most in MOST.items():
        asked = [question for question in questions if question.category == category]
        recorded = scores["models"][name]["validation"][category]
        assert len(asked) == recorded["n"]
        measured = score_questions(model, tokenizer, asked[:most])
        # Near-ties may turn on another machine; every model knows all of what is only sampled.
        assert most is None or recorded["value"] == 1.0
        assert measured.accuracy().value == pytest.approx(recorded["value"], abs=0.02), category
        assert measured.chance() == CHANCE
