"""Tiny random models with a tiny tokenizer, saved as a user's folder is: no hub, no network."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers import models as tokenizer_models
from transformers import (
    AutoModelForCausalLM,
    DbrxConfig,
    DeepseekV3Config,
    GptOssConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    OlmoeConfig,
    OlmoeForCausalLM,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    Qwen3MoeConfig,
)

PAD, BOS, EOS, UNKNOWN = "<pad>", "<bos>", "<eos>", "<unk>"


@cache
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte: 4 special tokens and 256 others; any text round-trips."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: n for n, token in enumerate([PAD, BOS, EOS, UNKNOWN, *alphabet])}
    tokenizer = Tokenizer(tokenizer_models.BPE(vocab=vocabulary, merges=[], unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        unk_token=UNKNOWN,
        clean_up_tokenization_spaces=False,
    )


VOCABULARY = 260


def save_tiny_olmoe(
    folder: str | Path,
    *,
    layers: int = 2,
    experts: int = 8,
    top_k: int = 2,
    hidden: int = 32,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Path:
    """A random OLMoE of about 50 k parameters and its tokenizer, saved to `folder`."""
    torch.manual_seed(seed)
    config = OlmoeConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        intermediate_size=hidden // 2,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=2,
        num_experts=experts,
        num_experts_per_tok=top_k,
        norm_topk_prob=True,
        max_position_embeddings=512,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        # Wide enough that routers prefer some experts clearly: a flat router would hide wrong taps.
        initializer_range=0.2,
    )
    return save(OlmoeForCausalLM(config).to(dtype), folder)


def save_tiny_dense(folder: str | Path, *, seed: int = 0) -> Path:
    """A random dense Llama, which has no routed experts, saved to `folder`."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=512,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    return save(LlamaForCausalLM(config), folder)


def save_tiny(family: str, folder: str | Path, *, seed: int = 0) -> Path:
    """A random model of one of `tiny_configs` and its tokenizer, saved to `folder`."""
    torch.manual_seed(seed)
    build: Any = AutoModelForCausalLM
    return save(build.from_config(tiny_configs()[family]), folder)


_kept: list[TemporaryDirectory[str]] = []


@cache
def tiny_olmoe(
    *, layers: int = 2, experts: int = 8, top_k: int = 2, hidden: int = 32, seed: int = 0
) -> Path:
    """`save_tiny_olmoe` once per session and set of arguments; do not write into the folder."""
    _kept.append(TemporaryDirectory(prefix="tiny-olmoe-"))
    return save_tiny_olmoe(
        _kept[-1].name, layers=layers, experts=experts, top_k=top_k, hidden=hidden, seed=seed
    )


def tiny_configs() -> dict[str, PretrainedConfig]:
    """Configurations of one tiny model per routing style: name -> config for `from_config`."""
    common: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "initializer_range": 0.2,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    return {
        "olmoe": OlmoeConfig(**common, intermediate_size=16, num_experts=8, num_experts_per_tok=2),
        "qwen3_moe": Qwen3MoeConfig(
            **common | {"num_hidden_layers": 3},
            head_dim=16,
            intermediate_size=32,
            moe_intermediate_size=16,
            num_experts=8,
            num_experts_per_tok=2,
            mlp_only_layers=[1],
        ),
        "mixtral": MixtralConfig(
            **common, intermediate_size=16, num_local_experts=4, num_experts_per_tok=2
        ),
        "deepseek_v3": DeepseekV3Config(
            **common,
            intermediate_size=32,
            moe_intermediate_size=16,
            n_routed_experts=8,
            num_experts_per_tok=2,
            n_group=2,
            topk_group=1,
            first_k_dense_replace=1,
            q_lora_rank=16,
            kv_lora_rank=16,
            qk_rope_head_dim=8,
            qk_nope_head_dim=8,
            v_head_dim=16,
        ),
        "gpt_oss": GptOssConfig(
            **common,
            head_dim=16,
            intermediate_size=16,
            num_local_experts=8,
            num_experts_per_tok=2,
            sliding_window=16,
        ),
        # Experts flattened into the first dimension of 2-D tensors.
        "dbrx": DbrxConfig(
            vocab_size=VOCABULARY,
            d_model=32,
            n_heads=2,
            n_layers=2,
            max_seq_len=128,
            initializer_range=0.2,
            attn_config={"kv_n_heads": 2, "clip_qkv": 8, "rope_theta": 10_000.0},
            ffn_config={
                "hidden_size": 32,
                "ffn_hidden_size": 16,
                "moe_num_experts": 4,
                "moe_top_k": 2,
                "ffn_act_fn": {"name": "silu"},
            },
        ),
    }


def save(model: Any, folder: str | Path) -> Path:
    """A model of any kind and the tiny tokenizer, saved to `folder`."""
    folder = Path(folder)
    model.eval().save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder
