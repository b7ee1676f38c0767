"""One routed block of experts and how to read it: what it chose, and with which gate weights.

Nearly every experts module takes `(hidden, chosen expert indices, gate weights)`, and reading those
two arguments is the base class here. What routes otherwise overrides `watch` (see
`models.adapters`), so that the tap, the masks and training know no family.
"""

# Dims: T tokens (B*S, row-major), E experts of a site, K experts per token, S some of a site's
# experts, P rows of the experts' input

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from trace_engine.errors import ModelError

OnChoice = Callable[[Tensor, Tensor], Tensor | None]
"""(index_TK int64, weight_TK) -> gate weights to use instead, or None to leave them. An index
>= E is a skip or identity expert."""


@dataclass(frozen=True, slots=True, eq=False)
class Site:
    """One routed block of experts: a row of every map."""

    index: int
    """Position among the model's sites, from 0."""
    layer: int
    """True decoder layer, as the model's own module names count it; dense layers leave gaps."""
    name: str
    """Dotted module name of the experts."""
    module: nn.Module
    """The module that computes the experts."""
    num_experts: int
    """Routed experts E; shared, identity and skip experts are not among them."""
    routers: tuple[nn.Module, ...]
    """The modules in whose forward the experts are chosen."""

    @property
    def layers_name(self) -> str:
        """Dotted name of the numbered list that holds the site's decoder layer."""
        parts = self.name.split(".")
        return ".".join(parts[: parts.index(str(self.layer))])

    @property
    def experts(self) -> dict[str, nn.Module]:
        """The modules that hold the experts' tensors and compute with them, by full name."""
        return {self.name: self.module}

    def block(self, model: nn.Module) -> nn.Module:
        """The module that takes hidden states, routes them and calls the experts."""
        return model.get_submodule(self.name.rpartition(".")[0])

    def watch(self, on_choice: OnChoice) -> RemovableHandle:
        """Call `on_choice` with what every forward chose, before the experts compute."""
        names = argument_names(self.module)

        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            bound = dict(zip(names, args, strict=False)) | kwargs
            index, weight = bound[names[1]], bound[names[2]]
            index_TK = index.reshape(-1, index.shape[-1]).long()
            flat = weight.reshape(-1, weight.shape[-1])
            changed_TK = on_choice(index_TK, self._at_slots(flat, index_TK))
            if changed_TK is None:
                return None
            if flat.shape != index_TK.shape:
                changed_TK = flat.scatter(1, index_TK, changed_TK)
            changed = changed_TK.reshape(weight.shape)
            # Faster experts code may name its arguments otherwise, so each stays as it came.
            if len(args) > 2:
                return (*args[:2], changed, *args[3:]), kwargs
            return args, kwargs | {names[2]: changed}

        return self.module.register_forward_pre_hook(hook, with_kwargs=True)

    def alone(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], experts_S: Tensor
    ) -> tuple[Tensor, tuple[Any, ...]]:
        """Of a call of one of `experts`, what is for these experts (rising numbers) alone.

        Returns rows_P of the hidden states, one a row of the output, and detached arguments with
        which a module of only these experts computes their share of those rows. There is at least
        one row: where nothing is routed to them, one with gate weight 0.
        """
        hidden, index, weight = self._three(module, args, kwargs)
        index_TK = index.reshape(-1, index.shape[-1])
        weight_TK = self._at_slots(weight.reshape(-1, weight.shape[-1]), index_TK.long())
        place_TK = torch.searchsorted(experts_S, index_TK.long()).clamp(max=len(experts_S) - 1)
        rows_P, slots_P = (experts_S[place_TK] == index_TK).nonzero(as_tuple=True)
        gate_P = weight_TK.detach()[rows_P, slots_P]
        place_P = place_TK[rows_P, slots_P]
        if not len(rows_P):
            rows_P, place_P = rows_P.new_zeros(1), place_P.new_zeros(1)
            gate_P = weight.detach().new_zeros(1)
        hidden_PD = hidden.detach().reshape(-1, hidden.shape[-1])[rows_P]
        return rows_P, (hidden_PD, place_P.to(index.dtype)[:, None], gate_P[:, None])

    def reaching(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], experts_S: Tensor
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Arguments of a call like this one, hidden states first, in which a token is routed to
        each of these experts and counts nowhere else."""
        hidden, index, weight = self._three(module, args, kwargs)
        index_TK, weight_T = (part.reshape(-1, part.shape[-1]) for part in (index, weight))
        token_S = torch.arange(len(experts_S), device=index.device) % len(index_TK)
        index_SK, none_S = index_TK[token_S], torch.zeros_like(weight_T[token_S])
        index_SK[:, 0] = experts_S
        # Scores of all experts have a column per expert, gate weights one per slot.
        scored = none_S.shape != index_SK.shape
        column_S1 = experts_S[:, None] if scored else torch.zeros_like(experts_S[:, None])
        weight_S = none_S.scatter(1, column_S1, 1.0)
        return (hidden.reshape(-1, hidden.shape[-1])[token_S], index_SK, weight_S), {}

    def _three(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Tensor, Tensor, Tensor]:
        names = argument_names(module)
        bound = dict(zip(names, args, strict=False)) | kwargs
        hidden, index, weight = (bound[name] for name in names[:3])
        return hidden, index, weight

    def _at_slots(self, weight: Tensor, index_TK: Tensor) -> Tensor:
        if weight.shape == index_TK.shape:
            return weight
        if weight.shape != (index_TK.shape[0], self.num_experts):
            raise ModelError(
                f"{self.name}: expected gate weights of shape {tuple(index_TK.shape)} like the "
                f"chosen indices, found {tuple(weight.shape)}. Its routing cannot be read."
            )
        # Some routers hand over scores of all experts; the chosen ones are the gate weights.
        return weight.gather(1, index_TK.clamp(max=self.num_experts - 1))


def argument_names(module: nn.Module) -> list[str]:
    """Names of the module's forward arguments, in order, without `self`."""
    return list(inspect.signature(type(module).forward).parameters)[1:]
