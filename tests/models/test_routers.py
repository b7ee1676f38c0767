"""Router kinds, told from what a router calls: one test per style of routing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.support.models import save_tiny
from trace_engine.config import ModelConfig
from trace_engine.models.files import locate
from trace_engine.models.open import outline
from trace_engine.models.routers import UNKNOWN, name_router, router_kinds
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
