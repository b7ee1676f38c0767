"""Takes experts out of a model for a while, to see what hangs on them.

`drop` leaves the router alone and zeroes the experts' gate weights: exactly as if their
down-projection were zero. `reroute` keeps the router from choosing them, so that the next best
takes over; the gate weights are then what the router's own code makes of the new choice, and where
it normalises before choosing, the missing share stays missing. Evaluation only: routing may be
random in training mode. Trade-off: `reroute` changes what goes into `topk` and `max` inside the
router, and proves on every forward that it worked, instead of knowing each family's router.
"""

# Dims: T tokens, E experts of a site, K experts per token, N columns of a router (E and skip or
# identity experts)

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from trace_engine.config import Cell
from trace_engine.errors import InputError, ModelError
from trace_engine.models.info import OpenModel
from trace_engine.models.site import Site
from trace_engine.models.trainable import check_cells

MaskMode = Literal["drop", "reroute"]


@contextmanager
def mask_experts(
    model: OpenModel | Sequence[Site], cells: Sequence[Cell], mode: MaskMode = "drop"
) -> Iterator[None]:
    """Inside, the experts in `cells` take no part in any forward; afterwards nothing is left of it.

    Raises InputError for a cell the model does not have, for all experts of a layer, and, with
    `reroute`, where fewer experts are left than a token needs. Raises ModelError for a model in
    training mode, and on a forward whose router chose a masked expert all the same.
    """
    sites = model.sites if isinstance(model, OpenModel) else list(model)
    dead = check_cells(sites, cells)
    masked = [(site, dead[site.layer]) for site in sites if site.layer in dead]
    for site, experts in masked:
        if len(experts) == site.num_experts:
            raise InputError(
                f"All {site.num_experts} experts of layer {site.layer} would be masked. "
                "Leave at least one."
            )
        _refuse_training(site)
    if isinstance(model, OpenModel) and mode == "reroute":
        for site, experts in masked:
            _refuse_too_few(site, experts, model.info.experts_per_token[site.index])
    with ExitStack() as stack:
        choosing = stack.enter_context(_Choosing()) if mode == "reroute" and masked else None
        for site, experts in masked:
            if choosing is None:
                handle = site.watch(_dropper(site, experts))
                stack.callback(handle.remove)
            else:
                for router in site.routers:
                    stack.enter_context(choosing.inside(router, site, experts))
                handle = site.watch(_checker(site, experts, choosing))
                stack.callback(handle.remove)
        yield


def _dropper(site: Site, experts: list[int]) -> Callable[[Tensor, Tensor], Tensor]:
    def drop(index_TK: Tensor, weight_TK: Tensor) -> Tensor:
        _refuse_training(site)
        return weight_TK.masked_fill(_is_dead(index_TK, experts), 0)

    return drop


def _checker(
    site: Site, experts: list[int], choosing: _Choosing
) -> Callable[[Tensor, Tensor], None]:
    def check(index_TK: Tensor, weight_TK: Tensor) -> None:
        choosing.done()
        _refuse_training(site)
        _refuse_too_few(site, experts, index_TK.shape[-1])
        # A slot of gate weight 0 reaches no expert, so what its index says does not matter.
        if bool((_is_dead(index_TK, experts) & (weight_TK != 0)).any()):
            raise ModelError(
                f"{site.name}: its router chose a masked expert all the same (a fixed table, or "
                "groups with too few experts left), so it cannot be re-routed. Use mode drop."
            )

    return check


def _is_dead(index_TK: Tensor, experts: list[int]) -> Tensor:
    return torch.isin(index_TK, torch.tensor(experts, device=index_TK.device))


def _refuse_training(site: Site) -> None:
    if site.module.training:
        raise ModelError(
            f"{site.name} is in training mode, where routing may be random. Experts are masked in "
            "evaluation only: call model.eval() first."
        )


def _refuse_too_few(site: Site, experts: list[int], per_token: int) -> None:
    left = site.num_experts - len(experts)
    if left < per_token:
        raise InputError(
            f"Layer {site.layer}: {left} of {site.num_experts} experts would be left, and each "
            f"token is routed to {per_token}. Mask fewer, or use mode drop."
        )


class _Choosing(TorchFunctionMode):
    """While a masked router chooses, `topk` and `max` over its columns see −inf at dead experts."""

    def __init__(self) -> None:
        super().__init__()
        self._now: tuple[Site, list[int]] | None = None

    @contextmanager
    def inside(self, router: nn.Module, site: Site, experts: list[int]) -> Iterator[None]:
        def enter(*_: Any) -> None:
            self._now = (site, experts)

        before = router.register_forward_pre_hook(enter)
        # Also after an error inside it: a forward that fails may leave nothing behind.
        after = router.register_forward_hook(self.done, always_call=True)
        try:
            yield
        finally:
            before.remove()
            after.remove()

    def done(self, *_: Any) -> None:
        self._now = None

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if self._now is not None and args and _chooses(func, args, kwargs):
            args = (_without(args[0], *self._now), *args[1:])
        return func(*args, **kwargs)


def _chooses(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    scores = args[0]
    if not isinstance(scores, Tensor) or not scores.is_floating_point():
        return False
    if func in (torch.max, Tensor.max):
        # The largest of two tensors, or of all numbers, is no choice of a column.
        return isinstance(args[1] if len(args) > 1 else kwargs.get("dim"), int)
    return func in (torch.topk, Tensor.topk)


def _without(scores: Tensor, site: Site, experts: list[int]) -> Tensor:
    """The scores with −inf at dead experts, where the columns are a router's: (..., N), or
    (..., groups, E / groups)."""
    shape = scores.shape
    grouped = scores.ndim >= 3 and shape[-2] * shape[-1] == site.num_experts
    if not grouped and (scores.ndim < 2 or shape[-1] < site.num_experts):
        return scores
    flat = scores.flatten(-2) if grouped else scores
    rows = torch.tensor(experts, device=scores.device)
    return flat.index_fill(-1, rows, float("-inf")).reshape(shape)
