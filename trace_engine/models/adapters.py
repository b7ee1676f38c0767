"""Sites of the two families whose experts are not called with chosen indices.

Both are recognised by what their modules take and hold, and turn what their own router hands out
into the same `(index_TK, weight_TK)` as everywhere else. Trade-off: they lean on the layout of the
router's output, so a change of it in transformers shows as a failing conformance test.
"""

# Dims: T tokens, E experts, K experts per token, P = T*K slots sorted by expert, S some experts

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from trace_engine.models.site import OnChoice, Site, argument_names


@dataclass(frozen=True, slots=True, eq=False)
class ScoredSite(Site):
    """Llama 4: every expert computes every token, scaled by a score that is 0 unless chosen.

    There is no bias, so a token scaled by 0 adds exactly nothing.
    """

    def watch(self, on_choice: OnChoice) -> RemovableHandle:
        [router] = self.routers

        def hook(module: Any, args: Any, output: tuple[Tensor, Tensor]) -> Any:
            scores_TE, logits_TE = output
            # The router's own top-k is gone by now, but its scores are 0 everywhere else.
            weight_TK, index_TK = scores_TE.topk(module.top_k, dim=1)
            changed_TK = on_choice(index_TK, weight_TK)
            if changed_TK is None:
                return None
            return scores_TE.scatter(1, index_TK, changed_TK), logits_TE

        return router.register_forward_hook(hook)

    def alone(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], experts_S: Tensor
    ) -> tuple[Tensor, tuple[Any, ...]]:
        [hidden] = (*args, *kwargs.values())
        tokens = hidden.shape[0] // self.num_experts
        row_T = torch.arange(tokens, device=hidden.device)
        row_ST = experts_S[:, None] * tokens + row_T
        return row_ST.flatten(), (hidden.detach()[row_ST.flatten()],)

    def reaching(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], experts_S: Tensor
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return (*args, *kwargs.values()), {}

    @staticmethod
    def fits(module: nn.Module, parent: nn.Module) -> bool:
        """Fused experts that take the tokens alone, beside a router that knows its top-k."""
        return (
            len(argument_names(module)) == 1
            and isinstance(getattr(module, "num_experts", None), int)
            and any(p.ndim == 3 for p in module.parameters(recurse=False))
            and hasattr(getattr(parent, "router", None), "top_k")
        )


@dataclass(frozen=True, slots=True, eq=False)
class SortedSite(Site):
    """JetMoE: the router sorts the slots by expert, and the experts see how many belong to each."""

    def block(self, model: nn.Module) -> nn.Module:
        return self.module

    @property
    def experts(self) -> dict[str, nn.Module]:
        return {
            f"{self.name}.{name}": module
            for name, module in self.module.named_children()
            if takes_sizes(module)
        }

    def watch(self, on_choice: OnChoice) -> RemovableHandle:
        [router] = self.routers

        def hook(module: Any, args: Any, output: tuple[Any, ...]) -> Any:
            slot_P, token_P, gate_P, sizes, logits_TE = output
            tokens = logits_TE.shape[0]
            numbers_E = torch.arange(len(sizes), device=slot_P.device)
            sizes_E = torch.tensor(sizes, device=slot_P.device)
            expert_P = numbers_E.repeat_interleave(sizes_E, output_size=len(slot_P))
            index_TK = torch.empty_like(slot_P).scatter(0, slot_P, expert_P).reshape(tokens, -1)
            weight_TK = torch.empty_like(gate_P).scatter(0, slot_P, gate_P).reshape(tokens, -1)
            changed_TK = on_choice(index_TK, weight_TK)
            if changed_TK is None:
                return None
            return slot_P, token_P, changed_TK.flatten()[slot_P], sizes, logits_TE

        return router.register_forward_hook(hook)

    def alone(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], experts_S: Tensor
    ) -> tuple[Tensor, tuple[Any, ...]]:
        input_PD, sizes = (*args, *kwargs.values())
        ends = list(accumulate(sizes, initial=0))
        rows = [row for e in experts_S.tolist() for row in range(ends[e], ends[e + 1])]
        rows_P = torch.tensor(rows, dtype=torch.long, device=input_PD.device)
        chosen = [sizes[e] for e in experts_S.tolist()]
        return rows_P, (input_PD.detach()[rows_P], chosen)

    def reaching(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], experts_S: Tensor
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        input_PD, sizes = (*args, *kwargs.values())
        row_S = torch.arange(len(experts_S), device=input_PD.device) % len(input_PD)
        chosen = set(experts_S.tolist())
        return (input_PD[row_S], [int(e in chosen) for e in range(len(sizes))]), {}

    @staticmethod
    def fits(module: nn.Module) -> bool:
        """A block with a router whose own children take slots sorted by expert."""
        return hasattr(module, "router") and any(takes_sizes(m) for m in module.children())


def takes_sizes(module: nn.Module) -> bool:
    """Whether the module computes slots sorted by expert, given how many belong to each."""
    return argument_names(module)[1:] == ["expert_size"]
