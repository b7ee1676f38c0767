"""How many parameters would train: a model's outline against what the opened model counts."""

import json
from typing import Any

import pytest
import torch

from tests.models.conformance import opened
from tests.support.moe_types import moe_types, tiny_model
from trace_engine.config import Cell, TrainableConfig
from trace_engine.errors import ModelError
from trace_engine.models.families import UNTAPPED
from trace_engine.models.open import count
from trace_engine.models.parts import expert_size, layer_sizes, lora_size, router_size
from trace_engine.models.sites import find_sites
from trace_engine.models.trainable import make_trainable
from trace_engine.trained import trained_parameters

COVERED = [name for name in moe_types() if name not in UNTAPPED]


def outline_facts(model_type: str) -> dict[str, Any]:
    """What `describe` records of sizes, off the meta device and through JSON."""
    with torch.device("meta"):
        shell = tiny_model(model_type)
    sites = find_sites(shell)
    facts = {
        "parameters": count(shell),
        "layers": [site.layer for site in sites],
        "expert_parameters": [expert_size(site) for site in sites],
        "router_parameters": [router_size(site) for site in sites],
        "layer_parameters": layer_sizes(shell, sites),
        "lora_parameters_per_rank": lora_size(shell, sites),
    }
    return dict(json.loads(json.dumps(facts)))


def cases(layer: int) -> list[tuple[TrainableConfig, list[Cell]]]:
    cells = [Cell(layer, 0), Cell(layer, 2)]
    return [
        (TrainableConfig(), []),
        (TrainableConfig(freeze_routers=True), []),
        (TrainableConfig(kind="layers", layers=(layer,)), []),
        (TrainableConfig(kind="layers"), cells),
        (TrainableConfig(kind="layers", layers=(layer,), freeze_routers=True), []),
        (TrainableConfig(kind="selected_experts"), cells),
        (TrainableConfig(kind="top_experts"), cells),
        (TrainableConfig(kind="lora", lora_rank=3), []),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("model_type", COVERED)
def test_what_the_outline_says_is_what_the_opened_model_counts(model_type: str) -> None:
    facts = outline_facts(model_type)
    layer = facts["layers"][-1]
    for trainable, cells in cases(layer):
        told = trained_parameters(facts, trainable, cells)
        try:
            counted = make_trainable(opened(model_type), trainable, cells).summary.parameters
        except ModelError:
            assert told is None, (trainable.kind, told)
            continue
        assert told == counted, (trainable.kind, trainable.freeze_routers)


def test_facts_without_sizes_tell_nothing_they_do_not_know() -> None:
    old = {"parameters": 1000, "layers": [1, 3], "expert_parameters": [10, 0]}
    assert trained_parameters(old, TrainableConfig()) == 1000
    assert trained_parameters(old, TrainableConfig(freeze_routers=True)) is None
    assert trained_parameters(old, TrainableConfig(kind="layers", layers=(1,))) is None
    assert trained_parameters(old, TrainableConfig(kind="lora")) is None
    selected = TrainableConfig(kind="selected_experts")
    assert trained_parameters(old, selected, [Cell(1, 0), Cell(1, 4), Cell(1, 4)]) == 20
    assert trained_parameters(old, selected, [Cell(3, 0)]) is None
    assert trained_parameters(old, TrainableConfig(kind="top_experts"), [Cell(1, 0)]) is None
