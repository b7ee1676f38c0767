"""Ways in which a checkpoint's weights do not fit its configuration, for any type of model."""

from __future__ import annotations

import re
from collections.abc import Callable

import torch
from torch import Tensor

Tensors = dict[str, Tensor]
_LAYER = re.compile(r"(?P<list>.*?)\.(?P<layer>\d+)\.(?P<rest>.+)")
_ROUTED = re.compile(r"(?!.*shared).*(experts\.|output_linear|\.moe\.(gate|up|down)_proj)")


def _last_layer(tensors: Tensors) -> tuple[str, int]:
    """Name of the list of decoder layers as the file spells it, and its last number."""
    found = [at for name in tensors if _ROUTED.match(name) and (at := _LAYER.fullmatch(name))]
    [name] = {at["list"] for at in found}
    at_list = [at for key in tensors if (at := _LAYER.fullmatch(key)) and at["list"] == name]
    return name, max(int(at["layer"]) for at in at_list)


def _expert(tensors: Tensors) -> str:
    """A routed expert's matrix, of the last expert where experts are stored one by one."""
    return max(n for n, t in tensors.items() if _ROUTED.match(n) and t.ndim >= 2)


def _norm(tensors: Tensors) -> str:
    return next(name for name in sorted(tensors) if "norm" in name)


def a_layer_too_many(tensors: Tensors) -> None:
    name, last = _last_layer(tensors)
    for key in [key for key in tensors if key.startswith(f"{name}.{last}.")]:
        tensors[key.replace(f"{name}.{last}.", f"{name}.{last + 1}.", 1)] = tensors[key].clone()


def no_norm(tensors: Tensors) -> None:
    del tensors[_norm(tensors)]


def a_longer_norm(tensors: Tensors) -> None:
    name = _norm(tensors)
    tensors[name] = torch.cat([tensors[name], tensors[name]])


def no_expert(tensors: Tensors) -> None:
    del tensors[_expert(tensors)]


def a_narrower_expert(tensors: Tensors) -> None:
    name = _expert(tensors)
    tensors[name] = tensors[name][..., :-1].clone()


def a_tensor_too_many(tensors: Tensors) -> None:
    name, last = _last_layer(tensors)
    tensors[f"{name}.{last}.unheard_of.weight"] = torch.zeros(3)


MISFITS: dict[str, tuple[Callable[[Tensors], None], str]] = {
    "a layer too many": (a_layer_too_many, "of layers that there are not"),
    "no norm": (no_norm, "1 missing"),
    "a longer norm": (a_longer_norm, "1 of another shape"),
    # Where a matrix is stored as two halves, one half is no whole.
    "no expert": (no_expert, "1 missing|1 of another shape .*experts"),
    "a narrower expert": (a_narrower_expert, "1 of another shape|make up .*experts.*fit together"),
    "a tensor too many": (a_tensor_too_many, "1 that the model has no place for"),
}
"""What is done to the tensors -> how, and what the refusal says of it."""
