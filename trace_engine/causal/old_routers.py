"""One model routing by another's routers: what they choose by, copied, put in, and taken out again.

The experts stay those of the model that is open. It accepts that both models must name their
routers alike.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from trace_engine.errors import ModelError
from trace_engine.models import OpenModel
from trace_engine.models.parts import router_parameters


def router_tensors(opened: OpenModel) -> dict[str, Tensor]:
    """Copies of what the routers choose by: their weights, and the buffers beside them."""
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in _routers(opened).items()}


def _routers(opened: OpenModel) -> dict[str, Tensor]:
    parameters = router_parameters(opened.sites)
    found: dict[str, Tensor] = {}
    for prefix, module in opened.model.named_modules():
        own = dict(module.named_parameters(recurse=False))
        if any(parameter in parameters for parameter in own.values()):
            own |= dict(module.named_buffers(recurse=False))
            found |= {f"{prefix}.{name}": tensor for name, tensor in own.items()}
    return found


@contextmanager
def routers_of(opened: OpenModel, tensors: dict[str, Tensor]) -> Iterator[int]:
    """Inside, the model routes by these tensors; yields how many of them differ from its own.

    Raises ModelError where names or shapes do not fit.
    """
    own = _routers(opened)
    kept = router_tensors(opened)
    if {n: t.shape for n, t in own.items()} != {n: t.shape for n, t in tensors.items()}:
        raise ModelError("The two models' routers do not have the same tensors.")
    different = sum(not torch.equal(kept[name], tensors[name]) for name in own)
    try:
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(tensors[name])
        yield different
    finally:
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(kept[name])
