"""Opens a model through transformers and says what it is: sites, experts, precision, fingerprint.

A model that cannot serve is refused before its weights are loaded: its empty shell is built on the
meta device and searched for routed experts first. `experts_implementation: auto` follows a rule
measured once (below), never a measurement at run time, so that the same settings give the same
bits.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoTokenizer

from trace_engine.config import ModelConfig
from trace_engine.errors import ModelError
from trace_engine.models.families import SUPPORTED, UNTAPPED, loader_for
from trace_engine.models.files import ModelFiles, file_hashes, fingerprint, locate
from trace_engine.models.info import ModelInfo, OpenModel
from trace_engine.models.sites import Site, expert_parameters, experts_per_token, find_sites


def open_model(config: ModelConfig) -> OpenModel:
    """Load a model from a folder, a hub id or a `demo:` name, ready to be tapped.

    Raises ModelError, with a sentence of its own, for everything `inspect_model` refuses, and for
    weights that do not fit the architecture.
    """
    files = locate(config.source, config.revision)
    shell = _shell(files)
    device = _device(config.device)
    dtype = "auto" if config.dtype == "auto" else getattr(torch, config.dtype)
    experts = _experts_implementation(config, shell)
    model = _load(files, dtype, experts, device)
    model.eval()
    sites = find_sites(model)
    info = _describe(files, model, sites, str(device), experts)
    return OpenModel(model, _tokenizer(files, model), sites, info)


def inspect_model(config: ModelConfig) -> ModelInfo:
    """What a model is, without loading its weights: the shell is built on the meta device.

    Falls back to loading the model where its forward cannot run without data. Raises ModelError for
    a source that is missing, damaged, pickled, gated, offline or needs remote code (see
    `files.locate`), for an encoder-decoder, a dense model, and a family whose routing cannot be
    tapped.
    """
    files = locate(config.source, config.revision)
    shell = _shell(files)
    device = str(_device(config.device))
    experts = _experts_implementation(config, shell)
    sites = find_sites(shell)
    if config.dtype != "auto":
        shell = shell.to(getattr(torch, config.dtype))
    try:
        return _describe(files, shell, sites, device, experts)
    except (NotImplementedError, RuntimeError, ValueError, TypeError, AttributeError):
        # Some families' masks and caches depend on data, which the meta device has none of.
        return open_model(config).info


def backbone(model: Any) -> nn.Module:
    """The model without its `lm_head`: token ids in, last hidden states (B, S, D) out."""
    inner = model.base_model
    if inner is model and hasattr(model, "get_decoder"):
        inner = model.get_decoder().base_model  # a wrapper that holds a whole language model
    if not isinstance(inner, nn.Module) or inner is model:
        raise ModelError(
            f"{type(model).__name__} has no backbone that can run without its output head."
        )
    return inner


def _shell(files: ModelFiles) -> Any:
    source = files.source
    try:
        settings = AutoConfig.from_pretrained(files.folder, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"{source}: its config.json is refused by transformers ({_first(error)})."
        ) from None
    if getattr(settings, "is_encoder_decoder", False):
        raise ModelError(
            f"{source} is an encoder-decoder ({settings.model_type}). TRACE works on decoder-only "
            "language "
            f"models: {SUPPORTED}."
        )
    if settings.model_type in UNTAPPED:
        raise ModelError(
            f"{source} ({settings.model_type}) has routed experts, but TRACE cannot tap its "
            "routing yet: "
            f"{UNTAPPED[settings.model_type]}. Supported families: {SUPPORTED}."
        )
    build = loader_for(settings.model_type)
    if build is None:
        raise ModelError(
            f"{source} ({settings.model_type}) is not a causal language model. Supported families: "
            f"{SUPPORTED}."
        )
    try:
        with torch.device("meta"):
            shell = build.from_config(settings)
    except (ValueError, ImportError, RuntimeError, NotImplementedError, AttributeError) as error:
        raise ModelError(
            f"{source}: transformers cannot build this model ({_first(error)})."
        ) from None
    shell.eval()
    if not find_sites(shell):
        raise ModelError(_no_sites(source, settings))
    return shell


def _no_sites(source: str, settings: Any) -> str:
    text = settings.get_text_config() if hasattr(settings, "get_text_config") else settings
    counts = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
    declared = [
        name for name in counts if isinstance(v := getattr(text, name, None), int) and v > 1
    ]
    if declared:
        return (
            f"{source} ({settings.model_type}) declares {getattr(text, declared[0])} experts, but "
            "they are "
            f"laid out in a way TRACE does not know. Supported families: {SUPPORTED}."
        )
    return (
        f"No routed experts found in {source} ({settings.model_type}). "
        f"Supported families: {SUPPORTED}."
    )


def _experts_implementation(config: ModelConfig, shell: Any) -> str:
    """`auto`: `grouped_mm` wherever the architecture lets it be set, else the model's own `eager`.

    Measured on CPU (torch 2.13, one thread, OLMoE shapes, forward and backward, eager / grouped_mm
    in ms): 8 experts 11.5 / 9.1, 16: 61 / 58, 32: 87 / 60, 64: 343 / 90, 128: 871 / 143; hidden
    512, 32 experts: 6503 / 980. A bare forward favours eager by 20-30 % at 16 to 32 experts and
    grouped_mm from 64 on; one rule for both keeps a profile's bits those of the training.
    `batched_mm` is never taken by itself.
    """
    can_set = bool(type(shell)._can_set_experts_implementation())
    if config.experts_implementation == "auto":
        return "grouped_mm" if can_set else "eager"
    if config.experts_implementation != "eager" and not can_set:
        raise ModelError(
            f"{config.source}: {type(shell).__name__} has only its own experts code; set "
            "experts_implementation to auto or eager."
        )
    return config.experts_implementation


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ModelError(f"{name!r} is no device; expected auto, cpu, cuda, or cuda:1.") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ModelError(f"This machine has no device {name}; set device to cpu or auto.")
    return device


def _load(files: ModelFiles, dtype: Any, experts: str, device: torch.device) -> Any:
    options = {} if device.type == "cpu" else {"device_map": {"": device}}
    try:
        settings = AutoConfig.from_pretrained(files.folder, local_files_only=True)
        loader: Any = loader_for(settings.model_type)
        model, report = loader.from_pretrained(
            files.folder,
            dtype=dtype,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            experts_implementation=experts,
            **options,
        )
    except (OSError, ValueError, RuntimeError, ImportError, KeyError) as error:
        raise ModelError(
            f"{files.source}: transformers could not load the weights ({_first(error)})."
        ) from None
    missing = sorted(report["missing_keys"])
    mismatched = sorted(str(item[0]) for item in report["mismatched_keys"])
    if missing or mismatched:
        names = ", ".join([*missing, *mismatched][:3])
        raise ModelError(
            f"{files.source}: {len(missing)} tensors are missing and {len(mismatched)} have "
            "another shape than "
            f"config.json says ({names}). The weights do not belong to this configuration, or are "
            "incomplete."
        )
    return model


def _tokenizer(files: ModelFiles, model: Any) -> Any:
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            files.folder, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, ImportError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{files.source}: its tokenizer could not be opened ({_first(error)}). Put the "
            "tokenizer's files beside config.json."
        ) from None
    # Where the files are missing, transformers hands out a tokenizer without a vocabulary.
    if not tokenizer("text", add_special_tokens=False)["input_ids"]:
        raise ModelError(
            f"{files.source} has no usable tokenizer: it turns text into nothing. Put the "
            "tokenizer's files beside config.json."
        )
    rows = model.get_input_embeddings().num_embeddings
    if len(tokenizer) > rows:
        raise ModelError(
            f"{files.source}: its tokenizer has {len(tokenizer)} tokens and the model {rows}, so "
            "it belongs to another model."
        )
    return tokenizer


def _describe(
    files: ModelFiles, model: Any, sites: list[Site], device: str, experts: str
) -> ModelInfo:
    hashes = file_hashes(files)
    text = model.config.get_text_config()
    return ModelInfo(
        source=files.source,
        revision=files.revision,
        architecture=type(model).__name__,
        model_type=model.config.model_type,
        parameters=sum(p.numel() for p in model.parameters()),
        layers=tuple(site.layer for site in sites),
        num_experts=tuple(site.num_experts for site in sites),
        experts_per_token=experts_per_token(model, sites),
        expert_parameters=tuple(
            sum(p.numel() for p, _ in expert_parameters(site).values()) // site.num_experts
            for site in sites
        ),
        shared_experts=any(
            "shared" in name.rsplit(".", 1)[-1] for name, _ in model.named_modules()
        ),
        dtype=str(next(model.parameters()).dtype).removeprefix("torch."),
        device=device,
        experts_implementation=experts,
        vocab_size=int(text.vocab_size),
        fingerprint=fingerprint(hashes),
        files=hashes,
    )


def _first(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__
