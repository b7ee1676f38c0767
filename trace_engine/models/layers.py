"""A model's decoder layers, found from where its routed blocks stand.

The numbered list that holds the first routed block is the decoder's, whatever it is called; dense
layers of it count too.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from trace_engine.errors import InputError
from trace_engine.models.info import OpenModel
from trace_engine.models.site import Site


def decoder_layers(opened: OpenModel) -> dict[int, str]:
    """Name of each decoder layer's module by its number: `{3: "model.layers.3", ...}`."""
    return layer_names(opened.model, opened.sites)


def layer_names(model: Any, sites: Sequence[Site]) -> dict[int, str]:
    """As `decoder_layers`, of a model that need not be loaded."""
    pattern = re.compile(re.escape(_stem(sites)) + r"(\d+)")
    names = (name for name, _ in model.named_modules())
    found = {int(match[1]): match[0] for match in map(pattern.fullmatch, names) if match}
    return dict(sorted(found.items()))


def layers_of(opened: OpenModel, tensors: Iterable[str]) -> set[int]:
    """Decoder layers that these tensors lie in; those of no layer (embeddings, head) add none."""
    pattern = re.compile(re.escape(_stem(opened.sites)) + r"(\d+)\.")
    return {int(match[1]) for match in map(pattern.match, tensors) if match}


def require_layer(layers: Collection[int], layer: int) -> None:
    """Raises InputError for a decoder layer that the model does not have."""
    if layer not in layers:
        known = ", ".join(map(str, layers))
        raise InputError(f"The model has no decoder layer {layer}. Its layers are {known}.")


def _stem(sites: Sequence[Site]) -> str:
    return f"{sites[0].layers_name}."
