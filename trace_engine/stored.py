"""Checkpoints that are stored quantised: what their config.json says of it, and which can train.

Apart from `models`, so that a page or a command can refuse without loading torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

UNPACKED = ("fp8", "mxfp4")
"""Forms that are unpacked while loading, on any device, and can then be masked and trained."""
STAYS_PACKED = "its weights stay packed in memory, and packed weights cannot train"


def form(settings: Mapping[str, Any]) -> str:
    """How config.json says that the weights are packed (`mxfp4`, `gptq`, ...); empty where they are
    not."""
    stored = settings.get("quantization_config")
    return str(stored.get("quant_method", "quantised")) if isinstance(stored, Mapping) else ""


def stays_packed(settings: Mapping[str, Any]) -> bool:
    """Whether the weights are packed and stay so once they are loaded."""
    return form(settings) not in ("", *UNPACKED)


def why_no_training(source: str, settings: Mapping[str, Any]) -> str | None:
    """Why a model with this config.json cannot be trained, as a sentence; None where it can."""
    if not stays_packed(settings):
        return None
    return (
        f"{source} is stored as {form(settings)[:40]}: {STAYS_PACKED}. Give the model that it was "
        "quantised from, or profile and evaluate it only."
    )
