"""Float32 masters of weights that are narrower: what the optimizer moves, rounded into the model.

bfloat16 has 8 bits of mantissa, so an update below 1/512 of a weight would be rounded away, and at
usual learning rates nearly all are. Weights in float32 are their own masters, and nothing about
them changes. Cost: 12 bytes for every narrow number that trains, where moments in its own
precision would take 4. Source: Micikevicius et al., "Mixed Precision Training", 2018, section 3.1.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from trace_engine.errors import RunError


class Masters:
    """Per update: backward, `take_gradients`, clip and step over `leaves`, `give_weights`."""

    def __init__(self, names: Sequence[str], parameters: Sequence[nn.Parameter]) -> None:
        self._pairs: dict[str, tuple[nn.Parameter, nn.Parameter]] = {}
        self.leaves: list[nn.Parameter] = []
        """What to hand to the optimizer and to gradient clipping."""
        for name, parameter in zip(names, parameters, strict=True):
            leaf = parameter
            if parameter.dtype.itemsize < torch.float32.itemsize:
                leaf = nn.Parameter(parameter.detach().to(torch.float32, copy=True))
                self._pairs[name] = parameter, leaf
            self.leaves.append(leaf)

    @property
    def numbers(self) -> int:
        """Numbers that have a master beside them."""
        return sum(leaf.numel() for _, leaf in self._pairs.values())

    def take_gradients(self) -> None:
        """Move the weights' gradients to their masters; none stays none."""
        for parameter, leaf in self._pairs.values():
            leaf.grad = None if parameter.grad is None else parameter.grad.float()
            parameter.grad = None

    @torch.no_grad()
    def give_weights(self) -> None:
        """Round the masters into the weights."""
        for parameter, leaf in self._pairs.values():
            parameter.copy_(leaf)

    def tensors(self) -> dict[str, Tensor]:
        """The masters by name, detached and not copied: for a checkpoint."""
        return {name: leaf.detach() for name, (_, leaf) in self._pairs.items()}

    def require(self, tensors: Mapping[str, Tensor]) -> None:
        """Raise RunError unless these are masters of the same weights."""
        if set(tensors) != set(self._pairs):
            raise RunError(
                "The checkpoint has no float32 masters of its narrower weights: a version of TRACE "
                "before them made it, and going on would be another run. Nothing was loaded; start "
                "a new run."
            )

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take masters as `tensors` gave them."""
        self.require(tensors)
        for name, (_, leaf) in self._pairs.items():
            leaf.copy_(tensors[name])
