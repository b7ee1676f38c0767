"""What config.json must say before transformers is asked to build from it, and what it says of
experts.

transformers answers a damaged setting in its code's own words (`'str' object has no attribute
'to_dict'`), so the ones that are usually damaged are looked at first. Trade-off: settings are told
by the names that families commonly use; any other is left to transformers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from trace_engine.errors import ModelError

_SIZE = re.compile(
    r"(\w+_)?(hidden|intermediate|vocab)_size|(num|n)_(\w+_)?(layers|heads|experts)"
    r"|(num|n)_experts_per_tok(en)?|d_model|n_(embd|head|layer)s?"
)
_AT_LEAST_ONE = ("hidden_size", "vocab_size", "num_hidden_layers", "num_attention_heads")
_MOST = {
    re.compile(r"(\w+_)?layers?|depth"): 1_000,
    re.compile(r"(\w+_)?experts(_per_tok(en)?)?"): 100_000,
    re.compile(r"(\w+_)?heads?|head_dim"): 100_000,
    re.compile(r"(\w+_)?hidden_size|d_model|n_embd"): 1_000_000,
    re.compile(r"(\w+_)?intermediate_size"): 10_000_000,
    re.compile(r"(\w+_)?vocab_size"): 100_000_000,
}
"""Several times what any model has. The shell is a Python object a layer, often one an expert, and
a stranger's number decides how many are made."""
_DEPTH = ("num_hidden_layers", "num_layers", "n_layers", "n_layer")
_EXPERTS = re.compile(r"(\w+_)?(num|n)_(local_|routed_)?experts")
_MOST_EXPERTS = 100_000
"""In all layers together."""
_ROWS = ("doge",)
"""Families whose experts are rows of a table: half a million of them cost nothing."""
_PARTS = ("text_config", "quantization_config", "rope_parameters", "rope_scaling")
_TOP_K = (
    "num_experts_per_tok",
    "num_experts_per_token",
    "experts_per_token",
    "top_k_experts",
    "moe_top_k",
    "moe_topk",
    "moe_k",
)
_SHARED = re.compile(r"\w*(?<!kv_)shared?_(expert\w*|intermediate_size)|\w*num_shared_experts\w*")


def check_settings(source: str, settings: Mapping[str, Any]) -> None:
    """Refuse (ModelError), naming the setting, what no model can be built from."""
    for part, values in _levels(source, settings):
        for name, value in values.items():
            said = f"{source}: config.json says {part}{name} is {repr(value)[:40]}"
            if name in ("dtype", "torch_dtype") and not _is_dtype(value):
                raise ModelError(
                    f"{said}, which is no precision that torch knows. Write float32, bfloat16 or "
                    "float16, as the weights are."
                )
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                least = 1 if name in _AT_LEAST_ONE else 0
                # A NaN is no less than anything.
                if _SIZE.fullmatch(name) and not value >= least:
                    raise ModelError(f"{said}, and it must be {least} or more.")
    _refuse_absurd(source, "", settings)


def _refuse_absurd(source: str, part: str, settings: Mapping[str, Any]) -> None:
    """Refuse numbers from which building would take minutes and memory without end."""
    sizes = {
        name: value
        for name, value in settings.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    }
    for name, value in sizes.items():
        most = next((most for names, most in _MOST.items() if names.fullmatch(name)), None)
        if most is not None and value > most:
            raise ModelError(
                f"{source}: config.json says {part}{name} is {repr(value)[:40]}, and no model has "
                f"more than {most:,}. The file is damaged."
            )
    layers = max((sizes[name] for name in _DEPTH if name in sizes), default=1)
    experts = max((sizes[name] for name in sizes if _EXPERTS.fullmatch(name)), default=0)
    if layers * experts > _MOST_EXPERTS and settings.get("model_type") not in _ROWS:
        raise ModelError(
            f"{source}: config.json asks for {layers:,} layers of {experts:,} "
            f"experts, and no model has more than {_MOST_EXPERTS:,} in all. The file is damaged."
        )
    for name, value in settings.items():
        if isinstance(value, dict):
            _refuse_absurd(source, f"{part}{name}.", value)


def _levels(source: str, settings: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for name in _PARTS:
        if not isinstance(settings.get(name), (dict, type(None))):
            raise ModelError(
                f"{source}: config.json says {name} is {repr(settings[name])[:40]}, and settings "
                "in braces are expected. The file is damaged."
            )
    yield "", settings
    yield "text_config.", settings.get("text_config") or {}


def _is_dtype(value: Any) -> bool:
    if value is None or value == "auto":
        return True
    name = str(value).removeprefix("torch.")
    return isinstance(value, str) and isinstance(getattr(torch, name, None), torch.dtype)


def chosen_per_token(settings: Any) -> tuple[str, int] | None:
    """The setting that says how many experts a token chooses, and its value; None if unknown."""
    found = ((name, getattr(settings, name, None)) for name in _TOP_K)
    return next(((name, value) for name, value in found if isinstance(value, int)), None)


def shared_settings(settings: Any) -> dict[str, int]:
    """What a configuration says of shared experts: the names it has for number and width."""
    return {
        name: value
        for name, value in sorted(settings.to_dict().items())
        if _SHARED.fullmatch(name) and isinstance(value, int) and not isinstance(value, bool)
    }
