"""Two tokens sent through a model, for what hooks on its routed blocks see of them.

On the meta device no value is known, and some families' masks and indexers ask for one; then their
routed blocks are run alone, because what a block does with a token's hidden state depends on
nothing else. Trade-off: such a block sees no real hidden state, so a probe tells shapes and calls,
never values.
"""

# Dims: B sequences, S tokens of one, D hidden

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from transformers import DynamicCache

from trace_engine.models.info import precision
from trace_engine.models.site import Site

NOT_WITHOUT_DATA = (NotImplementedError, RuntimeError, ValueError, TypeError, AttributeError)
"""What a forward on the meta device raises where something depends on values."""


class _Counts(TorchFunctionMode):
    """On the meta device, a list of numbers that is asked for is zeros (JetMoE's router sorts slots
    by expert and hands out how many each has)."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is Tensor.tolist and args[0].is_meta and args[0].ndim == 1:
            return [0] * len(args[0])
        return func(*args, **(kwargs or {}))


def asks_for_values(error: Exception) -> bool:
    """Whether a forward failed because the meta device has no values."""
    return isinstance(error, NotImplementedError) or "meta tensor" in str(error)


def send_tokens(model: Any, sites: Sequence[Site]) -> None:
    """Run two tokens through the model, or on the meta device at least through its sites' blocks.

    Raises what the forward raises when neither can run.
    """
    weight: Tensor = next(model.parameters())
    ids_BS = torch.zeros(1, 2, dtype=torch.long, device=weight.device)
    if not weight.is_meta:
        model(input_ids=ids_BS, use_cache=False)
        return
    text = model.config.get_text_config()
    try:
        # Without a cache, transformers looks for packed sequences in the values of the positions.
        model(input_ids=ids_BS, use_cache=True)
        return
    except NOT_WITHOUT_DATA as error:
        if not asks_for_values(error):
            raise
        first = error
    try:
        model(input_ids=ids_BS, past_key_values=DynamicCache(config=text))
        return
    except NOT_WITHOUT_DATA:
        pass  # the first error says more
    hidden_BSD = torch.zeros(1, 2, int(text.hidden_size), dtype=precision(model), device="meta")
    try:
        with _Counts():
            for site in sites:
                site.block(model)(hidden_BSD)
    except NOT_WITHOUT_DATA:
        raise first from None
