"""Every type of the installed transformers that can have routed experts, found by enumeration, and
a tiny random model of each.

A configuration is made tiny by the names of its fields, so a type that is new in a later
transformers is built, and tested, without a line here. What names cannot tell is in `QUIRKS`, each
with its reason. Trade-off: the builder knows how configurations are usually spelled; a type that it
cannot build turns up as a failing test, which is the wish.
"""

from __future__ import annotations

import inspect
import re
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, PretrainedConfig
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from tests.support.models import VOCABULARY
from trace_engine.models.families import loader_for

EXPERTS, TOP_K, LAYERS = 8, 2, 3

# The first pattern that a field's whole name matches decides; only fields that hold a number do.
_SIZES: tuple[tuple[str, int | float], ...] = (
    (r"vocab_size|vocab_size_per_layer_input|unpadded_vocab_size", VOCABULARY),
    (r"pad_token_id", 0),
    (r"bos_token_id", 1),
    (r"eos_token_id", 2),
    (r"\w*_token_(id|index)", 3),
    # Wide enough that routers prefer some experts clearly: a flat router would hide wrong taps.
    (r"initializer_range|init_std", 0.2),
    (r"num_hidden_layers|n_layers?|num_layers|depth|encoder_layers|decoder_layers", LAYERS),
    (r"first_k_dense_replace|num_dense_layers|moe_layer_start_index", 1),
    (r"(num|n)_(local_|routed_)?experts|moe_num_experts", EXPERTS),
    (r"num_experts_per_tok(en)?|moe_topk|moe_k|moe_top_k|top_k_experts", TOP_K),
    (r"(moe_)?(num|n)_shared_experts", 1),
    (r"n_group|num_expert_groups?", 2),
    (r"topk_group", 1),
    (r"max_position_embeddings|max_seq_len|model_max_length", 128),
    (r"\w*(num|n)_(\w+_)?heads", 2),
    (r"q_lora_rank|kv_lora_rank|o_lora_rank", 16),
    (r"qk_(rope|nope)_head_dim|index_head_dim", 8),
    (r"n_groups|mamba_n_groups", 1),
    (r"\w*head_dim|mamba_d_head|kv_channels", 16),
    (r"hidden_size|d_model|n_embd|out_hidden_size|\w*_hidden_size", 32),
    (r"\w*intermediate_size|\w*ffn_hidden_size|ffn_dim|share_expert_dim|intermediate_size_mlp", 16),
    (r"(mamba_)?chunk_size|hc_lowrank", 16),
    (r"sliding_window|sliding_window_size|attention_chunk_size", 16),
)

# Numbers without which there is no expert, also where the default is None.
_UNSET = r"\w*experts|\w*experts_per_tok(en)?|top_k_experts|moe_intermediate_size|head_dim"

_SMALL_BY_NATURE = ("pad_token_id", "bos_token_id", "eos_token_id", "initializer_range", "init_std")

# model type (also of a part) -> fields that names cannot make tiny.
QUIRKS: dict[str, dict[str, Any]] = {
    # Nested dicts of settings.
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8, "rope_theta": 10_000.0},
        "ffn_config": {
            "hidden_size": 32,
            "ffn_hidden_size": 16,
            "moe_num_experts": EXPERTS,
            "moe_top_k": TOP_K,
            "ffn_act_fn": {"name": "silu"},
        },
    },
    # Heads times their size must be the width that the model is expanded to.
    "granitemoehybrid": {
        "mamba_n_heads": 4,
        "layer_types": ["linear_attention", "full_attention", "linear_attention"],
    },
    # Attention comes every 8th layer by default, and the cache wants one.
    "jamba": {"attn_layer_period": 3, "attn_layer_offset": 2},
    # No default that names the kinds of layer, or the window and indexer that they need.
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "full_attention"]},
    "step3p5": {"sliding_window": 16},
    "qwen4_exp_text": {
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 16,
        "indexer_budget": 8,
        "indexer_compress_ratio": 4,
    },
    "deepseek_ocr2_text": {"mlp_layer_types": ["dense", "sparse", "sparse"]},
    # Dense by default.
    "gemma4_text": {"enable_moe_block": True},
    # Sections of the rotary embedding must add up to half a head.
    "ernie4_5_vl_moe_text": {
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [3, 3, 2]},
        "moe_intermediate_size": [16, 16],
    },
    "glm4v_moe_text": {
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}
    },
    # As many entries as the part has layers.
    "muse_spark_audio": {"num_hidden_layers": 4, "hidden_sizes": (8, 8, 16, 16)},
    # Must equal the width of the part.
    "dots3_note_vision_encoder": {"adapter_in_dim": 32, "adapter_out_dim": 32},
    "dots3_note_audio_encoder": {"adapter_input_size": 32, "adapter_out_dim": 32},
    # One expert by default.
    "hunyuan_v1_moe": {"num_experts": EXPERTS, "moe_topk": TOP_K},
    # Layers with a window have a size of their own, a large one.
    "dots3_note_text": {"layer_types": ["indexed_attention"] * LAYERS},
    # A few identity experts beside the routed ones.
    "longcat_flash": {"zero_expert_num": 3},
    # Must equal the wrapper's; its own default is None.
    "radio": {"video_temporal_patch_size": 2},
    # Layers with a window have 8 key-value heads, whatever the model's number.
    "mimo_v2_flash": {"num_attention_heads": 8},
}


@cache
def moe_types() -> dict[str, str]:
    """Model type -> name of the class that opens it, for every type with experts in its settings.

    Causal language models first, then types that only a multimodal wrapper opens.
    """
    found: dict[str, str] = {}
    for table in (
        modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        modeling_auto.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES,
    ):
        for model_type, names in table.items():
            name = names if isinstance(names, str) else names[0]
            if model_type not in found and _has_experts(model_type):
                found[model_type] = name
    return found


def tiny_config(model_type: str, **changes: Any) -> PretrainedConfig:
    """The type's configuration with tiny sizes: 8 experts, top-2, 3 layers."""
    return CONFIG_MAPPING[model_type](**_tiny(CONFIG_MAPPING[model_type]) | changes)


def tiny_model(model_type: str, *, seed: int = 0, **changes: Any) -> Any:
    """A random float32 model of the type, in eval mode."""
    config = tiny_config(model_type, **changes)
    torch.manual_seed(seed)
    build: Any = loader_for(model_type)
    model = build.from_config(config, dtype=torch.float32).eval()
    _spread_tokens(model)
    return model


@torch.no_grad()
def _spread_tokens(model: Any) -> None:
    # A router that starts at 0 (AFMoE), or a table that does (DeepSeek-V4), sends every token to
    # the same experts, and most of what is tested would be tested on no token.
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if name.endswith("router.gate.weight") and not parameter.is_meta and not parameter.any():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    # Biases are made 0, where a tap or a mask that forgets them would go unnoticed.
    for name, bias in chain(model.named_parameters(), model.named_buffers()):
        loose = bias.is_floating_point() and bias.ndim > 0 and not bias.is_meta
        if "bias" in name.rsplit(".", 1)[-1] and loose and not bias.any():
            bias.copy_(torch.randn(bias.shape, generator=generator) * 0.03)
    for name, table in model.named_buffers():
        if name.endswith("tid2eid") and not table.is_meta:
            ranks = torch.rand(len(table), EXPERTS, generator=generator).argsort(-1)
            table.copy_(ranks[:, : table.shape[1]])


def _has_experts(model_type: str) -> bool:
    kind = CONFIG_MAPPING[model_type]
    if _expert_fields(kind) or _wraps_experts(kind):
        return True
    # A type may hide its experts from its settings, but hardly from its code, which is read without
    # being imported: a hundred dense types would take ten seconds.
    code = Path(inspect.getfile(kind)).parent.glob("modeling_*.py")
    return any(re.search(r"^class \w*Experts?\w*\(", c.read_text("utf-8"), re.M) for c in code)


def _expert_fields(kind: Any) -> list[str]:
    own = [n for n in inspect.get_annotations(kind) if re.search(r"experts", n)]
    for part in getattr(kind, "sub_configs", {}).values():
        if part is not AutoConfig:
            own += _expert_fields(part)
    return own


def _wraps_experts(kind: Any) -> bool:
    # A wrapper of any text model, which has experts by default.
    if AutoConfig not in getattr(kind, "sub_configs", {}).values():
        return False
    try:
        parts = vars(kind()).values()
    except StrictDataclassError:  # its defaults refuse each other
        return False
    return any(_expert_fields(type(p)) for p in parts if isinstance(p, PretrainedConfig))


def _tiny(kind: type[PretrainedConfig], given: Any = None) -> dict[str, Any]:
    base = given if given is not None else kind()
    fields: dict[str, Any] = {}
    layers = next(
        (getattr(base, n) for n in ("num_hidden_layers", "num_layers") if hasattr(base, n)), None
    )
    for name, value in vars(base).items():
        if isinstance(value, PretrainedConfig):
            fields[name] = {"model_type": value.model_type} | _tiny(type(value), value)
        elif re.fullmatch(_UNSET, name) if value is None else _is_number(value):
            small = next((s for p, s in _SIZES if re.fullmatch(p, name)), None)
            # 0 and 1 are switches: no shared expert, one group.
            if small is not None and (value is None or value > 1 or name in _SMALL_BY_NATURE):
                fields[name] = small
        elif isinstance(value, list) and layers and len(value) == layers:
            fields[name] = _thinned(value)
    if "qk_rope_head_dim" in fields and "head_dim" in fields:
        # Multi-head latent attention calls its rotary part the head, or adds it up by itself.
        del fields["head_dim"]
        if base.head_dim == base.qk_rope_head_dim:
            fields["head_dim"] = fields["qk_rope_head_dim"]
    return fields | QUIRKS.get(kind.model_type, {})


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _thinned(per_layer: list[Any]) -> list[Any]:
    # One layer of every kind, in order.
    kinds = list(dict.fromkeys(per_layer))[:LAYERS]
    return kinds + kinds[-1:] * (LAYERS - len(kinds))
