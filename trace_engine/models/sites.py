"""Finds the places where a model routes tokens to experts, by what its modules do, not by config
names.

transformers spells dense-layer patterns, expert counts and top-k in a dozen ways, but every experts
module takes `(hidden, chosen expert indices, gate weights)`. Trade-off: families that route
otherwise (Llama 4, JetMoE, Doge) have no site here and are refused by name in `models.open`.
"""

# Dims: E experts of a site, K experts per token

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from trace_engine.errors import ModelError

INDEX_ARGUMENTS = frozenset(
    {"top_k_index", "router_indices", "selected_experts", "topk_indices", "routing_indices"}
)


@dataclass(frozen=True, slots=True)
class Site:
    """One routed block of experts: a row of every map."""

    index: int
    """Position among the model's sites, from 0."""
    layer: int
    """True decoder layer, as the model's own module names count it; dense layers leave gaps."""
    name: str
    """Dotted module name of the experts."""
    module: nn.Module
    """The module called with `(hidden, index_TK, weight_TK)`."""
    num_experts: int
    """Routed experts E; shared, identity and skip experts are not among them."""


def find_sites(model: nn.Module) -> list[Site]:
    """The model's routed blocks in forward (module) order; empty for a dense model.

    Raises ModelError when a block's number of experts or its layer cannot be told, and when one
    decoder layer has two routed blocks, because a cell (layer, expert) would then name two experts.
    """
    sites: list[Site] = []
    for name, module in model.named_modules():
        if not _takes_indices(module):
            continue
        site = Site(len(sites), _layer_of(name), name, module, _experts_of(name, module))
        for other in sites:
            if other.layer == site.layer:
                raise ModelError(
                    f"Decoder layer {site.layer} has two routed blocks ({other.name}, {name}). "
                    "TRACE names an expert by layer and number, so it cannot map this model yet."
                )
        sites.append(site)
    return sites


def expert_parameters(site: Site) -> dict[str, tuple[nn.Parameter, int]]:
    """The tensors that hold the site's experts on dim 0: full name -> (parameter, rows per expert).

    Expert e owns rows [e * rows, (e + 1) * rows). Rows per expert is 1 for fused tensors and their
    biases, and more where experts are flattened into dim 0 (DBRX). Empty when the experts are
    stored in another way.
    """
    named = [(n, p) for n, p in site.module.named_parameters() if p.ndim >= 1]
    # LongCat's first projection has rows for its identity experts too, after the routed ones.
    fused = {n: p for n, p in named if p.shape[0] == site.num_experts or _is_fused(p, site)}
    if fused:
        return {f"{site.name}.{name}": (parameter, 1) for name, parameter in fused.items()}
    return {
        f"{site.name}.{name}": (parameter, parameter.shape[0] // site.num_experts)
        for name, parameter in named
        if parameter.shape[0] % site.num_experts == 0 and parameter.shape[0] > 0
    }


def _is_fused(parameter: nn.Parameter, site: Site) -> bool:
    return parameter.ndim == 3 and parameter.shape[0] >= site.num_experts


@torch.no_grad()
def experts_per_token(model: Any, sites: list[Site]) -> tuple[int, ...]:
    """K of each site, read off the index tensor of a two-token forward.

    The experts themselves are not computed, so that this works on the meta device and costs a large
    model little. Skip and identity slots count, because they take one of the K places.
    """
    found: dict[int, int] = {}
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    try:
        with ExitStack() as stack:
            for site in sites:
                stack.enter_context(experts_skipped(site, partial(_note_slots, found, site)))
            # Without a cache, transformers looks for packed sequences in the values of the
            # positions, which the meta device does not have.
            ids_BS = torch.zeros(1, 2, dtype=torch.long, device=device)
            model(input_ids=ids_BS, use_cache=device.type == "meta")
    finally:
        model.train(was_training)
    missing = [site.name for site in sites if site.index not in found]
    if missing:
        raise ModelError(f"{', '.join(missing)}: no tokens came by in a forward pass of the model.")
    return tuple(found[site.index] for site in sites)


def _note_slots(found: dict[int, int], site: Site, index: Tensor) -> None:
    found[site.index] = index.shape[-1]


@contextmanager
def experts_skipped(
    site: Site, on_index: Callable[[Tensor], None] = lambda index: None
) -> Iterator[None]:
    """Inside, the site's experts compute nothing and give zeros; a tap still sees their routing.

    `on_index` gets the index tensor of every call. What follows in the forward sees wrong hidden
    states: for the last site of a forward, and for probing.
    """
    names = argument_names(site.module)

    def by_name(*args: Any, **kwargs: Any) -> Tensor:
        bound = dict(zip(names, args, strict=False)) | kwargs
        on_index(bound[names[1]])
        return torch.zeros_like(bound[names[0]])

    site.module.forward = by_name
    try:
        yield
    finally:
        del site.module.forward


def argument_names(module: nn.Module) -> list[str]:
    """Names of the module's forward arguments, in order, without `self`."""
    return list(inspect.signature(type(module).forward).parameters)[1:]


def _takes_indices(module: nn.Module) -> bool:
    names = argument_names(module)
    return len(names) >= 3 and names[1] in INDEX_ARGUMENTS


def _layer_of(name: str) -> int:
    # The outermost numbered list is the decoder's; numbers further in belong to the block.
    for part in name.split("."):
        if part.isdigit():
            return int(part)
    raise ModelError(f"{name}: routed experts outside a numbered decoder layer cannot be mapped.")


def _experts_of(name: str, module: nn.Module) -> int:
    fused = [p.shape[0] for p in module.parameters() if p.ndim == 3]
    if fused:
        return int(min(fused))
    declared = getattr(module, "num_experts", None)
    if isinstance(declared, int) and declared > 1:
        return declared
    shapes = ", ".join(f"{key} {tuple(p.shape)}" for key, p in module.named_parameters())
    raise ModelError(f"{name}: the number of experts cannot be told from its tensors ({shapes}).")
