"""Masked experts: what is refused, and that nothing of a mask is left behind.

That `drop` and `reroute` do what they say, for every family: test_conformance.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import _get_current_function_mode_stack

import trace_engine
from tests.support.models import tiny_olmoe
from trace_engine.config import Cell, ModelConfig
from trace_engine.errors import InputError, ModelError
from trace_engine.models import (
    MaskMode,
    OpenModel,
    RoutingTap,
    find_sites,
    mask_experts,
    open_model,
)

IDS = torch.arange(4, 44)[None]
MODES: tuple[MaskMode, ...] = ("drop", "reroute")


@pytest.fixture
def opened() -> OpenModel:
    return open_model(ModelConfig(source=str(tiny_olmoe())))


def logits(opened: OpenModel) -> Tensor:
    with torch.no_grad():
        out: Tensor = opened.model(input_ids=IDS).logits
    return out


def hooks(opened: OpenModel) -> int:
    return sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in opened.model.modules())


def routing(opened: OpenModel) -> list[Tensor]:
    seen: list[Tensor] = []
    with RoutingTap(opened.sites, lambda _s, index, _w: seen.append(index)):
        logits(opened)
    return seen


def test_is_public() -> None:
    assert trace_engine.mask_experts is mask_experts


def test_a_tap_inside_a_drop_sees_the_dropped_slots_empty(opened: OpenModel) -> None:
    plain = routing(opened)
    with mask_experts(opened, [Cell(1, 3)]):
        dropped = routing(opened)
    assert torch.equal(dropped[0], plain[0])
    assert torch.equal(dropped[1], plain[1].where(plain[1] != 3, -1))
    assert (plain[1] == 3).any()


def test_reroute_gives_the_slot_to_the_next_best(opened: OpenModel) -> None:
    scores: list[Tensor] = []
    gate = opened.model.model.layers[0].mlp.gate
    handle = gate.register_forward_hook(lambda _m, args, _o: scores.append(args[0]))
    plain = routing(opened)[0]
    dead = int(plain[0, 0])
    with mask_experts(opened, [Cell(0, dead)], "reroute"):
        index_TK = routing(opened)[0]
    handle.remove()
    order_TE = (scores[0].reshape(-1, 32) @ gate.weight.T).argsort(-1, descending=True)
    for order_E, chosen_K in zip(order_TE.tolist(), index_TK.tolist(), strict=True):
        assert sorted(chosen_K) == sorted([e for e in order_E if e != dead][:2])


@pytest.mark.parametrize("mode", MODES)
def test_nothing_is_left_after_the_block_or_after_an_error(
    opened: OpenModel, mode: MaskMode
) -> None:
    before, count = logits(opened), hooks(opened)

    def fail(*_: Any) -> None:
        raise ZeroDivisionError

    with mask_experts(opened, [Cell(0, 1), Cell(1, 2)], mode):
        assert not torch.equal(logits(opened), before)
    handle = opened.model.model.layers[1].mlp.gate.register_forward_hook(fail)
    with pytest.raises(ZeroDivisionError), mask_experts(opened, [Cell(1, 2)], mode):
        logits(opened)
    handle.remove()
    assert hooks(opened) == count
    assert not _get_current_function_mode_stack()
    assert torch.equal(logits(opened), before)


def test_a_caught_error_in_a_router_leaves_other_calls_alone(opened: OpenModel) -> None:
    def fail(*_: Any) -> None:
        raise ZeroDivisionError

    handle = opened.model.model.layers[0].mlp.gate.register_forward_hook(fail)
    with mask_experts(opened, [Cell(0, 1)], "reroute"):
        with pytest.raises(ZeroDivisionError):
            logits(opened)
        assert torch.topk(torch.arange(8.0)[None], 8).values.isfinite().all()
    handle.remove()


def test_masks_of_different_layers_nest(opened: OpenModel) -> None:
    with (
        mask_experts(opened, [Cell(0, 1)], "reroute"),
        mask_experts(opened, [Cell(1, 2)], "reroute"),
    ):
        both = routing(opened)
    with mask_experts(opened, [Cell(0, 1), Cell(1, 2)], "reroute"):
        together = routing(opened)
    assert all(torch.equal(one, two) for one, two in zip(both, together, strict=True))
    assert not (both[0] == 1).any()
    assert not (both[1] == 2).any()


@pytest.mark.parametrize("mode", MODES)
def test_no_cell_changes_nothing(opened: OpenModel, mode: MaskMode) -> None:
    before = logits(opened)
    with mask_experts(opened, [], mode):
        assert torch.equal(logits(opened), before)


@pytest.mark.parametrize("mode", MODES)
def test_all_experts_of_a_layer_are_refused(opened: OpenModel, mode: MaskMode) -> None:
    cells = [Cell(1, expert) for expert in range(8)]
    with (
        pytest.raises(InputError, match="All 8 experts of layer 1 would be masked"),
        mask_experts(opened, cells, mode),
    ):
        pass


def test_reroute_needs_as_many_experts_as_a_token_takes(opened: OpenModel) -> None:
    cells = [Cell(1, expert) for expert in range(7)]
    said = r"Layer 1: 1 of 8 experts would be left, and each token is routed to 2"
    with pytest.raises(InputError, match=said), mask_experts(opened, cells, "reroute"):
        pass
    # Sites alone do not say how many that is, so the first forward does.
    with pytest.raises(InputError, match=said), mask_experts(opened.sites, cells, "reroute"):
        logits(opened)
    with mask_experts(opened, cells[1:], "reroute"):
        assert set(routing(opened)[1].flatten().tolist()) == {0, 7}
    with mask_experts(opened, cells):
        logits(opened)


def test_training_mode_is_refused_at_the_start_and_later(opened: OpenModel) -> None:
    opened.model.train()
    with (
        pytest.raises(ModelError, match=r"layers.0.mlp.experts is in training mode"),
        mask_experts(opened, [Cell(0, 1)]),
    ):
        pass
    opened.model.eval()
    for mode in MODES:
        with mask_experts(opened, [Cell(0, 1)], mode):
            opened.model.train()
            with pytest.raises(ModelError, match="masked in evaluation only"):
                logits(opened)
        opened.model.eval()


def test_a_cell_that_does_not_exist_is_refused(opened: OpenModel) -> None:
    with (
        pytest.raises(InputError, match="Layer 1 has no expert 8"),
        mask_experts(opened, [Cell(1, 8)]),
    ):
        pass


class _Experts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down_proj = nn.Parameter(torch.zeros(4, 3, 3))

    def forward(self, hidden: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        return hidden * top_k_weights.sum()


class _Block(nn.Module):
    """Routes by a table, whatever the scores say."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = _Experts()

    def forward(self, hidden: Tensor) -> Tensor:
        index_TK = torch.tensor([[2, 1]])
        out: Tensor = self.experts(hidden, index_TK, torch.ones(1, 2))
        return out


def test_a_router_that_cannot_be_rerouted_is_named() -> None:
    model = nn.ModuleDict({"layers": nn.ModuleList([_Block()])}).eval()
    sites = find_sites(model)
    with (
        pytest.raises(ModelError, match=r"^layers.0.experts: its router chose a masked expert"),
        mask_experts(sites, [Cell(0, 2)], "reroute"),
    ):
        model["layers"][0](torch.ones(1, 3))
    with mask_experts(sites, [Cell(0, 3)], "reroute"):
        model["layers"][0](torch.ones(1, 3))
    with mask_experts(sites, [Cell(0, 2)]):
        assert model["layers"][0](torch.ones(1, 3)).tolist() == [[1, 1, 1]]
