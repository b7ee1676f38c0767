"""Erased or re-routed, on tiny models whose difference is known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.causal.cases import opened, questions
from tests.support.models import tiny_olmoe
from trace_engine.causal import Examination, Rerouted, erased_or_rerouted
from trace_engine.causal.old_routers import router_tensors, routers_of
from trace_engine.causal.paired import returned_share
from trace_engine.causal.rerouted import risen
from trace_engine.causal.states import choice_embeddings, question_states
from trace_engine.config import ModelConfig
from trace_engine.disk import strict
from trace_engine.errors import InputError
from trace_engine.models import OpenModel

FAST = {"permutations": 99, "shuffles": 19, "draws": 3}


def saved(model: OpenModel, folder: Path) -> ModelConfig:
    model.model.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    return ModelConfig(source=str(folder))


@pytest.fixture(scope="module")
def steered(tmp_path_factory: pytest.TempPathFactory) -> ModelConfig:
    """The start model with other routers, and nothing else changed."""
    model = opened()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.model.named_parameters():
            if name.endswith("gate.weight"):
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return saved(model, tmp_path_factory.mktemp("steered"))


@pytest.fixture(scope="module")
def compared(steered: ModelConfig) -> Rerouted:
    start = ModelConfig(source=str(tiny_olmoe()))
    return erased_or_rerouted(start, steered, questions(), reference=start, **FAST)


def test_old_routers_in_a_router_only_change_give_the_old_answers_bitwise(
    steered: ModelConfig,
) -> None:
    from trace_engine.models import open_model

    start = opened()
    before = Examination(start, questions()).answers
    new = open_model(steered)
    changed = Examination(new, questions()).answers
    with routers_of(new, router_tensors(start)) as different:
        restored = Examination(new, questions()).answers
    assert different == 2
    assert np.array_equal(restored.loss_N, before.loss_N)
    assert not np.array_equal(changed.loss_N, before.loss_N)
    assert np.array_equal(Examination(new, questions()).answers.loss_N, changed.loss_N)


def test_restoring_gives_back_what_only_the_routers_took(compared: Rerouted) -> None:
    for lost, back in zip(compared.restored.unlearned, compared.restored.restored, strict=True):
        assert back.accuracy.after == lost.accuracy.before
        assert back.loss.change == pytest.approx(-lost.loss.change)
    assert (compared.restored.tensors, compared.restored.different) == (2, 2)


def test_routing_moved_in_every_layer(compared: Rerouted) -> None:
    assert [row.layer for row in compared.overlap.layers] == [0, 1]
    for row in compared.overlap.layers:
        assert 0 < row.forget.value < 0.7
        assert (row.forget.n, row.utility.n) == (6, 12)


def test_forced_experts_get_more_forget_tokens_than_before(compared: Rerouted) -> None:
    forced = compared.forced
    assert 0 < len(forced.cells) <= 4
    assert all(rise > 0 for rise in forced.rise)
    assert forced.random_n == 3
    assert forced.effects[0].accuracy.before == compared.restored.unlearned[0].accuracy.after


def test_probes_have_baselines_and_a_reference(compared: Rerouted) -> None:
    assert [row.layer for row in compared.probing.layers] == [0, 1]
    for row in compared.probing.layers:
        assert row.before.n == 6
        assert row.reference == row.before  # the reference is the old model here
        # 19 shuffles of 6 questions vary, and lie about what guessing gets.
        assert row.shuffled < row.shuffled_high <= 1
        assert row.shuffled == pytest.approx(compared.probing.chance, abs=0.2)
    assert compared.probing.p_reference == compared.probing.p_before


def test_each_test_says_what_it_does_not_show(compared: Rerouted) -> None:
    assert set(compared.sentences) == {"overlap", "restored", "forced", "probing"}
    assert all(" not " in sentence for sentence in compared.sentences.values())
    assert all("n = " in sentence for sentence in compared.sentences.values())


def test_random_sets_are_told_with_their_loads(compared: Rerouted) -> None:
    loads = compared.forced.loads
    assert loads is not None
    assert loads.n == compared.forced.random_n
    assert loads.sentence in compared.forced.sentence
    data = compared.to_dict()
    # As earlier versions wrote it.
    del data["forced"]["loads"]
    assert "load not known" in Rerouted.from_dict(data).forced.sentence


def test_results_survive_json(compared: Rerouted) -> None:
    assert Rerouted.from_dict(json.loads(json.dumps(strict(compared.to_dict())))) == compared


def test_a_model_against_itself_has_nothing_to_find() -> None:
    start = ModelConfig(source=str(tiny_olmoe()))
    found = erased_or_rerouted(start, start, questions(), **FAST)
    assert {row.forget.value for row in found.overlap.layers} == {1.0}
    assert found.restored.different == 0
    assert found.restored.returned is None
    assert "nothing to put back" in found.restored.sentence
    assert not found.forced.cells
    assert "no expert gets more" in found.forced.sentence
    assert found.probing.p_before == found.probing.p_after


def test_models_of_different_shapes_are_refused() -> None:
    one, other = (ModelConfig(source=str(tiny_olmoe(experts=e))) for e in (8, 16))
    with pytest.raises(InputError, match="not of one architecture"):
        erased_or_rerouted(one, other, questions(), **FAST)


def test_too_few_forget_questions_are_not_probed() -> None:
    start = ModelConfig(source=str(tiny_olmoe()))
    found = erased_or_rerouted(start, start, questions(per_group=3), **FAST)
    assert "too few" in found.probing.sentence


def test_the_returned_share_by_hand() -> None:
    before = np.array([True] * 8 + [False] * 2)
    after = np.array([True] * 4 + [False] * 6)
    restored = np.array([True] * 5 + [False] * 5)
    share = returned_share(before, after, restored)
    assert share is not None
    assert (share.value, share.n) == (pytest.approx(0.25), 10)
    assert returned_share(before, before, restored) is None


def test_rises_by_hand() -> None:
    model = opened()  # 2 sites of 8 experts
    before = np.array([[[0, 1], [0, 1]], [[0, 1], [0, 1]]], dtype=np.int16)
    after = np.array([[[0, 2], [0, 1]], [[3, 2], [0, -1]]], dtype=np.int16)
    found = risen(model, before, after, 2)
    assert [(cell.layer, cell.expert, rise) for cell, rise in found] == [(0, 2, 1.0), (0, 3, 0.5)]


def test_question_states_are_those_after_the_last_token() -> None:
    model = opened()
    asked = list(questions()[:3])
    states = question_states(model, asked)
    for row, question in enumerate(asked):
        ids = model.tokenizer(question.question, add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            output = model.model(torch.tensor([[1, *ids]]), output_hidden_states=True)
        expected = output.hidden_states[1][0, -1].double()
        assert states[0][row] == pytest.approx(expected.numpy(), abs=1e-5)


def test_choice_embeddings_are_of_the_first_token() -> None:
    model = opened()
    question = questions()[0]
    found = choice_embeddings(model, [question])
    [first] = model.tokenizer(" ", add_special_tokens=False)["input_ids"]
    assert found is not None
    weight = model.model.lm_head.weight.detach()
    assert np.array_equal(found[2], weight[first].double().numpy())
