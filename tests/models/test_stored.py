"""Checkpoints that are stored packed: opened in full precision, trained, saved, opened again."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.support.stored import save_fp8, save_mxfp4
from tests.unlearning.cases import tiny_config
from trace_engine import unlearn
from trace_engine.config import ModelConfig
from trace_engine.models import inspect_model, open_model

SAVE = {"mxfp4": save_mxfp4, "fp8": save_fp8}


@pytest.fixture(params=sorted(SAVE))
def form(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_values_are_those_of_the_format(tmp_path: Path) -> None:
    """Against the formats' definitions, not against transformers' own code."""
    packed = save_mxfp4(tmp_path / "mxfp4")
    model = open_model(ModelConfig(source=str(tmp_path / "mxfp4"), device="cpu")).model
    for name, value in packed.items():
        assert torch.equal(model.get_parameter(name), value), name
    blocks = save_fp8(tmp_path / "fp8")
    model = open_model(ModelConfig(source=str(tmp_path / "fp8"), device="cpu")).model
    name = "model.layers.0.mlp.down_proj.weight"
    assert torch.equal(model.get_parameter(name), blocks[name])
    down = model.get_parameter("model.layers.1.mlp.experts.down_proj")
    assert torch.equal(down[3], blocks["model.layers.1.mlp.experts.3.down_proj.weight"])


def test_facts_say_how_it_is_stored(form: str, tmp_path: Path) -> None:
    SAVE[form](tmp_path)
    config = ModelConfig(source=str(tmp_path), device="cpu")
    opened = open_model(config)
    assert opened.info == inspect_model(config)
    assert (opened.info.stored_as, opened.info.dtype) == (form, "bfloat16")


@pytest.mark.parametrize("kind", ["all", "lora"])
def test_a_run_saves_a_model_that_plain_transformers_opens(
    form: str, kind: str, tmp_path: Path
) -> None:
    SAVE[form](tmp_path / "start")
    model = {"source": str(tmp_path / "start"), "device": "cpu"}
    config = tiny_config(tmp_path, model=model, trainable={"kind": kind}, max_steps=2)
    with closing(unlearn(config, out=tmp_path / "run").session) as session:
        trained = session.trainable.plain_model()
    saved = tmp_path / "run" / "model"
    assert "quantization_config" not in json.loads((saved / "config.json").read_text())
    plain, report = AutoModelForCausalLM.from_pretrained(saved, output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert plain.dtype == torch.bfloat16
    ids_BS = torch.arange(4, 64).reshape(4, -1)
    with torch.no_grad():
        assert torch.equal(plain(ids_BS).logits, trained(ids_BS).logits)
