"""Reads the routing that a model really uses, while it uses it.

A hook before each experts module sees the chosen indices and gate weights, whatever the router
did to get them; recomputing top-k from router logits disagrees for bias-corrected, grouped
and hashed routers. Costs about 1 % of a forward; keeps nothing itself, so memory is the listener's
business.
"""

# Dims: T tokens (B*S, row-major), K experts per token

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from trace_engine.models.site import OnChoice, Site

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
            self._handles.append(site.watch(self._listener(site)))
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

    def _listener(self, site: Site) -> OnChoice:
        def listen(index_TK: Tensor, weight_TK: Tensor) -> None:
            # Inside a backward pass there is a graph task: checkpointing recomputes this forward.
            if torch._C._current_graph_task_id() != -1:
                return
            index_TK, weight_TK = index_TK.detach(), weight_TK.detach()
            reached_TK = (index_TK < site.num_experts) & (weight_TK != 0)
            slots_TK = index_TK.where(reached_TK, torch.full_like(index_TK, -1))
            self._on_routing(site.index, slots_TK, weight_TK)

        return listen
