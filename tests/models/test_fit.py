"""What does not fit is told from headers, before a weight is read."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.models.misfits import MISFITS
from tests.support.models import save_tiny, save_tiny_olmoe
from tests.support.moe_types import moe_types, tiny_model
from trace_engine.config import ModelConfig
from trace_engine.errors import ModelError
from trace_engine.models import inspect_model, open_model
from trace_engine.models.families import UNTAPPED
from trace_engine.models.files import locate, stored_tensors
from trace_engine.models.fit import check_headers
from trace_engine.models.inspection import inspect_closely
from trace_engine.models.open import outline


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_tiny_olmoe(tmp_path)


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def refused(folder: Path) -> str:
    """What both ways of looking say."""
    config = ModelConfig(source=str(folder), device="cpu")
    with pytest.raises(ModelError) as plain:
        inspect_model(config)
    with pytest.raises(ModelError) as closely:
        inspect_closely(config, hashed=False)
    assert str(plain.value) == str(closely.value)
    return str(plain.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_experts": 16}, "of another shape (model.layers.0.mlp.experts.down_proj"),
        ({"num_hidden_layers": 3}, "missing (model.layers.2."),
        ({"num_hidden_layers": 1}, "of layers that there are not (model.layers.1."),
        ({"vocab_size": 77}, "of another shape (lm_head.weight, model.embed_tokens.weight)"),
    ],
)
def test_a_configuration_of_another_model_is_told_without_its_weights(
    folder: Path, changes: dict[str, Any], said: str
) -> None:
    change_config(folder, **changes)
    assert said in refused(folder)


def test_a_missing_tensor_is_named(folder: Path) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    del tensors["model.layers.1.mlp.gate.weight"]
    save_file(tensors, path, metadata={"format": "pt"})
    assert "1 missing (model.layers.1.mlp.gate.weight)" in refused(folder)


def test_more_experts_a_token_than_a_layer_has_load_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change_config(folder, num_experts_per_tok=20)
    monkeypatch.setattr("trace_engine.models.open._load", None)
    assert "experts that no layer has (num_experts_per_tok is 20)" in refused(folder)


def test_a_model_without_a_tokenizer_is_told(folder: Path) -> None:
    for path in folder.glob("*token*"):
        path.unlink()
    assert "tokenizer" in refused(folder)


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe", "deepseek_v3", "gpt_oss", "dbrx"])
def test_experts_that_are_stored_otherwise_fit(family: str, tmp_path: Path) -> None:
    files = locate(str(save_tiny(family, tmp_path)))
    check_headers(files, outline(files, ModelConfig(source=files.source)))


@pytest.mark.slow
@pytest.mark.parametrize("model_type", [t for t in moe_types() if t not in UNTAPPED])
def test_every_type_fits_what_it_saved_and_nothing_else(model_type: str, tmp_path: Path) -> None:
    tiny_model(model_type).save_pretrained(tmp_path)
    files = locate(str(tmp_path))
    shell = outline(files, ModelConfig(source=files.source))
    check_headers(files, shell)
    for what, (spoil, said) in MISFITS.items():
        stored = load_file(tmp_path / "model.safetensors")
        whole = dict(stored)
        spoil(stored)
        save_file(stored, tmp_path / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(ModelError, match=said) as refused:
            check_headers(files, shell)
        assert "\n" not in str(refused.value), what
        save_file(whole, tmp_path / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("stored", "said"),
    [
        ({"quant_method": "zzz"}, "stored as zzz, which this transformers does not know"),
        ({}, "has no `quant_method`"),
        pytest.param(
            {"quant_method": "gptq", "bits": 4},
            "requires",
            marks=pytest.mark.skipif(
                find_spec("gptqmodel") is not None, reason="what a missing package ends in"
            ),
        ),
    ],
)
def test_a_checkpoint_whose_form_cannot_be_opened_here_is_refused_alike_by_looking_and_loading(
    folder: Path, stored: dict[str, Any], said: str
) -> None:
    change_config(folder, quantization_config=stored)
    config = ModelConfig(source=str(folder), device="cpu")
    with pytest.raises(ModelError) as error:
        open_model(config)
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert refused(folder) == str(error.value)


def test_experts_that_there_is_no_room_to_stack_are_no_misfit(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers hides why it could not stack experts in a report on its log."""

    plain = torch.stack

    def stack(tensors: Any, *anything: Any, **named: Any) -> Any:
        return plain(tensors, *anything, **named) if tensors[0].is_meta else torch.empty(2**55)

    monkeypatch.setattr("transformers.core_model_loading.torch.stack", stack)
    with pytest.raises(ModelError, match="memory ran out while loading its weights"):
        open_model(ModelConfig(source=str(folder), device="cpu"))


def test_a_file_that_cannot_be_mapped_is_one_sentence(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = locate(str(folder))

    def refuse(*anything: Any, **named: Any) -> None:
        raise RuntimeError("unable to mmap 12 bytes: Cannot allocate memory (12)")

    monkeypatch.setattr("trace_engine.models.files.safe_open", refuse)
    with pytest.raises(ModelError, match=r"model\.safetensors cannot be read \(unable to mmap"):
        list(stored_tensors(files))
