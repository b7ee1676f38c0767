"""Which tensors of a model are routers, fused experts, attention, and how many numbers they have.

Asked of a loaded model or of its outline: nothing here looks at a value.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from trace_engine.errors import ModelError
from trace_engine.models.layers import layer_names
from trace_engine.models.site import Site
from trace_engine.models.sites import expert_parameters


def router_parameters(sites: Sequence[Site]) -> set[nn.Parameter]:
    """Every tensor that scores the experts for a token, with its bias.

    Told by shape, not by name: a matrix of one row per expert, outside the experts. Raises
    ModelError where a site has none.
    """
    found: set[nn.Parameter] = set()
    for site in sites:
        experts = {module for part in site.experts.values() for module in part.modules()}
        own: set[nn.Parameter] = set()
        for module in (m for router in site.routers for m in router.modules()):
            tensors = list(module.parameters(recurse=False))
            scores = any(p.ndim == 2 and p.shape[0] == site.num_experts for p in tensors)
            if scores and module not in experts:
                own.update(tensors)
        if not own:
            raise ModelError(
                f"{site.name}: its router cannot be told from the rest of its block, so it can "
                "neither be kept frozen nor train by itself. Train only the selected experts, or "
                "all parameters with freeze_routers false."
            )
        found |= own
    return found


def fused_names(site: Site) -> list[str]:
    """The site's tensors of three dimensions, experts on dim 0: what LoRA's adapters fit."""
    return [name for name, (parameter, _) in expert_parameters(site).items() if parameter.ndim == 3]


def attention_linears(model: nn.Module) -> list[str]:
    """Names of the attention's plain linear layers: where LoRA's other adapters go."""
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and any("att" in part for part in name.split(".")[:-1])
        # A family's own kind of linear layer (DeepSeek-V4's is grouped) is no plain product.
        and not type(module).__module__.startswith("transformers.models.")
        # PEFT takes an attention's output gate of this name for half of the experts' projection.
        and name.rsplit(".", 1)[-1] != "gate_proj"
    ]


def expert_size(site: Site) -> int:
    """Numbers in one routed expert; 0 where experts cannot be told apart in storage.

    By rows, because a tensor may hold more than the experts that can be chosen (identity experts).
    """
    return sum(rows * parameter[0].numel() for parameter, rows in expert_parameters(site).values())


def router_size(site: Site) -> int:
    """Numbers in a site's router; 0 where it cannot be told from the rest of its block."""
    try:
        return sum(p.numel() for p in router_parameters([site]))
    except ModelError:
        return 0


def layer_sizes(model: nn.Module, sites: Sequence[Site]) -> dict[int, int]:
    """Numbers in each decoder layer, dense ones too."""
    return {
        layer: sum(p.numel() for p in model.get_submodule(name).parameters())
        for layer, name in layer_names(model, sites).items()
    }


def lora_size(model: nn.Module, sites: Sequence[Site]) -> int:
    """Numbers in LoRA adapters of rank 1 on attention and experts; 0 where they do not fit.

    An adapter of rank r has r rows of its input and r columns of its output, per expert.
    """
    fused = [fused_names(site) for site in sites]
    if not all(fused):
        return 0
    found = 0
    for name in attention_linears(model):
        linear = model.get_submodule(name)
        assert isinstance(linear, nn.Linear)
        found += linear.in_features + linear.out_features
    for name in (name for names in fused for name in names):
        experts, *sides = model.get_parameter(name).shape
        found += experts * sum(sides)
    return found
