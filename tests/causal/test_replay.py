"""Ablations from stored hidden states: the same numbers as full forwards, and exactly nothing
where nothing hangs on an expert."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests.causal.cases import opened, questions
from tests.support.models import VOCABULARY, tiny_tokenizer
from tests.support.moe_types import tiny_model
from trace_engine.causal import Examination
from trace_engine.config import Cell
from trace_engine.errors import InputError
from trace_engine.evaluation.multiple_choice import score_questions
from trace_engine.models import OpenModel, expert_parameters, find_sites, mask_experts


def same(left: Any, right: Any, within: float = 0.0) -> None:
    assert np.array_equal(left.correct_N, right.correct_N)
    assert np.abs(left.loss_N - right.loss_N).max() <= within


def test_the_model_as_it_is_answers_as_when_it_is_scored() -> None:
    model = opened()
    found = Examination(model, questions())
    scores = score_questions(model.model, model.tokenizer, questions())
    assert np.array_equal(found.answers.correct_N, scores.correct)
    for place, (question, values) in enumerate(
        zip(questions(), scores.loglikelihoods, strict=True)
    ):
        tokens = len(model.tokenizer(f" {question.choices[question.answer]}")["input_ids"])
        expected = -values[question.answer] / tokens
        assert found.answers.loss_N[place] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("mode", ["drop", "reroute"])
def test_a_replay_is_the_full_forward(mode: Any) -> None:
    model = opened(layers=3)
    replayed, full = Examination(model, questions()), Examination(model, questions(), replay=False)
    for cells in ([Cell(0, 1)], [Cell(1, 2), Cell(2, 5)], [Cell(2, 0)], [Cell(1, 7)]):
        same(replayed.without(cells, mode), full.without(cells, mode))
    assert [found.reused for found in replayed.replays()] == [True, True, True]
    assert not full.replays()


def test_without_an_expert_is_the_masked_models_score() -> None:
    model = opened(layers=3)
    found = Examination(model, questions())
    busiest = int(found.tokens_LE[1].argmax())
    after = found.without([Cell(1, busiest)])
    with mask_experts(model, [Cell(1, busiest)]):
        scores = score_questions(model.model, model.tokenizer, questions())
    assert np.array_equal(after.correct_N, scores.correct)
    assert not np.array_equal(after.loss_N, found.answers.loss_N)


def test_drop_is_a_zeroed_down_projection() -> None:
    model = opened()
    cell = Cell(1, int(Examination(model, questions()).tokens_LE[1].argmax()))
    dropped = Examination(model, questions()).without([cell])
    [down] = [p for name, (p, _) in expert_parameters(model.sites[1]).items() if "down" in name]
    with torch.no_grad():
        down[cell.expert] = 0
    same(dropped, Examination(model, questions()).answers)


@pytest.mark.parametrize("mode", ["drop", "reroute"])
def test_an_expert_that_no_token_reaches_has_exactly_no_effect(
    mode: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = opened(experts=64, top_k=1)
    found = Examination(model, questions())
    unused = np.flatnonzero(found.tokens_LE[1] == 0)
    assert len(unused), "the test needs an expert that no token reaches"
    before = found.answers
    monkeypatch.setattr(found, "_forward", lambda batch: pytest.fail("computed something"))
    same(found.without([Cell(1, int(unused[0]))], mode), before)


def test_tokens_are_counted_without_padding() -> None:
    model = opened()
    found = Examination(model, questions(), tokens_per_batch=256)
    per_token = model.info.experts_per_token[0]
    assert found.tokens_LE.sum(axis=1).tolist() == [found.tokens * per_token] * 2


def test_masks_and_stubs_are_gone_afterwards() -> None:
    model = opened(layers=3)
    found = Examination(model, questions())
    found.without([Cell(2, 1)])
    same(Examination(model, questions()).answers, found.answers)
    assert not [n for n, m in model.model.named_modules() if "forward" in m.__dict__]


def test_layers_that_hand_on_more_than_their_output_are_asked_in_full() -> None:
    """A model whose second layer also looks at what went on inside the first."""
    model = opened(layers=3)
    first, second = (model.model.model.layers[n] for n in (0, 1))
    seen: list[torch.Tensor] = []
    first.mlp.register_forward_hook(lambda module, args, output: seen.append(output.mean()))
    second.register_forward_pre_hook(lambda module, args: (args[0] + seen[-1], *args[1:]))
    replayed = Examination(model, questions(), tokens_per_batch=128)
    full = Examination(model, questions(), tokens_per_batch=128, replay=False)
    cells = [Cell(1, int(replayed.tokens_LE[1].argmax()))]
    after = replayed.without(cells)
    [check] = replayed.replays()
    assert not check.reused
    same(after, full.without(cells))


def test_impossible_masks_are_refused_as_ever() -> None:
    found = Examination(opened(), questions())
    with pytest.raises(InputError, match="no expert 99"):
        found.without([Cell(0, 99)])
    with pytest.raises(InputError, match="All 8 experts"):
        found.without([Cell(0, e) for e in range(8)])


TYPES = ["mixtral", "qwen3_moe", "deepseek_v3", "gpt_oss", "olmoe", "llama4_text", "jetmoe", "dbrx"]


@pytest.mark.parametrize("model_type", TYPES)
@pytest.mark.parametrize("mode", ["drop", "reroute"])
def test_other_architectures(model_type: str, mode: Any) -> None:
    network = tiny_model(model_type)
    info: Any = type("Info", (), {"experts_per_token": None, "source": model_type})()
    sites = find_sites(network)
    info.experts_per_token = (2,) * len(sites)
    assert len(tiny_tokenizer()) <= VOCABULARY
    model = OpenModel(network, tiny_tokenizer(), sites, info)
    replayed = Examination(model, questions(per_group=2))
    full = Examination(model, questions(per_group=2), replay=False)
    for site in sites:
        cell = Cell(site.layer, int(replayed.tokens_LE[site.index].argmax()))
        same(replayed.without([cell], mode), full.without([cell], mode), within=1e-4)
