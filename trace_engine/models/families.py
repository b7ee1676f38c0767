"""Which transformers class opens a type of model, and which types with experts are refused, by name
and with the reason.

No list of what works is kept here: sites are found from modules, and docs/models.md is made by
testing every type. Trade-off: a type that only a multimodal class opens is opened whole, so its
image and sound towers take memory that text does not use.
"""

from __future__ import annotations

from typing import Any

from transformers import AutoModelForCausalLM, AutoModelForMultimodalLM
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES,
)

SEE = "docs/models.md lists the types that work."
"""What a refusal of a type points to."""
UNTAPPED = {
    "doge": "the router of its blocks (DogeCDMoE, model.layers.N.mlp.router_gate) retrieves "
    "experts by product keys, and there is no module of experts to tap",
    "diffusion_gemma": "it denoises blocks of text with an encoder (DiffusionGemmaEncoderModel) "
    "and a decoder (DiffusionGemmaDecoderModel) that both route",
    "qwen3_omni_moe": "its speaking half (Qwen3OmniMoeTalkerForConditionalGeneration) has no "
    "forward of its own; open its thinker instead",
}
"""Types with routed experts that cannot be mapped: model type -> why, naming the module."""


def loader_for(model_type: str) -> Any | None:
    """The Auto class that opens the type as a language model; None where there is none."""
    if model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return AutoModelForCausalLM
    if model_type in MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES:
        return AutoModelForMultimodalLM
    return None
