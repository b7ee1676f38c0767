"""A session's state as named tensors and plain JSON, so that a checkpoint needs no pickle.

Names are `trainable/<tensor>`, `optimizer/<parameter number>/<moment>` and `start/<what>`;
tensors are copies on the CPU, so that training on does not change a state already taken.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from trace_engine.errors import RunError

SCHEMA = 1


def snapshot(tensor: Tensor) -> Tensor:
    """A contiguous copy on the CPU that shares no memory."""
    return tensor.detach().to("cpu", copy=True).contiguous()


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The moments and step counts of every parameter, in the optimizer's own order."""
    return {
        f"optimizer/{number}/{key}": snapshot(value)
        for number, entry in optimizer.state_dict()["state"].items()
        for key, value in entry.items()
    }


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put moments back. Raises RunError when they are not those of this optimizer's parameters."""
    entries: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer/"):
            _, number, key = name.split("/")
            entries.setdefault(int(number), {})[key] = value.clone()
    head = optimizer.state_dict()
    count = sum(len(group["params"]) for group in head["param_groups"])
    # A parameter that never had a gradient has no moments yet.
    if entries and max(entries) >= count:
        raise RunError(
            f"The checkpoint holds optimizer moments of {max(entries) + 1} tensors or more, this "
            f"run trains {count}. Nothing was loaded; start a new run."
        )
    optimizer.load_state_dict({"state": entries, "param_groups": head["param_groups"]})


def under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose name starts with `prefix/`, without it."""
    start = f"{prefix}/"
    return {name[len(start) :]: value for name, value in tensors.items() if name.startswith(start)}


def check_same_settings(saved: Mapping[str, Any], current: Mapping[str, Any]) -> None:
    """Refuse a state taken under other settings, naming the first field that differs
    (RunError).
    """
    for field in sorted({*saved, *current}):
        before, now = saved.get(field), current.get(field)
        if before == now:
            continue
        if isinstance(before, dict) and isinstance(now, dict):
            inner = sorted(key for key in {*before, *now} if before.get(key) != now.get(key))[0]
            field, before, now = f"{field}.{inner}", before.get(inner), now.get(inner)
        raise RunError(
            f"The checkpoint was made with {field} = {before!r}, this run has {now!r}. Nothing "
            "was loaded; "
            f"resume with the same settings or start a new run."
        )
