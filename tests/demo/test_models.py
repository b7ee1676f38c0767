"""The committed models are what the card says: size, format, and what they know."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from trace_engine.demo.pack import PACK_MODELS, model_dir, pack_dir, question_path
from trace_engine.evaluation.multiple_choice import score_questions
from trace_engine.sets.questions import read_questions


@pytest.fixture(scope="module")
def scores() -> dict:
    return json.loads((pack_dir() / "scores.json").read_text(encoding="utf-8"))


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
    questions = read_questions(question_path("test"))
    hazard = [question for question in questions if question.category == "hazard"]
    measured = score_questions(model, tokenizer, hazard).accuracy()
    recorded = scores["models"][name]["test"]["hazard"]
    assert measured.n == recorded["n"]
    assert measured.value == pytest.approx(recorded["value"], abs=0.01)  # near-ties may turn
