"""The chosen experts of a site as small modules of their own, so that backward forms the gradients
of their slices and of no whole tensor.

The site's own module, frozen, still computes every expert, the chosen ones too: the model's output
and what flows back to its inputs and router keep their bits. Beside it a module that holds only the
slices computes the tokens of the chosen experts once more, and takes only their gradient. Accepted
cost: those tokens are computed twice. Whether a family's code works with fewer experts is tried out
before training; where it does not, the whole gradient is formed, a tensor at a time.
"""

# Dims: S chosen experts, E experts of a site, P rows of the experts' input that are theirs, D
# width of a row

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from trace_engine.models.probe import send_tokens
from trace_engine.models.site import Site

_TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-4}
_COARSE = 0.02
_HOOKS = (
    "_backward_hooks",
    "_backward_pre_hooks",
    "_forward_hooks",
    "_forward_hooks_always_called",
    "_forward_hooks_with_kwargs",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
)
_UNFIT = (RuntimeError, AttributeError, TypeError, ValueError, IndexError, KeyError)
"""What experts raise that cannot compute with fewer of them, or with some of the tokens."""

Call = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass(slots=True)
class Slice:
    """The chosen experts of one fused tensor."""

    whole: nn.Parameter
    rows: Tensor
    """Row indices on dim 0, int64: the experts' rows, in expert order."""
    leaf: nn.Parameter
    """(len(rows), ...) copy that trains."""

    @torch.no_grad()
    def write_back(self) -> None:
        """Put the leaf's values into the tensor that the model computes with."""
        self.whole.index_copy_(0, self.rows, self.leaf.detach())


@dataclass(frozen=True, slots=True)
class Part:
    """The chosen experts of one of a site's modules."""

    site: Site
    module: nn.Module
    experts_S: Tensor
    """Their numbers, int64, rising."""
    slices: tuple[Slice, ...]

    def small(self) -> nn.Module:
        """The module with the leaves for its tensors: no copies, no hooks."""
        leaves: dict[nn.Parameter, nn.Parameter] = {s.whole: s.leaf for s in self.slices}
        return _reduced(self.module, leaves, self.site.num_experts, len(self.experts_S))


def train_slices(model: Any, parts: Sequence[Part]) -> tuple[list[RemovableHandle], list[str]]:
    """Let every backward fill the leaves' gradients; the handles end it.

    Names as well the sites where whole tensors' gradients have to be formed for it.
    """
    handles: list[RemovableHandle] = []
    whole: list[str] = []
    calls = _calls(model, parts)
    for part, call in zip(parts, calls, strict=True):
        small = part.small()
        if call is not None and _fits(part, small, call):
            hook = _beside(part, small)
            handles.append(part.module.register_forward_hook(hook, with_kwargs=True))
            continue
        whole.append(part.site.name)
        for piece in part.slices:
            piece.whole.requires_grad_(True)
            register: Any = piece.whole.register_post_accumulate_grad_hook
            handles.append(register(_gather_into(piece)))
    return handles, sorted(set(whole))


class _Joined(torch.autograd.Function):
    """The output as it is, whose gradient also goes to a part that was computed a second time."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, part_PD: Tensor, rows_P: Tensor) -> Tensor:
        ctx.save_for_backward(rows_P)
        # Some families add to the experts' output in place, which a view would refuse.
        return output.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        [gradient], [rows_P] = gradients, ctx.saved_tensors
        return gradient, gradient.reshape(-1, gradient.shape[-1])[rows_P], None


def _beside(part: Part, small: nn.Module) -> Callable[..., Any]:
    def hook(module: nn.Module, args: Any, kwargs: Any, output: Tensor) -> Tensor | None:
        if not torch.is_grad_enabled():
            return None
        rows_P, given = part.site.alone(module, args, kwargs, part.experts_S)
        part_PD = small(*given).reshape(-1, output.shape[-1])
        join: Any = _Joined.apply  # torch's own annotation has no types
        joined: Tensor = join(output, part_PD, rows_P)
        return joined

    return hook


def _gather_into(piece: Slice) -> Callable[[Tensor], None]:
    # At once, not after the whole backward: the layers' full gradients would not fit together.
    def gather(whole: Tensor) -> None:
        if whole.grad is None:
            return
        part = whole.grad.index_select(0, piece.rows)
        whole.grad = None
        piece.leaf.grad = part if piece.leaf.grad is None else piece.leaf.grad + part

    return gather


def _reduced(
    module: nn.Module, leaves: dict[nn.Parameter, nn.Parameter], experts: int, chosen: int
) -> nn.Module:
    small = copy.copy(module)
    inside = small.__dict__
    for name in _HOOKS:
        inside[name] = OrderedDict()
    for name, value in list(inside.items()):
        if type(value) is int and value == experts and "expert" in name:
            inside[name] = chosen
    inside["_parameters"] = {
        name: parameter if parameter is None else leaves.get(parameter, parameter)
        for name, parameter in module._parameters.items()
    }
    inside["_modules"] = {
        name: child if child is None else _reduced(child, leaves, experts, chosen)
        for name, child in module._modules.items()
    }
    return small


@torch.no_grad()
def _calls(model: Any, parts: Sequence[Part]) -> list[Call | None]:
    """How a forward of two tokens calls each part's module; None where none comes by."""
    seen: dict[nn.Module, Call] = {}

    def note(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        seen[module] = args, kwargs

    handles = [p.module.register_forward_hook(note, with_kwargs=True) for p in parts]
    try:
        with _evaluating(model):
            send_tokens(model, [part.site for part in parts])
    finally:
        for handle in handles:
            handle.remove()
    return [seen.get(part.module) for part in parts]


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def _fits(part: Part, small: nn.Module, call: Call) -> bool:
    """Whether the small module gives what the whole one does, and hangs on every leaf."""
    try:
        (hidden, *rest), kwargs = part.site.reaching(part.module, *call, part.experts_S)
        # Not the probe's own hidden states: those of a padding token may be 0, as is what follows.
        generator = torch.Generator().manual_seed(0)
        args = (torch.randn(hidden.shape, generator=generator).to(hidden), *rest)
        with torch.no_grad():
            output: Tensor = part.module(*args, **kwargs)
        rows_P, given = part.site.alone(part.module, args, kwargs, part.experts_S)
        with torch.enable_grad():
            part_PD: Tensor = small(*given).reshape(-1, output.shape[-1])
            leaves = [piece.leaf for piece in part.slices]
            gradients = torch.autograd.grad(part_PD.sum(), leaves, allow_unused=True)
        flat = output.reshape(-1, output.shape[-1])
        added = torch.zeros_like(flat).index_add_(0, rows_P, part_PD.detach())[rows_P]
        apart = torch.linalg.vector_norm((added - flat[rows_P]).double())
        size = torch.linalg.vector_norm(flat[rows_P].double())
        tolerance = _TOLERANCE.get(output.dtype, _COARSE)
    except _UNFIT:
        return False
    return all(g is not None for g in gradients) and bool(apart <= tolerance * size)
