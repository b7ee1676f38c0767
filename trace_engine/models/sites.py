"""Finds the places where a model routes tokens to experts, by what its modules do, not by config
names.

transformers spells dense-layer patterns, expert counts and top-k in a dozen ways, but every experts
module takes `(hidden, chosen expert indices, gate weights)`; two families that route otherwise have
adapters. Trade-off: a map's row is a decoder layer, so where a layer routes twice one block is the
row and the other is named by `unmapped_blocks`.
"""

# Dims: E experts of a site, K experts per token

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from trace_engine.errors import ModelError
from trace_engine.models.adapters import ScoredSite, SortedSite, takes_sizes
from trace_engine.models.probe import send_tokens
from trace_engine.models.site import Site, argument_names

INDEX_ARGUMENTS = frozenset(
    {"top_k_index", "router_indices", "selected_experts", "topk_indices", "routing_indices"}
)
__all__ = [
    "Site",
    "argument_names",
    "expert_parameters",
    "experts_per_token",
    "experts_skipped",
    "find_sites",
    "unmapped_blocks",
]

_OTHER_SENSES = re.compile(r"(^|_)(vision|visual|image|audio|speech)")
_ATTENTION = re.compile(r"attn|attention")


def find_sites(model: nn.Module) -> list[Site]:
    """The model's routed blocks in forward (module) order; empty for a dense model.

    Blocks that no text token reaches, and attention experts, are not among them: see
    `unmapped_blocks`. Raises ModelError when a block's number of experts or its layer cannot be
    told, and when one decoder layer has two routed blocks all the same, because a cell (layer,
    expert) would then name two experts.
    """
    sites: list[Site] = []
    for name, kind in _blocks(model):
        if _why_unmapped(name) is not None:
            continue
        site = _site(model, kind, len(sites), name)
        for other in sites:
            if other.layer == site.layer:
                raise ModelError(
                    f"Decoder layer {site.layer} has two routed blocks ({other.name}, {name}). "
                    "TRACE names an expert by layer and number, so it cannot map this model yet."
                )
        sites.append(site)
    return sites


def unmapped_blocks(model: nn.Module) -> dict[str, str]:
    """Routed blocks that are no row of the map: module name -> why."""
    found = {name: _why_unmapped(name) for name, _ in _blocks(model)}
    return {name: why for name, why in found.items() if why is not None}


def _why_unmapped(name: str) -> str | None:
    parts = name.split(".")
    if any(_OTHER_SENSES.search(part) for part in parts):
        return "experts for images or sound, which text never reaches"
    if any(_ATTENTION.search(part) for part in parts):
        return "attention experts (the layer's row is its feed-forward experts)"
    return None


def _blocks(model: nn.Module) -> Iterator[tuple[str, type[Site]]]:
    for name, module in model.named_modules():
        if _takes_indices(module):
            yield name, Site
        elif SortedSite.fits(module):
            yield name, SortedSite
        elif "." in name and ScoredSite.fits(module, model.get_submodule(_parent(name))):
            yield name, ScoredSite


def _site(model: nn.Module, kind: type[Site], index: int, name: str) -> Site:
    module, parent = model.get_submodule(name), model.get_submodule(_parent(name))
    layer, experts = _layer_of(name), _experts_of(name, module)
    routers: tuple[nn.Module, ...] = (parent,)
    if kind is SortedSite:
        routers = (module.router,)  # type: ignore[assignment]
    elif kind is ScoredSite:
        routers = (parent.router,)  # type: ignore[assignment]
    elif _parent(name).rsplit(".", 1)[-1].isdigit():
        # The parent is the whole decoder layer, and attention may have a top-k of its own.
        routers = tuple(m for m in parent.children() if m is not module and _scores(m, experts))
    return kind(index, layer, name, module, experts, routers)


def _scores(module: nn.Module, experts: int) -> bool:
    return any(p.ndim == 2 and p.shape[0] == experts for p in module.parameters())


def _parent(name: str) -> str:
    return name.rpartition(".")[0]


def expert_parameters(site: Site) -> dict[str, tuple[nn.Parameter, int]]:
    """The tensors that hold the site's experts on dim 0: full name -> (parameter, rows per expert).

    Expert e owns rows [e * rows, (e + 1) * rows). Rows per expert is 1 for fused tensors and their
    biases, and more where experts are flattened into dim 0 (DBRX). Empty when the experts are
    stored in another way.
    """
    named = [
        (f"{prefix}.{name}", parameter)
        for prefix, module in site.experts.items()
        for name, parameter in module.named_parameters()
        if parameter.ndim >= 1
    ]
    # LongCat's first projection has rows for its identity experts too, after the routed ones.
    fused = {n: p for n, p in named if p.shape[0] == site.num_experts or _is_fused(p, site)}
    if fused:
        return {name: (parameter, 1) for name, parameter in fused.items()}
    return {
        name: (parameter, parameter.shape[0] // site.num_experts)
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
    was_training = model.training
    model.eval()
    try:
        with ExitStack() as stack:
            for site in sites:
                stack.enter_context(experts_skipped(site, partial(_note_slots, found, site)))
            send_tokens(model, sites)
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

    def note(index_TK: Tensor, weight_TK: Tensor) -> None:
        on_index(index_TK)

    handle = site.watch(note)
    skipped = list(site.experts.values())
    for module in skipped:
        module.forward = partial(_zeros, module)
    try:
        yield
    finally:
        handle.remove()
        for module in skipped:
            del module.forward


def _zeros(module: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
    names = argument_names(module)
    hidden: Tensor = args[0] if args else kwargs[names[0]]
    if not takes_sizes(module):
        return torch.zeros_like(hidden)
    weight: Any = module.weight
    return hidden.new_zeros(*hidden.shape[:-1], weight.shape[1])


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
