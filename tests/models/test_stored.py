"""Checkpoints that are stored packed: opened in full precision, trained, saved, opened again."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from tests.support.models import save_tiny
from tests.support.stored import save_fp8, save_mxfp4
from tests.unlearning.cases import tiny_config
from trace_engine import unlearn
from trace_engine.config import ModelConfig
from trace_engine.errors import ModelError
from trace_engine.models import inspect_model, open_model
from trace_engine.models.files import locate
from trace_engine.models.fit import check_headers
from trace_engine.models.open import outline

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


WIDTH = {"mxfp4": "intermediate_size", "fp8": "moe_intermediate_size"}


def change(folder: Path, **settings: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


@pytest.mark.parametrize("look", [inspect_model, open_model])
def test_another_width_is_told_before_a_weight_is_read(
    form: str, look: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    SAVE[form](tmp_path)
    change(tmp_path, **{WIDTH[form]: 64})
    monkeypatch.setattr("trace_engine.models.open._load", None)
    with pytest.raises(ModelError, match=r"of another shape .*experts") as refused:
        look(ModelConfig(source=str(tmp_path), device="cpu"))
    assert "\n" not in str(refused.value)


SCALE = {
    "mxfp4": "model.layers.1.mlp.experts.down_proj_scales",
    "fp8": "model.layers.1.mlp.experts.3.down_proj.weight_scale_inv",
}


@pytest.mark.parametrize("cut", [True, False])
def test_scales_that_do_not_fit_are_named(form: str, cut: bool, tmp_path: Path) -> None:
    SAVE[form](tmp_path)
    file, name = tmp_path / "model.safetensors", SCALE[form]
    tensors = load_file(file)
    scale = tensors.pop(name)
    if cut:
        tensors[name] = scale[..., :0].clone()
    save_file(tensors, file, metadata={"format": "pt"})
    said = f"1 {'of another shape' if cut else 'missing'} ({name})"
    with pytest.raises(ModelError, match=re.escape(said)):
        inspect_model(ModelConfig(source=str(tmp_path), device="cpu"))


def pack_gptq(folder: Path) -> None:
    """The experts of a tiny OLMoE as GPTQ keeps them: 8 codes of 4 bits an int32, down a column."""
    save_tiny("olmoe", folder)
    tensors = load_file(folder / "model.safetensors")
    for name in [n for n in tensors if ".experts." in n]:
        rows, columns = tensors.pop(name).shape
        stem = name.removesuffix(".weight")
        tensors |= {
            f"{stem}.qweight": torch.zeros(columns // 8, rows, dtype=torch.int32),
            f"{stem}.qzeros": torch.zeros(1, rows // 8, dtype=torch.int32),
            f"{stem}.scales": torch.ones(1, rows, dtype=torch.float16),
            f"{stem}.g_idx": torch.zeros(columns, dtype=torch.int32),
        }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    change(folder, quantization_config={"quant_method": "gptq", "bits": 4, "group_size": 32})


def pack_in_words_of_its_own(folder: Path) -> None:
    """Experts packed in a form that is not known here; the rest is stored plainly."""
    save_tiny("olmoe", folder)
    tensors = load_file(folder / "model.safetensors")
    for name in [n for n in tensors if ".experts." in n]:
        tensors[f"{name}.codes"] = tensors.pop(name).to(torch.uint8)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    change(folder, quantization_config={"quant_method": "homemade"})


def headers(folder: Path) -> None:
    files = locate(str(folder))
    check_headers(files, outline(files, ModelConfig(source=str(folder))))


@pytest.mark.parametrize(
    ("pack", "setting"),
    [
        (pack_gptq, "intermediate_size"),
        (pack_gptq, "num_experts"),
        (pack_in_words_of_its_own, "vocab_size"),
        (pack_in_words_of_its_own, "num_experts"),
    ],
)
def test_of_other_forms_what_can_be_compared_is(
    pack: Callable[[Path], None], setting: str, tmp_path: Path
) -> None:
    pack(tmp_path)
    headers(tmp_path)
    was = json.loads((tmp_path / "config.json").read_text())[setting]
    change(tmp_path, **{setting: 2 * was})
    with pytest.raises(ModelError, match="of another shape"):
        headers(tmp_path)


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
