"""Loading linear layers in 8 or 4 bits through bitsandbytes, an optional extra of this project; and
checkpoints that are stored quantised.

Routed experts are fused parameters, not linear layers, so they stay as they are, and so do routers
and the output head: what shrinks is attention, dense blocks and shared experts. Accepted cost: in
most MoE models the experts are nearly all of the weights, so the saving is small, and the memory
estimate says how small.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from torch import nn

from trace_engine.config import ModelConfig
from trace_engine.errors import ModelError
from trace_engine.models.files import ModelFiles, locate
from trace_engine.models.fit import first_line
from trace_engine.models.info import precision
from trace_engine.stored import form, why_no_training


def quantised_options(config: ModelConfig, shell: Any) -> dict[str, Any]:
    """Options of `from_pretrained`; empty without quantisation.

    Raises ModelError when the package is not installed.
    """
    if config.quantization == "none":
        return {}
    if find_spec("bitsandbytes") is None:
        raise ModelError(
            f"quantization {config.quantization} needs the package bitsandbytes, which is not "
            "installed here. Install the extra (pip install 'trace-moe[quantization]'), or set "
            "quantization to none."
        )
    from transformers import BitsAndBytesConfig

    make: Any = BitsAndBytesConfig
    kept = kept_linears(shell)
    if config.quantization == "8bit":
        settings = make(load_in_8bit=True, llm_int8_skip_modules=kept)
    else:
        settings = make(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=precision(shell),
            llm_int8_skip_modules=kept,
        )
    return {"quantization_config": settings}


def check_stored(files: ModelFiles) -> None:
    """Refuse (ModelError) a checkpoint whose own quantisation cannot be opened here: a method that
    transformers does not know, which it would ignore, or one whose package or device is missing."""
    stored = files.config.get("quantization_config")
    if stored is None:
        return
    from transformers.quantizers.auto import AutoHfQuantizer

    quantizer: Any = AutoHfQuantizer
    try:
        known = quantizer.supports_quant_method(stored)
        if known:
            quantizer.from_config(stored, pre_quantized=True).validate_environment(device_map=None)
    except Exception as error:  # each form's package is asked for in code of its own
        raise ModelError(
            f"{files.source} is stored as {form(files.config)[:40]}, and cannot be opened here: "
            f"{first_line(error)}. Install what it needs, or give the model that it was quantised "
            "from."
        ) from None
    if not known:
        raise ModelError(
            f"{files.source} is stored as {form(files.config)[:40]}, which this transformers does "
            "not know. Convert it, or install a version that does."
        )


def require_trainable(config: ModelConfig) -> None:
    """Refuse (ModelError), before a weight is read, a checkpoint that stays packed in memory."""
    files = locate(config.source, config.revision)
    reason = why_no_training(files.source, files.config)
    if reason is not None:
        raise ModelError(reason)


def stored_as(files: ModelFiles) -> str:
    """How the checkpoint packs its weights: `mxfp4`, `fp8`, ...; empty where it does not."""
    return form(files.config)


def unpacking_options(files: ModelFiles) -> dict[str, Any]:
    """Options of `from_pretrained` that unpack a checkpoint stored as MXFP4 or FP8, on any device.

    Packed experts can be neither masked nor trained. Accepted cost: a GPU that could keep them
    packed takes the memory of the unpacked weights too, which is what the estimate says.
    """
    from transformers.utils.quantization_config import FineGrainedFP8Config, Mxfp4Config

    make: Any = {"mxfp4": Mxfp4Config, "fp8": FineGrainedFP8Config}.get(stored_as(files))
    if make is None:
        return {}
    # transformers takes from it what concerns loading, and the rest from config.json.
    kept = files.config["quantization_config"].get("modules_to_not_convert")
    return {"quantization_config": make(dequantize=True, modules_to_not_convert=kept)}


def forget_unpacking(model: Any) -> None:
    """Let `save_pretrained` write what the model is, if it was unpacked while it was loaded.

    transformers undoes on saving the steps that loading took, so it would pack again, but without
    saying so in config.json. Without that record it takes the family's own steps.
    """
    if getattr(model, "hf_quantizer", None) is None:
        model._weight_conversions = None


def quantised_linears(model: Any) -> list[nn.Linear]:
    """The linear layers that quantisation replaces."""
    kept = set(kept_linears(model))
    return [
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name not in kept
    ]


def kept_linears(model: Any) -> list[str]:
    """Names of the linear layers that keep their precision: the head, and whatever routes."""
    head = model.get_output_embeddings()
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and (module is head or _routes(name))
    ]


def _routes(name: str) -> bool:
    # A router's own linear layer, or a part of one: rounding it would change who is chosen.
    return any(part in ("gate", "router") or "router" in part for part in name.split("."))


def bytes_saved(model: Any, quantization: str) -> tuple[int, int]:
    """Bytes of the replaced layers before and after; (0, 0) without quantisation."""
    if quantization == "none":
        return 0, 0
    weights = [module.weight for module in quantised_linears(model)]
    before = sum(w.numel() * w.element_size() for w in weights)
    numbers = sum(w.numel() for w in weights)
    return before, numbers if quantization == "8bit" else numbers // 2
