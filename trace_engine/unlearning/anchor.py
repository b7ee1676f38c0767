"""SEUF's router anchor: forget tokens are held at the expert that is being unlearned.

Without it, unlearning one expert teaches its router to go round it. The gate weights are those that
the forward really used, 0 outside the top-k, so it is the same for every family; the accepted cost
is that a target outside a token's top-k is drawn in only through the weights of those inside.
"""

# Dims: B documents, S positions, T = S - 1 shifted positions, N labels of a batch, K experts per
# token, E experts of a layer

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from trace_engine.config import Cell, UnlearnConfig
from trace_engine.models import Batch, Site
from trace_engine.unlearning.losses import label_mask

Anchored = list[tuple[Cell, float]]
"""Experts with their affinity, highest first."""


def router_anchor(index_NK: Tensor, weight_NK: Tensor, targets: Sequence[int], size: int) -> Tensor:
    """Mean over tokens of the squared distance of the gate weights to 1 at targets, 0 elsewhere.

    index_NK: chosen experts, weight_NK: their gate weights; an index of `size` or more is no routed
    expert. Source: Zhuang et al., "SEUF", 2025, eq. 3.
    """
    weight_NK = weight_NK.float() if weight_NK.dtype.itemsize < 4 else weight_NK
    # The last column takes slots that reach no routed expert.
    wide_NE = weight_NK.new_zeros(len(index_NK), size + 1)
    gate_NE = wide_NE.scatter_add(1, index_NK.clamp(max=size), weight_NK)[:, :size]
    target_E = gate_NE.new_zeros(size)
    target_E[list(targets)] = 1.0
    return (gate_NE - target_E).square().sum(dim=1).mean()


class RouterAnchor:
    """Sees what the anchored layers choose in one forward, and makes it a loss."""

    def __init__(self, sites: Sequence[Site], cells: Sequence[Cell]) -> None:
        by_layer: defaultdict[int, list[int]] = defaultdict(list)
        for cell in cells:
            by_layer[cell.layer].append(cell.expert)
        self._targets = {site: by_layer[site.layer] for site in sites if site.layer in by_layer}
        self._seen: dict[int, tuple[Tensor, Tensor]] = {}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Around the forward of the forget batch."""
        with ExitStack() as stack:
            for site in self._targets:
                stack.callback(site.watch(self._keeper(site.layer)).remove)
            yield

    def loss(self, batch: Batch) -> Tensor:
        """The anchor of the last forward, summed over layers; its graph is let go of.

        Over the positions that predict a label, as token weights are.
        """
        rows, width = batch.input_ids_BS.shape
        mask_BT = label_mask(batch.labels_BS)
        found = []
        for site, targets in self._targets.items():
            index_TK, weight_TK = self._seen.pop(site.layer)
            index_NK = index_TK.view(rows, width, -1)[:, :-1][mask_BT]
            weight_NK = weight_TK.view(rows, width, -1)[:, :-1][mask_BT]
            found.append(router_anchor(index_NK, weight_NK, targets, site.num_experts))
        return torch.stack(found).sum()

    def _keeper(self, layer: int) -> Any:
        def keep(index_TK: Tensor, weight_TK: Tensor) -> None:
            # Inside a backward pass, checkpointing recomputes a forward that was seen.
            if torch._C._current_graph_task_id() == -1:
                self._seen[layer] = index_TK, weight_TK

        return keep


def anchor_facts(config: UnlearnConfig, anchored: Anchored) -> dict[str, Any]:
    """What a run's facts say of the experts that forget text uses most."""
    experts = [[cell.layer, cell.expert, value] for cell, value in anchored]
    if not anchored:
        return {"weight": None, "experts": [], "sentence": ""}
    names = ", ".join(
        f"L{cell.layer} E{cell.expert} (mean gate weight {value:.3f})"
        for cell, value in anchored[:8]
    )
    more = f" and {len(anchored) - 8} more" if len(anchored) > 8 else ""
    held = (
        f"its router is anchored to it with weight {config.anchor_weight:g}"
        if config.anchor_weight
        else "no anchor holds its router"
    )
    if len(anchored) > 1:
        held = held.replace("its router is anchored to it", "their routers are anchored to them")
        held = held.replace("its router", "their routers")
    which = (
        "The expert that forget text uses most"
        if len(anchored) == 1
        else (f"The {len(anchored)} experts that forget text uses most")
    )
    return {
        "weight": config.anchor_weight,
        "experts": experts,
        "sentence": f"{which}: {names}{more}; {held}.",
    }
