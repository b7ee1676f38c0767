"""The card's routing figures, and that a missed requirement is printed as missed."""

import numpy as np
import pytest
import torch
from transformers import OlmoeConfig, OlmoeForCausalLM

from trace_engine.demo.pack import PACK_MODELS, QUESTION_CATEGORIES
from trace_engine.demo.recipe.batches import train_tokenizer
from trace_engine.demo.recipe.card import card
from trace_engine.demo.recipe.mismatch import Routing, count_routing, routing_mismatch
from trace_engine.demo.recipe.scores import requirements
from trace_engine.demo.recipe.train import Recipe

TEXTS = ["a grey stone", "the river runs north past the old mill", "red"]


def test_routing_counts_match_the_router_and_sum_to_k() -> None:
    tokenizer = train_tokenizer(TEXTS, 300)
    torch.manual_seed(0)
    config = OlmoeConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        num_experts=4,
        num_experts_per_tok=2,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = OlmoeForCausalLM(config).eval()
    routing = count_routing(model, tokenizer, TEXTS, size=2)
    lengths = [len(tokenizer(text)["input_ids"]) - 1 for text in TEXTS]  # <bos> isn't counted
    assert routing.tokens_D.tolist() == lengths
    assert routing.chosen_DC.reshape(3, 2, 4).sum(-1).tolist() == [[2 * n] * 2 for n in lengths]
    np.testing.assert_array_equal(routing.chosen_VC.sum(0), routing.chosen_DC.sum(0))

    ids = torch.tensor([tokenizer(TEXTS[1])["input_ids"]])
    with torch.no_grad():
        logits = model(ids, output_router_logits=True).router_logits
    for layer, logits_TE in enumerate(logits):
        chosen = logits_TE[1:].topk(2, dim=-1).indices.flatten()
        expected = torch.bincount(chosen, minlength=4).numpy()
        np.testing.assert_array_equal(routing.chosen_DC[1, 4 * layer : 4 * layer + 4], expected)


def test_a_planted_mismatch_is_found_and_its_null_is_empty() -> None:
    random = np.random.default_rng(0)

    def side(documents: int, shares: list[float]) -> Routing:
        tokens_D = random.integers(5, 20, documents).astype(float)
        chosen_DC = np.stack([random.multinomial(int(n), shares) for n in tokens_D]).astype(float)
        chosen_VC = chosen_DC.sum(0, keepdims=True)
        return Routing(chosen_DC, tokens_D, chosen_VC, tokens_D.sum(keepdims=True))

    forget = side(300, [0.6, 0.2, 0.1, 0.1])
    retain = side(600, [0.15, 0.25, 0.3, 0.3])
    found = routing_mismatch(forget, retain, experts=2)
    assert [(cell["layer"], cell["expert"]) for cell in found["cells"]] == [(0, 0)]
    cell = found["cells"][0]
    assert cell["low"] < 4.0 < cell["high"]
    assert cell["token_matched_ratio"] == pytest.approx(cell["ratio"], abs=0.01)  # one token id
    assert found["null_cells"] == 0
    assert found["token_coverage"] == 1.0


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

    mismatch = {
        "cells": [],
        "null_cells": 0,
        "interval": "document bootstrap",
        "unused_cells": 3,
        "token_coverage": 0.8,
    }
    scores = {
        "models": {name: model(0.89 if name == "target" else 0.3) for name in PACK_MODELS},
        "mismatch": mismatch,
        "mismatch_same_style": mismatch,
    }
    rows = requirements(scores)
    assert {row["text"].split(":")[0] for row in rows if row["met"]} == {
        "retrain_no_hazard, hazard",
        "no such cell in the random-split null",
    }
    text = card({**scores, "requirements": rows})
    assert "| target, hazard: at least 90 % | 89.0 % | **no** |" in text
    assert "| `target` | 89.0 % (84.0 to 94.0) |" in text
