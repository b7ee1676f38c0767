"""A model's decoder layers, found from where its routed blocks stand.

The numbered list that holds the first routed block is the decoder's, whatever it is called; dense
layers of it count too.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from trace_engine.errors import InputError
from trace_engine.models.info import OpenModel


def decoder_layers(opened: OpenModel) -> dict[int, str]:
    """Name of each decoder layer's module by its number: `{3: "model.layers.3", ...}`."""
    pattern = re.compile(re.escape(_stem(opened)) + r"(\d+)")
    names = (name for name, _ in opened.model.named_modules())
    found = {int(match[1]): match[0] for match in map(pattern.fullmatch, names) if match}
    return dict(sorted(found.items()))


def layers_of(opened: OpenModel, tensors: Iterable[str]) -> set[int]:
    """Decoder layers that these tensors lie in; those of no layer (embeddings, head) add none."""
    pattern = re.compile(re.escape(_stem(opened)) + r"(\d+)\.")
    return {int(match[1]) for match in map(pattern.match, tensors) if match}


def require_layer(layers: Collection[int], layer: int) -> None:
    """Raises InputError for a decoder layer that the model does not have."""
    if layer not in layers:
        known = ", ".join(map(str, layers))
        raise InputError(f"The model has no decoder layer {layer}. Its layers are {known}.")


def _stem(opened: OpenModel) -> str:
    site = opened.sites[0]
    parts = site.name.split(".")
    return "".join(f"{part}." for part in parts[: parts.index(str(site.layer))])
