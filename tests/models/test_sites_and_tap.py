"""The tap against ground truth: what it reports is what the model does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.support.models import save_tiny, tiny_olmoe
from tests.support.padding import padded
from trace_engine.config import ModelConfig
from trace_engine.errors import ModelError
from trace_engine.models import (
    Batch,
    OpenModel,
    RoutingTap,
    Site,
    collate,
    encode,
    expert_parameters,
    find_sites,
    make_batches,
    open_model,
)

FAMILIES = ("olmoe", "qwen3_moe", "mixtral", "deepseek_v3", "gpt_oss")
LAYERS = {
    "olmoe": [0, 1],
    "qwen3_moe": [0, 2],
    "mixtral": [0, 1],
    "deepseek_v3": [1],
    "gpt_oss": [0, 1],
}


def opened(folder: Path | None = None) -> OpenModel:
    return open_model(ModelConfig(source=str(folder or tiny_olmoe())))


def tapped(model: OpenModel, **inputs: Tensor) -> list[tuple[int, Tensor, Tensor]]:
    seen: list[tuple[int, Tensor, Tensor]] = []
    with RoutingTap(model.sites, lambda s, i, w: seen.append((s, i, w))), torch.no_grad():
        model.model(**inputs)
    return seen


def block_output(model: OpenModel, site: Site, **inputs: Tensor) -> Tensor:
    """What the site's experts add, (T, D)."""
    found: list[Tensor] = []
    handle = site.module.register_forward_hook(lambda _m, _i, output: found.append(output))
    try:
        with torch.no_grad():
            model.model(**inputs)
    finally:
        handle.remove()
    return found[0].reshape(-1, found[0].shape[-1])


@pytest.mark.parametrize("family", FAMILIES)
def test_overwriting_an_expert_changes_exactly_the_reported_tokens(
    family: str, tmp_path: Path
) -> None:
    model = opened(save_tiny(family, tmp_path))
    generator = torch.Generator().manual_seed(1)
    ids_BS = torch.randint(4, 260, (3, 20), generator=generator)
    reported = {site: index_TK for site, index_TK, _ in tapped(model, input_ids=ids_BS)}
    assert sorted(reported) == [site.index for site in model.sites]
    reached = 0
    for site in model.sites:
        before_TD = block_output(model, site, input_ids=ids_BS)
        for expert in range(site.num_experts):
            kept = site.module.down_proj.detach().clone()
            with torch.no_grad():
                site.module.down_proj[expert] += 1.0
            after_TD = block_output(model, site, input_ids=ids_BS)
            with torch.no_grad():
                site.module.down_proj.copy_(kept)
            changed_T = (after_TD != before_TD).any(-1)
            reported_T = (reported[site.index] == expert).any(-1)
            assert torch.equal(changed_T, reported_T), (site.name, expert)
            reached += int(reported_T.sum())
    assert reached == sum((index_TK >= 0).sum() for index_TK in reported.values())


@pytest.mark.parametrize("family", FAMILIES)
def test_sites_are_the_true_decoder_layers(family: str, tmp_path: Path) -> None:
    model = opened(save_tiny(family, tmp_path))
    assert [site.layer for site in model.sites] == LAYERS[family]
    for site in model.sites:
        assert site.name == f"model.layers.{site.layer}.mlp.experts"
        assert site.num_experts == (4 if family == "mixtral" else 8)
        tensors = expert_parameters(site)
        assert f"{site.name}.down_proj" in tensors
        assert sum(p.numel() for p, _ in tensors.values()) == sum(
            p.numel() for p in site.module.parameters()
        )


def test_gate_weights_are_those_the_experts_receive() -> None:
    model = opened()
    received: list[tuple[Any, ...]] = []
    handle = model.sites[0].module.register_forward_pre_hook(
        lambda _m, args, kwargs: received.append((*args, *kwargs.values())), with_kwargs=True
    )
    site, index_TK, weight_TK = tapped(model, input_ids=torch.arange(4, 20)[None])[0]
    handle.remove()
    assert site == 0
    assert index_TK.dtype == torch.int64
    assert torch.equal(index_TK, received[0][1])
    assert torch.equal(weight_TK, received[0][2])


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_side_and_amount_leave_real_tokens_routing_alone(
    family: str, tmp_path: Path
) -> None:
    model = opened(save_tiny(family, tmp_path))
    texts = ["a few words", "many more words than the first one has", "x"]
    encoded = encode(model.tokenizer, texts, 64)

    def routing(batches: list[Batch]) -> dict[tuple[int, int], Tensor]:
        rows: dict[tuple[int, int], Tensor] = {}
        for batch in batches:
            for site, index_TK, _ in tapped(model, **batch.inputs):
                index_BSK = index_TK.reshape(*batch.input_ids_BS.shape, -1)
                for row, document in enumerate(batch.document_B.tolist()):
                    rows[site, document] = index_BSK[row][batch.valid_BS[row]]
        return rows

    alone = routing(list(make_batches(encoded, 1)))
    together = collate(encoded, [0, 1, 2])
    assert sorted(alone) == [(site.index, n) for site in model.sites for n in range(3)]
    for batch in (
        together,
        padded(together, left=False, more=7),
        padded(together, left=True),
        padded(together, left=True, more=7),
    ):
        found = routing([batch])
        assert all(torch.equal(found[place], index_TK) for place, index_TK in alone.items())


def test_gradient_checkpointing_is_reported_once() -> None:
    model = opened()
    model.model.train()
    model.model.activation_checkpointing_enable()
    calls, forwards = [], []
    handle = model.sites[0].module.register_forward_pre_hook(lambda _m, _a: forwards.append(1))
    with RoutingTap(model.sites, lambda site, _i, _w: calls.append(site)):
        model.model(input_ids=torch.arange(4, 20)[None], use_cache=False).logits.sum().backward()
    handle.remove()
    assert len(forwards) == 2, "the model did not recompute, so this test would prove nothing"
    assert calls == [0, 1]


def test_hooks_are_gone_after_an_error() -> None:
    model = opened()

    def fail(*_: Any) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), RoutingTap(model.sites, fail):
        model.model(input_ids=torch.arange(4, 8)[None])
    assert all(not site.module._forward_pre_hooks for site in model.sites)


class _Experts(nn.Module):
    def __init__(self, experts: int = 4) -> None:
        super().__init__()
        self.down_proj = nn.Parameter(torch.zeros(experts, 3, 3))

    def forward(self, hidden: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        return hidden


class _Layer(nn.Module):
    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)


class _Decoder(nn.Module):
    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)


def test_skipped_slots_and_identity_experts_hold_minus_one() -> None:
    experts = _Experts()
    [site] = find_sites(_Decoder(_Layer(), _Layer(experts)))
    assert (site.layer, site.num_experts) == (1, 4)
    seen: list[tuple[int, Tensor, Tensor]] = []
    index_TK = torch.tensor([[3, 1], [4, 0], [2, 5]], dtype=torch.int32)
    weight_TK = torch.tensor([[0.5, 0.0], [0.5, 0.5], [1.0, 0.1]])
    with RoutingTap([site], lambda s, i, w: seen.append((s, i, w))):
        experts(torch.zeros(3, 3), top_k_weights=weight_TK, top_k_index=index_TK)
    assert seen[0][1].tolist() == [[3, -1], [-1, 0], [2, -1]]
    assert index_TK.tolist() == [[3, 1], [4, 0], [2, 5]], "the model's own indices were changed"


def test_dense_scores_are_gathered_at_the_chosen_experts() -> None:
    experts = _Experts()
    [site] = find_sites(_Decoder(_Layer(experts)))
    seen: list[Tensor] = []
    scores_TE = torch.tensor([[0.1, 0.0, 0.9, 0.0]])
    with RoutingTap([site], lambda _s, _i, w: seen.append(w)):
        experts(torch.zeros(1, 3), torch.tensor([[2, 0]]), scores_TE)
    torch.testing.assert_close(seen[0], torch.tensor([[0.9, 0.1]]))


def test_weights_that_fit_no_slot_are_refused() -> None:
    experts = _Experts()
    sites = find_sites(_Decoder(_Layer(experts)))
    with (
        pytest.raises(ModelError, match="Its routing cannot be read"),
        RoutingTap(sites, lambda *_: None),
    ):
        experts(torch.zeros(1, 3), torch.tensor([[2, 0]]), torch.zeros(1, 3))


def test_rows_of_identity_experts_are_not_experts() -> None:
    experts = _Experts()
    experts.gate_up_proj = nn.Parameter(torch.zeros(6, 3, 3))
    [site] = find_sites(_Decoder(_Layer(experts)))
    assert site.num_experts == 4
    assert {name: rows for name, (_, rows) in expert_parameters(site).items()} == {
        "layers.0.blocks.0.gate_up_proj": 1,
        "layers.0.blocks.0.down_proj": 1,
    }


def test_two_routed_blocks_in_a_layer_are_refused_by_name() -> None:
    with pytest.raises(ModelError, match=r"layer 0 has two routed blocks \(layers.0.blocks.0, "):
        find_sites(_Decoder(_Layer(_Experts(), _Experts())))


def test_experts_without_a_count_are_refused() -> None:
    experts = _Experts()
    experts.down_proj = nn.Parameter(torch.zeros(12, 3))
    with pytest.raises(
        ModelError, match=r"cannot be told from its tensors \(down_proj \(12, 3\)\)"
    ):
        find_sites(_Decoder(_Layer(experts)))
    experts.num_experts = 4
    [site] = find_sites(_Decoder(_Layer(experts)))
    assert site.num_experts == 4
    assert expert_parameters(site)["layers.0.blocks.0.down_proj"][1] == 3


def test_experts_outside_a_decoder_layer_are_refused() -> None:
    with pytest.raises(ModelError, match="outside a numbered decoder layer"):
        find_sites(_Experts())
