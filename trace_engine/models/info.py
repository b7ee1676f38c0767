"""What an opened model is, for people and for JSON, and the opened model itself.

Apart from `models.open`: what trains, taps or profiles a model need not know how it was found.
"""

# Dims: E experts of a site, K experts per token

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from trace_engine.models.site import Site


def precision(model: Any) -> torch.dtype:
    """What the model computes in: its token embeddings' precision, because the first of its tensors
    may be a tower's that its family keeps in float32."""
    dtype: torch.dtype = model.get_input_embeddings().weight.dtype
    return dtype


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a model is, as numbers and names; `to_dict` is plain JSON."""

    source: str
    """As the user named it."""
    revision: str | None
    """Commit of a hub model; None for a folder."""
    architecture: str
    model_type: str
    parameters: int
    layers: tuple[int, ...]
    """True decoder layer of each site."""
    num_experts: tuple[int, ...]
    """E of each site."""
    experts_per_token: tuple[int, ...]
    """K of each site, off the index tensor; skip and identity slots included."""
    expert_parameters: tuple[int, ...]
    """Parameters of one routed expert of each site; 0 where they cannot be told apart."""
    shared_experts: bool | None
    """Whether experts that every token visits stand beside the routed ones (found by module name).
    """
    dtype: str
    device: str
    """`cpu`, a GPU, or `spread` over several and main memory."""
    experts_implementation: str
    """What multiplies the experts: `eager`, `grouped_mm`, `batched_mm`."""
    vocab_size: int
    fingerprint: str
    """SHA-256 over the hashes of weights, config and tokenizer files."""
    files: dict[str, str]
    """SHA-256 of each of those files."""
    quantization: str = "none"
    """Of the linear layers outside the routed experts: `none`, `8bit`, `4bit`."""
    stored_as: str = ""
    """How the checkpoint packs its weights (`mxfp4`, `fp8`, ...); empty where it does not. Those
    two are unpacked to `dtype` while loading, and a trained model is saved in `dtype`."""
    router_parameters: tuple[int, ...] = ()
    """Parameters that score the experts of each site; 0 where they cannot be told apart."""
    layer_parameters: dict[int, int] = field(default_factory=dict)
    """Parameters of each decoder layer, dense layers too."""
    lora_parameters_per_rank: int = 0
    """Parameters of LoRA adapters of rank 1; 0 where adapters do not fit."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {
            "layers": list(self.layers),
            "num_experts": list(self.num_experts),
            "experts_per_token": list(self.experts_per_token),
            "expert_parameters": list(self.expert_parameters),
            "router_parameters": list(self.router_parameters),
            "layer_parameters": {str(n): size for n, size in self.layer_parameters.items()},
        }


@dataclass(slots=True)
class OpenModel:
    """A loaded model, its tokenizer, and where it routes. In eval mode, gradients as loaded."""

    model: Any
    """A transformers causal language model."""
    tokenizer: Any
    sites: list[Site]
    info: ModelInfo

    @property
    def device(self) -> torch.device:
        device: torch.device = next(self.model.parameters()).device
        return device
