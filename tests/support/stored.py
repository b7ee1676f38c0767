"""Tiny checkpoints in the packed forms that are published: GPT-OSS's MXFP4, DeepSeek-V3's FP8.

Written by hand from the formats' definitions, so that what transformers unpacks is compared with
values that this file knows.
"""

# Dims: E experts, R rows of an expert's matrix, C its columns, B blocks of a row

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, GptOssConfig

from tests.support.models import VOCABULARY, save, save_tiny

FP4 = torch.tensor(
    [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0] + [-v for v in (0, 0.5, 1, 1.5, 2, 3, 4, 6)]
)
"""E2M1 by its four bits (OCP Microscaling Formats 1.0, section 5.3.3)."""
FP8_BLOCK = 8


def save_mxfp4(folder: Path) -> dict[str, Tensor]:
    """A tiny GPT-OSS whose experts are packed; returns what they unpack to, by parameter name."""
    torch.manual_seed(0)
    config = GptOssConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=16,
        num_local_experts=8,
        num_experts_per_tok=2,
        sliding_window=16,
        max_position_embeddings=128,
        initializer_range=0.2,
        pad_token_id=0,
    )
    save(AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16), folder)
    tensors, known = load_file(folder / "model.safetensors"), {}
    for name in [n for n in tensors if n.endswith(("gate_up_proj", "down_proj"))]:
        E, C, R = tensors.pop(name).shape
        # Rows are packed: the parameter is their transpose.
        codes_ERC = torch.randint(0, 16, (E, R, C))
        # Exponents of 2 with a bias of 127, one a block of 32 values.
        scales_ERB = torch.randint(122, 125, (E, R, C // 32), dtype=torch.uint8)
        pairs = codes_ERC.reshape(E, R, C // 32, 16, 2)
        packed = (pairs[..., 0] | pairs[..., 1] << 4).to(torch.uint8)
        tensors |= {f"{name}_blocks": packed, f"{name}_scales": scales_ERB}
        factor_ERC = torch.exp2(scales_ERB.float() - 127).repeat_interleave(32, dim=2)
        known[name] = (FP4[codes_ERC] * factor_ERC).transpose(1, 2).bfloat16()
    _store(folder, tensors, {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]})
    return known


def save_fp8(folder: Path) -> dict[str, Tensor]:
    """A tiny DeepSeek-V3 whose linear layers are in blocks of FP8; returns their true values by
    their names in the file."""
    save_tiny("deepseek_v3", folder)
    tensors, known = load_file(folder / "model.safetensors"), {}
    tensors = {name: value.bfloat16() for name, value in tensors.items()}
    for name in [n for n in tensors if n.endswith("_proj.weight") or "_proj_with_mqa" in n]:
        value = tensors[name].float()
        R, C = value.shape
        blocks = value.reshape(R // FP8_BLOCK, FP8_BLOCK, C // FP8_BLOCK, FP8_BLOCK)
        scale = blocks.abs().amax(dim=(1, 3), keepdim=True) / 448  # E4M3's largest number
        small = (blocks / scale).to(torch.float8_e4m3fn)
        tensors[name] = small.reshape(R, C)
        tensors[f"{name}_scale_inv"] = scale[:, 0, :, 0].contiguous()
        known[name] = (small.float() * scale).reshape(R, C).bfloat16()
    form = {
        "quant_method": "fp8",
        "fmt": "e4m3",
        "activation_scheme": "dynamic",
        "weight_block_size": [FP8_BLOCK, FP8_BLOCK],
    }
    _store(folder, tensors, form)
    return known


def _store(folder: Path, tensors: dict[str, Tensor], form: dict[str, Any]) -> None:
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    path = folder / "config.json"
    settings = json.loads(path.read_text()) | {"quantization_config": form, "dtype": "bfloat16"}
    path.write_text(json.dumps(settings))
