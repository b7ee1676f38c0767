"""Router kinds, told from what a router calls: one test per style of routing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.support.models import save_tiny
from tests.support.moe_types import tiny_model
from trace_engine.config import ModelConfig
from trace_engine.models.files import locate
from trace_engine.models.open import outline
from trace_engine.models.routers import UNKNOWN, Call, name_router, router_kinds
from trace_engine.models.sites import find_sites

KINDS = {
    "olmoe": "softmax top-k",
    "qwen3_moe": "softmax top-k",
    "mixtral": "softmax top-k",
    "gpt_oss": "top-k, then softmax over the chosen",
    "deepseek_v3": "sigmoid top-k, chosen with a bias, in 2 groups",
}


@pytest.mark.parametrize("family", KINDS)
def test_the_kind_is_told_without_weights(family: str, tmp_path: Path) -> None:
    config = ModelConfig(source=str(save_tiny(family, tmp_path)))
    model = outline(locate(config.source), config)
    sites = find_sites(model)
    forwards = [site.module.forward.__func__ for site in sites]
    assert set(router_kinds(model, sites)) == {KINDS[family]}
    assert [site.module.forward.__func__ for site in sites] == forwards, "left something behind"
    assert not any(module._forward_pre_hooks for module in model.modules())


READ_IN_THE_CODE = {
    "ernie4_5_moe": "softmax top-k, chosen with a bias",
    "flint": "sigmoid top-k",
    "granitemoe": "top-k, then softmax over the chosen",
    "jetmoe": "top-k, then softmax over the chosen",
    "kolibri1": "top-k, then sigmoid over the chosen, chosen with a bias",
    "llama4_text": "top-k, then sigmoid over the chosen",
    "longcat_flash": "softmax top-k, chosen with a bias",
    "mistral4": "softmax top-k",
    "nemotron_h": "sigmoid top-k, chosen with a bias",
    "phimoe": "softmax, one maximum after the other",
    "zaya": "softmax top-k, chosen with a bias",
}
"""What each family's modelling file does, whatever its modules, arguments and biases are called."""


@pytest.mark.parametrize("model_type", READ_IN_THE_CODE)
def test_the_kind_is_what_the_modelling_file_does(model_type: str) -> None:
    with torch.device("meta"):
        model = tiny_model(model_type)
    kinds = set(router_kinds(model, find_sites(model)))
    if kinds == {UNKNOWN}:  # some forwards need data
        model = tiny_model(model_type)
        kinds = set(router_kinds(model, find_sites(model)))
    assert kinds == {READ_IN_THE_CODE[model_type]}
    hooked = [m for m in model.modules() if m._forward_pre_hooks or m._forward_hooks]
    assert hooked == []


def test_a_bias_of_experts_is_one_number_each_in_any_shape() -> None:
    def calls(shape: tuple[int, ...]) -> list[Call]:
        return [("softmax", ((2, 8),)), ("add", ((2, 8), shape)), ("topk", ((2, 8),))]

    assert name_router(calls((8,)), 8) == "softmax top-k, chosen with a bias"
    assert name_router(calls((1, 8)), 8) == "softmax top-k, chosen with a bias"
    for shape in ((), (1,), (2, 8), (8, 1), (1, 1)):
        assert name_router(calls(shape), 8) == "softmax top-k"


def test_what_fits_no_pattern_is_unknown() -> None:
    assert name_router([], 8) == UNKNOWN
    assert name_router([("topk", ((4, 8),))], 8) == UNKNOWN
    assert name_router([("softmax", ((4, 8),)), ("gather", ())], 8) == UNKNOWN


def test_one_group_is_no_group_and_a_late_sum_no_bias() -> None:
    calls = [
        ("sigmoid", ((4, 8),)),
        ("topk", ((4, 1, 8),)),
        ("topk", ((4, 1),)),
        ("topk", ((4, 8),)),
        ("add", ((4, 1), (8,))),
    ]
    assert name_router(calls, 8) == "sigmoid top-k"


def test_a_forward_that_fails_leaves_unknown(tmp_path: Path) -> None:
    config = ModelConfig(source=str(save_tiny("olmoe", tmp_path)))
    model = outline(locate(config.source), config)
    sites = find_sites(model)

    class Broken(nn.Module):
        def forward(self, hidden: Tensor) -> Tensor:
            raise RuntimeError("no data")

    model.model.layers[1].mlp.gate = Broken()
    kinds = router_kinds(model, sites)
    assert kinds == ("softmax top-k", UNKNOWN)
    assert torch.overrides._get_current_function_mode_stack() == []
