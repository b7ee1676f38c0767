"""What kind of router a model has, told from what it calls on its way to the experts.

Class and configuration names spell routers in dozens of ways; the calls between a router's entry
and its experts do not: softmax or sigmoid, before or after top-k, a bias added for the choice only,
groups. Trade-off: a router whose calls fit no pattern is `unknown`, with nothing guessed.
"""

# Dims: T tokens, E experts, G groups of experts

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from trace_engine.models.probe import NOT_WITHOUT_DATA, send_tokens
from trace_engine.models.site import Site
from trace_engine.models.sites import experts_skipped

UNKNOWN = "unknown"
_SCORES = ("softmax", "sigmoid", "softplus")
_ROUTER_NAMES = ("gate", "router")

Call = tuple[str, tuple[tuple[int, ...], ...]]
"""A function's name and the shapes of its tensor arguments."""


class _Recorder(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] | None = None

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if self.calls is not None:
            shapes = tuple(tuple(a.shape) for a in args if isinstance(a, Tensor))
            self.calls.append((getattr(func, "__name__", "").strip("_"), shapes))
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def router_kinds(model: Any, sites: Sequence[Site]) -> tuple[str, ...]:
    """Each site's kind of router, for example `softmax top-k` or `sigmoid top-k, chosen with a
    bias, from 4 of 8 groups`; `unknown` where it cannot be told.

    Runs two tokens through the model without its experts; on the meta device that costs no memory.
    """
    kinds = {site.index: UNKNOWN for site in sites}
    recorder = _Recorder()
    try:
        with ExitStack() as stack:
            for site in sites:
                stack.enter_context(_watched(model, site, recorder, kinds))
            stack.enter_context(recorder)
            send_tokens(model, sites)
    except NOT_WITHOUT_DATA:
        pass  # a type whose blocks cannot run alone either
    return tuple(kinds[site.index] for site in sites)


def _watched(model: Any, site: Site, recorder: _Recorder, kinds: dict[int, str]) -> ExitStack:
    """Record from the router's entry (or its block's) until it, or the experts, have the choice."""
    block = site.block(model)
    named = [
        module
        for name, module in block.named_children()
        if name in _ROUTER_NAMES or "router" in name
    ]
    entry = (*named, *site.routers, block)[0]

    def start(module: nn.Module, arguments: Any) -> None:
        recorder.calls = []

    def stop(*anything: Any) -> None:
        if recorder.calls is not None:
            kinds[site.index] = name_router(recorder.calls, site.num_experts)
        recorder.calls = None

    stack = ExitStack()
    stack.callback(entry.register_forward_pre_hook(start).remove)
    if any(entry is router for router in site.routers):
        # Reading such a router's choice takes calls of our own, which are not the router's.
        stack.callback(entry.register_forward_hook(stop).remove)
    stack.enter_context(experts_skipped(site, stop))
    return stack


def name_router(calls: Sequence[Call], num_experts: int) -> str:
    """The kind that these calls make; `unknown` without a score function and a choice."""
    names = [name for name, _ in calls]
    scores = [name for name in names if name in _SCORES]
    if not scores:
        return UNKNOWN
    score = "sqrt(softplus)" if scores[0] == "softplus" and "sqrt" in names else scores[0]
    if "topk" not in names:
        # Experts picked one after the other (Phi-3.5-MoE's sparse mixer takes maxima).
        return f"{score}, one maximum after the other" if "max" in names else UNKNOWN
    first = names.index(scores[0])
    last_choice = len(names) - 1 - names[::-1].index("topk")
    kind = f"top-k, then {score} over the chosen" if first > last_choice else f"{score} top-k"
    kind += ", chosen with a bias" if _has_bias(calls[:last_choice], num_experts) else ""
    groups = _groups(calls[: last_choice + 1])
    return kind + (f", in {groups} groups" if groups else "")


def _has_bias(calls: Sequence[Call], num_experts: int) -> bool:
    """Whether one number an expert is added before the choice (`e_score_correction_bias`)."""
    return any(
        name in ("add", "iadd", "add_") and any(_is_row(shape, num_experts) for shape in shapes)
        for name, shapes in calls
    )


def _is_row(shape: tuple[int, ...], num_experts: int) -> bool:
    # Identity experts have a bias too, so that a row may be longer than the routed experts.
    return bool(shape) and shape[-1] >= num_experts and math.prod(shape) == shape[-1]


def _groups(calls: Sequence[Call]) -> int | None:
    """Groups among which the router chooses first: a top-k over fewer columns than the last."""
    widths = [shapes[0][-1] for name, shapes in calls if name == "topk" and shapes and shapes[0]]
    inner = [width for width in widths[:-1] if width < widths[-1]]
    # Two choices come before the last: inside each group, then among the groups.
    return inner[-1] if len(widths) >= 3 and inner and inner[-1] > 1 else None
