"""Erased or re-routed, on tiny models whose difference is known."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.causal.cases import opened, questions
from tests.support.models import tiny_olmoe
from trace_engine.causal import Examination, Rerouted, erased_or_rerouted
from trace_engine.causal.linear import Probed, probe
from trace_engine.causal.old_routers import router_tensors, routers_of
from trace_engine.causal.paired import Change, Effect, returned_share
from trace_engine.causal.rerouted import risen
from trace_engine.causal.rerouted_results import (
    Forced,
    LayerOverlap,
    Overlap,
    ProbedLayer,
    Probing,
    Restored,
)
from trace_engine.causal.results import Loads
from trace_engine.causal.states import choice_embeddings, question_states
from trace_engine.config import Cell, ModelConfig
from trace_engine.disk import strict
from trace_engine.errors import InputError
from trace_engine.evaluation.estimate import Estimate
from trace_engine.models import OpenModel, open_model
from trace_engine.sets import Question

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


def test_probes_have_a_reference(compared: Rerouted) -> None:
    assert [row.layer for row in compared.probing.layers] == [0, 1]
    for row in compared.probing.layers:
        assert row.before.n == 6
        assert row.reference == row.before  # the reference is the old model here
    assert compared.probing.chance == 0.25
    assert compared.probing.p_reference == compared.probing.p_before


def last_embeddings(opened: OpenModel, asked: Sequence[Question]) -> NDArray[np.float64]:
    """Of each choice's last token: one token a byte, so the first one is a space for all."""
    texts = [choice for question in asked for choice in question.choices]
    ids = [row[-1] for row in opened.tokenizer(texts, add_special_tokens=False)["input_ids"]]
    return opened.model.lm_head.weight.detach()[ids].double().numpy()


def test_the_baseline_is_the_new_models_probe_of_shuffled_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("trace_engine.causal.rerouted.choice_embeddings", last_embeddings)
    before, after = (ModelConfig(source=str(tiny_olmoe(seed=seed))) for seed in (0, 1))
    found = erased_or_rerouted(before, after, questions(), **FAST)
    old, new = (probed_by_hand(open_model(model)) for model in (before, after))
    for row, of_old, of_new in zip(found.probing.layers, old, new, strict=True):
        assert (row.before, row.after) == (of_old.accuracy, of_new.accuracy)
        assert row.shuffled == pytest.approx(np.mean(of_new.shuffled))
        assert row.shuffled_high == pytest.approx(np.quantile(of_new.shuffled, 0.95))
        # Neither the old model's, nor what guessing gets.
        assert row.shuffled not in (pytest.approx(np.mean(of_old.shuffled)), found.probing.chance)
        assert row.shuffled_high != pytest.approx(row.shuffled)


def probed_by_hand(model: OpenModel) -> list[Probed]:
    """The probe of every layer, with as many shuffles as `FAST` says."""
    asked = list(questions())
    return [
        probe(
            states,
            last_embeddings(model, asked),
            np.array([len(question.choices) for question in asked]),
            np.array([question.answer for question in asked]),
            np.array([question.category == "hazard" for question in asked]),
            shuffles=FAST["shuffles"],
            seed=0,
        )
        for _, states in sorted(question_states(model, asked).items())
    ]


def estimate(value: float, n: int = 40) -> Estimate:
    return Estimate(value, value - 0.1, value + 0.1, n, "made up")


def effect(group: str, before: float, after: float) -> Effect:
    """Of 40 questions; the loss is nobody's business here."""
    change = after - before
    moved = Change(before, after, change, change - 0.1, change + 0.1, 0.004, 0.02)
    return Effect(group, 40, 2, 10, moved, Change(1.0, 1.0, 0.0, None, None, 1.0, 1.0))


def test_each_test_says_what_its_figures_show_and_what_they_do_not() -> None:
    layers = tuple(LayerOverlap(n, estimate(x), estimate(0.8, 30)) for n, x in ((1, 0.7), (2, 0.4)))
    assert Overlap(layers).sentence == (
        "Most moved layer 2: forget questions keep 40% [30%, 50%] of their experts there, others "
        "80% [70%, 90%] (n = 40 and 30). This shows how far routing moved, not whether knowledge "
        "went with it."
    )
    lost, back = (effect("forget", 0.9, 0.3),), (effect("forget", 0.3, 0.6),)
    restored = Restored(lost, back, estimate(0.5), tensors=2, different=2)
    assert restored.sentence == (
        "Forget accuracy went 0.900 → 0.300 (−0.600 [−0.700, −0.500]); with the old routers it is "
        "0.600 (+0.300 [+0.200, +0.400]), 50% [40%, 60%] of what was lost (n = 40, p = 0.004). "
        "This shows how much of the forgetting sits in the routers, not that the rest is erased: "
        "the experts may hold it where the old routers do not lead."
    )
    loads = Loads(own=0.3, low=0.28, high=0.35, equal=2, n=3)
    cells, rise = (Cell(1, 2), Cell(2, 5)), (0.3, 0.2)
    forced = Forced(cells, rise, back, -0.05, 0.1, random_n=3, loads=loads)
    assert forced.sentence == (
        "With 2 experts forbidden that forget questions use more than before, forget accuracy goes "
        "0.300 → 0.600 (+0.300 [+0.200, +0.400]) (n = 40, p = 0.004; 3 random sets "
        f"({loads.sentence}) change it by −0.050 to +0.100). A rise shows knowledge that was "
        "routed around; no rise does not show that it is gone."
    )
    probed = tuple(
        ProbedLayer(n, estimate(before), estimate(after), estimate(0.25), 0.26, 0.4)
        for n, before, after in ((1, 0.8, 0.3), (2, 0.7, 0.5))
    )
    assert Probing(probed, 0.25, 0.01, 0.03, 0.6, shuffles=19).sentence == (
        "A linear probe on the new model's state after a question (layer 2) finds the answer of "
        "50% [40%, 60%] of forget questions not trained on (n = 40, p = 0.03; shuffled answers "
        "26%); on the old model at best 80% [70%, 90%], on the reference that never saw the forget "
        "set 25% [15%, 35%]. Above the reference, it shows information that is left in the hidden "
        "states; it does not show that the model would use it, and chance does not show that "
        "nothing is left, because the probe is linear."
    )


def test_all_four_have_their_sentence(compared: Rerouted) -> None:
    parts = (compared.overlap, compared.restored, compared.forced, compared.probing)
    assert [*compared.sentences.values()] == [part.sentence for part in parts]
    assert [*compared.sentences] == ["overlap", "restored", "forced", "probing"]


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


def test_choice_embeddings_are_of_the_first_token_that_is_more_than_a_space() -> None:
    model = opened()
    question = questions()[0]
    found = choice_embeddings(model, [question])
    assert found is not None
    weight = model.model.lm_head.weight.detach()
    for row, choice in zip(found, question.choices, strict=True):
        # This tokenizer makes a token of every byte, and the first is the space for all choices.
        [space, first, *_] = model.tokenizer(f" {choice}", add_special_tokens=False)["input_ids"]
        assert model.tokenizer.decode([space]) == " "
        assert np.array_equal(row, weight[first].double().numpy())
    assert len({row.tobytes() for row in found}) > 1
