"""8 and 4 bits: what is refused without the package, what is replaced, what stays."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from tests.support.models import save_tiny, tiny_olmoe
from trace_engine.config import ModelConfig, ProfileConfig, SetConfig, UnlearnConfig, identity_of
from trace_engine.errors import ModelError
from trace_engine.models import open_model, quantised
from trace_engine.models.files import locate
from trace_engine.models.open import outline
from trace_engine.models.quantised import quantised_linears
from trace_engine.routing import profile_key

SETS = {"forget": SetConfig(source="f"), "retain": SetConfig(source="r")}


def test_without_the_package_one_sentence_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantised, "find_spec", lambda name: None)
    with pytest.raises(
        ModelError, match=r"needs the package bitsandbytes.*trace-moe\[quantization\].*to none\.$"
    ):
        open_model(ModelConfig(source=str(tiny_olmoe()), quantization="8bit"))


def test_training_of_quantised_weights_is_refused_when_the_settings_are_built() -> None:
    with pytest.raises(ValidationError, match="quantised weights cannot train"):
        UnlearnConfig(model=ModelConfig(quantization="4bit"), **SETS)


def test_the_new_field_at_its_default_changes_no_address() -> None:
    """The key is that of the settings as they were before the field existed."""
    plain = ProfileConfig(**SETS)
    assert "quantization" not in identity_of(plain)["model"]
    assert set(identity_of(plain)["model"]) == {
        "source", "revision", "dtype", "device", "experts_implementation",
    }  # fmt: skip
    small = ProfileConfig(model=ModelConfig(quantization="8bit"), **SETS)
    assert identity_of(small)["model"]["quantization"] == "8bit"
    assert profile_key(small, "m", "f", "r") != profile_key(plain, "m", "f", "r")


def test_heads_and_routers_are_left_alone(tmp_path: Path) -> None:
    config = ModelConfig(source=str(save_tiny("deepseek_v3", tmp_path)))
    model = outline(locate(config.source), config)
    model.model.layers[1].mlp.gate = nn.Linear(32, 8, device="meta")
    chosen = quantised_linears(model)
    assert model.lm_head not in chosen
    assert model.model.layers[1].mlp.gate not in chosen
    assert model.model.layers[1].mlp.shared_experts.gate_proj in chosen


@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="the extra is not installed")
@pytest.mark.parametrize("bits", ["8bit", "4bit"])
def test_a_quantised_model_opens_and_routes_nearly_as_before(bits: str) -> None:
    folder = str(tiny_olmoe(hidden=64))
    plain = open_model(ModelConfig(source=folder, device="cpu"))
    small = open_model(ModelConfig(source=folder, device="cpu", quantization=bits))  # type: ignore[arg-type]
    assert small.info.quantization == bits
    assert small.info.parameters == plain.info.parameters
    layer = small.model.model.layers[0]
    assert not layer.self_attn.q_proj.weight.is_floating_point()
    for name in ("gate_up_proj", "down_proj"):
        ours = getattr(layer.mlp.experts, name)
        assert torch.equal(ours, getattr(plain.model.model.layers[0].mlp.experts, name))
    ids_BS = torch.arange(4, 200).reshape(4, -1)
    with torch.no_grad():
        one, two = (m.model(input_ids=ids_BS).logits.flatten() for m in (plain, small))
    assert 0.9 < torch.corrcoef(torch.stack([one, two]))[0, 1] < 1
