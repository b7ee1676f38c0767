"""How many parameters a run would train, told before a model is opened.

From the sizes that a model's facts record when it is looked at or profiled; the opened model counts
its own. Trade-off: facts written before sizes were recorded answer None for some kinds.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from trace_engine.config import Cell, TrainableConfig


def trained_parameters(
    model: Mapping[str, Any], trainable: TrainableConfig, cells: Sequence[Cell] = ()
) -> int | None:
    """Numbers that the optimizer would move; None where the facts do not tell.

    `model`: a model's facts, as `ModelInfo.to_dict()` and a profile's `meta["model"]` have them.
    `cells`: the experts that would train (`selected_experts`, `top_experts`), or whose layers would
    (`layers` without a list).
    """
    layers = tuple(model.get("layers") or ())
    routers = dict(zip(layers, model.get("router_parameters") or (), strict=False))
    if trainable.kind == "lora":
        per_rank = model.get("lora_parameters_per_rank")
        return None if not per_rank else trainable.lora_rank * int(per_rank)
    if trainable.kind == "all":
        return _without(model.get("parameters"), trainable, routers, layers)
    if trainable.kind == "layers":
        sizes = {int(layer): size for layer, size in (model.get("layer_parameters") or {}).items()}
        chosen = trainable.layers or tuple(sorted({cell.layer for cell in cells}))
        if any(layer not in sizes for layer in chosen):
            return None
        there = tuple(layer for layer in chosen if layer in layers)
        return _without(sum(sizes[layer] for layer in chosen), trainable, routers, there)
    experts = dict(zip(layers, model.get("expert_parameters") or (), strict=False))
    # A size of 0 is the model room's word for what cannot be told apart.
    if not all(experts.get(cell.layer) for cell in cells):
        return None
    alone = sum(int(experts[cell.layer]) for cell in set(cells))
    if trainable.kind == "selected_experts":
        return alone
    choosing = {cell.layer for cell in cells}
    if not all(routers.get(layer) for layer in choosing):
        return None
    return alone + sum(int(routers[layer]) for layer in choosing)


def _without(
    whole: int | None,
    trainable: TrainableConfig,
    routers: Mapping[int, int],
    layers: Sequence[int],
) -> int | None:
    """The whole, less the routers of these layers where they are frozen."""
    if not trainable.freeze_routers or whole is None:
        return whole
    if not all(routers.get(layer) for layer in layers):
        return None
    return whole - sum(routers[layer] for layer in layers)
