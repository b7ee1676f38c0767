"""Chosen experts train on gradients of their slices alone, which are those of the whole tensors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.models import conformance
from tests.support.models import save_tiny, tiny_configs, tiny_olmoe
from trace_engine.cli.running import decided
from trace_engine.config import Cell, ModelConfig, TrainableConfig
from trace_engine.models import (
    OpenModel,
    RoutingTap,
    Trainable,
    make_trainable,
    mask_experts,
    open_model,
    slices,
)

SELECTED = TrainableConfig(kind="selected_experts")
FAMILIES = sorted(tiny_configs())
Gradients = dict[str, Tensor]


def opened(folder: Path | None = None, implementation: Any = "auto") -> OpenModel:
    return open_model(
        ModelConfig(source=str(folder or tiny_olmoe()), experts_implementation=implementation)
    )


def ids(seed: int = 3) -> Tensor:
    return torch.randint(4, 260, (4, 24), generator=torch.Generator().manual_seed(seed))


def loss(model: OpenModel) -> Tensor:
    logits_BSV = model.model(input_ids=ids(), use_cache=False).logits
    return nn.functional.cross_entropy(logits_BSV[:, :-1].flatten(0, 1), ids()[:, 1:].flatten())


def whole_gradients(model: OpenModel) -> tuple[Tensor, Gradients]:
    """The loss, and what backward makes of every parameter when all of them train."""
    parameters = dict(model.model.named_parameters())
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    value = loss(model)
    value.backward()
    found = {n: p.grad.clone() for n, p in parameters.items() if p.grad is not None}
    for parameter in parameters.values():
        parameter.grad = None
    return value.detach(), found


def check_gradients(trainable: Trainable, whole: Gradients, tolerance: float) -> None:
    for name, leaf in zip(trainable.names, trainable.parameters(), strict=True):
        assert leaf.grad is not None, name
        wanted = conformance.share(name, leaf, whole)
        apart = float((leaf.grad - wanted).norm() / wanted.norm())
        assert apart < tolerance, (name, apart)


def some_cells(model: OpenModel) -> list[Cell]:
    """Two experts of the first site and one of the last, all of which tokens reach."""
    first, last = model.sites[0], model.sites[-1]
    with torch.no_grad():
        seen: dict[int, Tensor] = {}
        with RoutingTap(model.sites, lambda site, index, _: seen.update({site: index})):
            model.model(input_ids=ids())
    reached = {n: index[index >= 0].unique().tolist() for n, index in seen.items()}
    cells = {Cell(first.layer, e) for e in reached[first.index][-2:]}
    return sorted(cells | {Cell(last.layer, reached[last.index][0])})


@pytest.mark.parametrize("kind", ["selected_experts", "top_experts"])
@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_are_those_of_the_whole_tensors(family: str, kind: str, tmp_path: Path) -> None:
    """In float64, the routers' too; the loss keeps its bits."""
    model = opened(save_tiny(family, tmp_path), "eager")
    model.model.double()
    plain, whole = whole_gradients(model)
    config = TrainableConfig.model_validate({"kind": kind})
    trainable = make_trainable(model, config, some_cells(model))
    assert trainable.summary.whole_gradients == ()
    value = loss(model)
    value.backward()
    assert torch.equal(value, plain)
    check_gradients(trainable, whole, 1e-12)
    routers = [name for name in trainable.names if "[" not in name]
    assert bool(routers) == (kind == "top_experts")
    training = {n for n, p in model.model.named_parameters() if p.requires_grad}
    assert training == {n for n, p in model.model.named_parameters() if p.grad is not None}
    assert training == set(routers)


@pytest.mark.parametrize("implementation", ["eager", "grouped_mm", "batched_mm"])
def test_every_implementation_gives_them(implementation: str) -> None:
    model = opened(implementation=implementation)
    plain, whole = whole_gradients(model)
    trainable = make_trainable(model, SELECTED, some_cells(model))
    value = loss(model)
    value.backward()
    assert torch.equal(value, plain)
    check_gradients(trainable, whole, 1e-5)


def test_in_bfloat16_too() -> None:
    model = open_model(ModelConfig(source=str(tiny_olmoe()), dtype="bfloat16"))
    plain, whole = whole_gradients(model)
    trainable = make_trainable(model, SELECTED, some_cells(model))
    assert trainable.summary.whole_gradients == ()
    value = loss(model)
    value.backward()
    assert torch.equal(value, plain)
    assert {leaf.dtype for leaf in trainable.parameters()} == {torch.bfloat16}
    check_gradients(trainable, whole, 0.01)


def test_under_autocast_too() -> None:
    model = opened()
    with torch.autocast("cpu", torch.bfloat16):
        plain, whole = whole_gradients(model)
        trainable = make_trainable(model, SELECTED, some_cells(model))
        value = loss(model)
    value.backward()
    assert torch.equal(value, plain)
    check_gradients(trainable, whole, 0.01)


def test_with_checkpointing_too() -> None:
    model = opened()
    _, whole = whole_gradients(model)
    trainable = make_trainable(model, SELECTED, some_cells(model))
    model.model.activation_checkpointing_enable()
    loss(model).backward()
    check_gradients(trainable, whole, 1e-5)


class _Shapes(TorchDispatchMode):
    """Shapes of all tensors that any operation gives, also inside backward."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[tuple[int, ...]] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.seen |= {tuple(t.shape) for t in tree_leaves(out) if isinstance(t, Tensor)}
        return out


@contextmanager
def shapes() -> Iterator[set[tuple[int, ...]]]:
    with _Shapes() as mode:
        yield mode.seen


def fused_shapes(model: OpenModel) -> set[tuple[int, ...]]:
    """Shapes that a gradient of a whole tensor has, as stored or transposed."""
    stored = {tuple(p.shape) for site in model.sites for p in site.module.parameters()}
    return stored | {(e, b, a) for e, a, b in stored}


def test_backward_forms_no_tensor_of_the_fused_size() -> None:
    model = opened(tiny_olmoe(hidden=48), "grouped_mm")
    whole = loss(model)
    with shapes() as seen:
        whole.backward()
    assert seen & fused_shapes(model), "the whole gradient would be seen"
    model.model.zero_grad()
    trainable = make_trainable(model, SELECTED, [Cell(1, 0), Cell(1, 3)])
    value = loss(model)
    with shapes() as seen:
        value.backward()
    # The lower layers take no part in it, so that no transposed weight is seen either.
    assert not seen & fused_shapes(model)
    assert all(leaf.grad is not None for leaf in trainable.parameters())


def test_below_the_lowest_layer_that_trains_nothing_is_kept_for_backward() -> None:
    model = opened(tiny_olmoe(layers=3))
    make_trainable(model, SELECTED, [Cell(1, 0)])
    kept: dict[int, bool] = {}
    for number, layer in enumerate(model.model.model.layers):

        def note(module: Any, args: Any, output: Tensor, n: int = number) -> None:
            kept[n] = output.requires_grad

        layer.register_forward_hook(note)
    loss(model)
    assert kept == {0: False, 1: True, 2: True}


@pytest.mark.parametrize("family", FAMILIES)
def test_experts_that_no_token_reaches_get_zeros(family: str, tmp_path: Path) -> None:
    """Not None: every process must step alike, and momentum goes on."""
    model = opened(save_tiny(family, tmp_path))
    site = model.sites[-1]
    one = ids()[:1, :1]
    with torch.no_grad():
        seen: dict[int, Tensor] = {}
        with RoutingTap(model.sites, lambda number, index, _: seen.update({number: index})):
            model.model(input_ids=one)
    unused = sorted(set(range(site.num_experts)) - set(seen[site.index].unique().tolist()))
    trainable = make_trainable(model, SELECTED, [Cell(site.layer, e) for e in unused[:2]])
    model.model(input_ids=one).logits.square().mean().backward()
    for name, leaf in zip(trainable.names, trainable.parameters(), strict=True):
        assert leaf.grad is not None, name
        assert not leaf.grad.any(), name


def test_the_model_computes_with_what_has_trained() -> None:
    """With gradients and without, and a model that never trained with these weights the same."""
    model, other = opened(), opened()
    before = loss(model).detach()
    trainable = make_trainable(model, SELECTED, some_cells(model))
    optimizer = torch.optim.AdamW(trainable.parameters(), lr=1e-2, weight_decay=0.1)
    for _ in range(2):
        loss(model).backward()
        trainable.after_backward()
        optimizer.step()
        optimizer.zero_grad()
        trainable.after_step()
    other.model.load_state_dict(model.model.state_dict())
    with torch.no_grad():
        plain = loss(other)
        assert torch.equal(loss(model), plain)
    assert torch.equal(loss(model), plain)
    assert not torch.equal(plain, before)
    trainable.close()
    assert torch.equal(loss(model), plain)
    assert all(p.requires_grad for p in model.model.parameters())
    assert not [s for s in model.sites if s.module._forward_hooks]


def test_a_tap_hears_of_each_forward_once_and_a_mask_holds() -> None:
    model = opened()
    site = model.sites[0]
    trainable = make_trainable(model, SELECTED, [Cell(site.layer, e) for e in (0, 1)])
    heard: list[int] = []
    with RoutingTap(model.sites, lambda number, index, weight: heard.append(number)):
        loss(model).backward()
    assert heard == [s.index for s in model.sites]
    assert all(leaf.grad is not None and leaf.grad.any() for leaf in trainable.parameters())
    for leaf in trainable.parameters():
        leaf.grad = None
    with mask_experts(model, [Cell(site.layer, e) for e in (0, 1)]):
        loss(model).backward()
    assert all(leaf.grad is not None and not leaf.grad.any() for leaf in trainable.parameters())


def test_where_experts_cannot_be_computed_apart_the_whole_gradient_is_formed_and_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = opened()
    cells = some_cells(model)
    _, whole = whole_gradients(model)
    monkeypatch.setattr(slices, "_fits", lambda *_: False)
    trainable = make_trainable(model, SELECTED, cells)
    sites = tuple(site.name for site in model.sites)
    assert trainable.summary.whole_gradients == sites
    loss(model).backward()
    check_gradients(trainable, whole, 1e-6)
    assert all(p.grad is None for p in model.model.parameters())
    facts = {"kind": "selected_experts", "parameters": 1, "total": 2, "share": 0.5}
    assert len(decided({"trainable": facts | {"whole_gradients": []}})) == 1
    [_, said] = decided({"trainable": facts | {"whole_gradients": list(sites)}})
    assert said.startswith(f"{', '.join(sites)}: this family's code computes no experts apart")


def test_experts_that_only_seem_to_fit_are_found_out() -> None:
    """A scale of the expert's own number would be another expert's in a module of fewer."""
    model = opened()
    site = model.sites[0]
    kind = type(site.module)

    class Numbered(kind):  # type: ignore[misc, valid-type]
        def forward(self, hidden_states: Any, top_k_index: Any, top_k_weights: Any) -> Any:
            return super().forward(hidden_states, top_k_index, top_k_weights * (1 + top_k_index))

    site.module.__class__ = Numbered
    trainable = make_trainable(model, SELECTED, [Cell(s.layer, 3) for s in model.sites])
    assert trainable.summary.whole_gradients == (site.name,)


def test_the_family_whose_code_needs_all_slots_is_trained_on_whole_gradients() -> None:
    model = conformance.opened("longcat_flash")
    cells = [Cell(site.layer, conformance.busiest(model, site)[0]) for site in model.sites]
    trainable = make_trainable(model, SELECTED, cells)
    assert trainable.summary.whole_gradients == tuple(site.name for site in model.sites)
