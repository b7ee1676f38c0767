"""Reads the routing that a model really uses, while it uses it.

A forward pre-hook on each experts module sees the chosen indices and gate weights, whatever the
router did to get them; recomputing top-k from router logits disagrees for bias-corrected, grouped
and hashed routers. Costs about 1 % of a forward; keeps nothing itself, so memory is the listener's
business.
"""

# Dims: T tokens (B*S, row-major), K experts per token, E experts

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from trace_engine.errors import ModelError
from trace_engine.models.sites import Site, argument_names

OnRouting = Callable[[int, Tensor, Tensor], None]


class RoutingTap:
    """Calls `on_routing(site index, index_TK, weight_TK)` once per site and forward, inside `with`.

    index_TK is int64 and detached, T = B*S flattened row-major, padding included; a slot that
    reaches no routed expert (gate weight 0, or an index >= E: skip and identity experts) holds -1.
    weight_TK is detached, in the model's precision. Recomputation under gradient checkpointing is
    not reported. Hooks are gone after `with`, also after an error.
    """

    def __init__(self, sites: Sequence[Site], on_routing: OnRouting) -> None:
        self._sites, self._on_routing = sites, on_routing
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> Self:
        for site in self._sites:
            hook = self._hook(site)
            self._handles.append(site.module.register_forward_pre_hook(hook, with_kwargs=True))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _hook(self, site: Site) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
        names = argument_names(site.module)

        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            # Inside a backward pass there is a graph task: checkpointing recomputes this forward.
            if torch._C._current_graph_task_id() != -1:
                return
            bound = dict(zip(names, args, strict=False)) | kwargs
            index_TK, weight_TK = _as_slots(bound[names[1]], bound[names[2]], site)
            self._on_routing(site.index, index_TK, weight_TK)

        return hook


def _as_slots(index: Tensor, weight: Tensor, site: Site) -> tuple[Tensor, Tensor]:
    index_TK = index.detach().reshape(-1, index.shape[-1]).long()
    weight_TK = weight.detach().reshape(-1, weight.shape[-1])
    real_TK = index_TK < site.num_experts
    if weight_TK.shape != index_TK.shape:
        if weight_TK.shape != (index_TK.shape[0], site.num_experts):
            raise ModelError(
                f"{site.name}: expected gate weights of shape {tuple(index_TK.shape)} like the "
                "chosen "
                f"indices, found {tuple(weight_TK.shape)}. Its routing cannot be read."
            )
        # Some routers hand over scores of all experts; the chosen ones are the gate weights.
        weight_TK = weight_TK.gather(1, index_TK.clamp(max=site.num_experts - 1))
    keep_TK = real_TK & (weight_TK != 0)
    return index_TK.where(keep_TK, torch.full_like(index_TK, -1)), weight_TK
