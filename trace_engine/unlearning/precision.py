"""What precisions may train, and mixed precision.

Mixed precision: training forwards in bfloat16 products, everything that decides in float32.

Weights, gradients, optimizer, losses and token weights keep their precision; autocast narrows the
operands of the model's products alone. What is measured (evaluations, probe, profiles) runs as the
saved model does, without it.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch

from trace_engine.errors import InputError, ModelError
from trace_engine.models import Encoded, OpenModel, collate

Mixed = Literal["none", "bfloat16"]


def mixed(precision: Mixed, device: torch.device) -> AbstractContextManager[Any]:
    """Around a forward that trains, or that one is compared with."""
    if precision == "none":
        return nullcontext()
    # A cached cast from a part without gradients would cut the graph of the next one.
    return torch.autocast(device.type, torch.bfloat16, cache_enabled=False)


def check_mixed(opened: OpenModel, document: Encoded, precision: Mixed) -> None:
    """Try one forward, so that code which cannot mix precisions is refused before the run.

    Raises ModelError with torch's reason.
    """
    if precision == "none":
        return
    batch = collate([document], [0]).to(opened.device)
    try:
        with torch.no_grad(), mixed(precision, opened.device):
            opened.model(**batch.inputs, use_cache=False)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise ModelError(
            f"{type(opened.model).__name__} cannot compute in mixed precision "
            f"({str(error).splitlines()[0].rstrip('.')}). Set mixed_precision to none."
        ) from None


def check_trains(opened: OpenModel) -> None:
    """Refuse a model in float16 (InputError).

    Its largest number is 65,504 and its gradients need loss scaling, which is not done here.
    """
    if any(p.dtype == torch.float16 for p in opened.model.parameters()):
        raise InputError(
            f"{opened.info.source} is in float16, whose range is too small to train in. Set dtype "
            "to float32 or bfloat16."
        )
