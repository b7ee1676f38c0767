"""How much memory a model needs, told from its shell on the meta device, against what is free.

Weights are exact: parameters times bytes. What training adds and what a batch takes are estimates,
and are called so wherever they are shown. Trade-off: free memory is read once, before loading, so
another process may take it meanwhile.
"""

# Dims: T tokens of a batch, K experts per token, D hidden, I width inside an expert or a layer

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import psutil  # type: ignore[import-untyped]
import torch
from torch import nn

from trace_engine.config import ModelConfig, ProfileConfig
from trace_engine.errors import ModelError
from trace_engine.exhaustion import ran_out
from trace_engine.limits import address_room, container_room
from trace_engine.models.info import precision
from trace_engine.models.quantised import bytes_saved
from trace_engine.models.site import Site
from trace_engine.models.sites import expert_parameters
from trace_engine.spelling import size

TOKENS_PER_BATCH = int(ProfileConfig.model_fields["tokens_per_batch"].default)
_LOADERS_ADDRESSES = 256 * 2**20
"""Address space that loading's threads take for stacks and heaps (measured: 186 and 218 MiB)."""


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """Bytes that a model takes; `weights` and `experts` are exact, the others are estimates."""

    weights: int
    experts: int
    """Of the weights: the routed experts."""
    quantised: int
    """Of the weights: what is stored in 8 or 4 bits."""
    loading: int
    """Largest moment while loading: the weights, and one layer's experts a second time, because
    checkpoints keep them one by one (measured: 1,671 MiB for 1,601 MiB of weights). Of weights that
    stay packed, their files."""
    training: int
    """Weights, gradients and AdamW's two moments, when every parameter trains; activations come on
    top."""
    batch: int
    """Activations of one profiling batch of `tokens` tokens, on top of the weights."""
    tokens: int
    """Padded tokens of that batch."""
    precision: str
    """Of the weights: `float32`, `bfloat16`, `float16`."""
    mapped: int = 0
    """The weights' files, which are mapped while loading: address space, not memory."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Machine:
    """Memory that is free now, in bytes."""

    main: int
    devices: tuple[int, ...] = ()
    """Of each GPU."""
    addresses: int | None = None
    """Address space that this process may still take (`ulimit -v`); None: no limit."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"devices": list(self.devices)}


def memory_need(
    model: nn.Module,
    sites: Sequence[Site],
    experts_per_token: Sequence[int],
    *,
    quantization: str = "none",
    tokens: int = TOKENS_PER_BATCH,
    mapped: int = 0,
    packed: bool = False,
) -> MemoryNeed:
    """What the model takes in the precision that its (possibly meta) parameters have; `packed`
    weights load as they lie in their files (`mapped` bytes).

    Per batch (estimate): T x (8 D + max(dense I, 3 K (I + D))) numbers of the weights' precision:
    the residual stream and attention's parts, and the widest block's inside; the output head is not
    run while profiling. Measured on an OLMoE shape (D 512, I 512, K 8, float32): 904 and 821 MiB at
    64 x 128 and 16 x 512 tokens, estimated 896; 187 MiB at 2,048 tokens, estimated 224.
    """
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    weights += sum(b.numel() * b.element_size() for b in model.buffers())
    per_site = [
        sum(p.numel() * p.element_size() for p, _ in expert_parameters(site).values())
        for site in sites
    ]
    training = sum(4 * p.numel() * p.element_size() for p in model.parameters())
    full, quantised = bytes_saved(model, quantization)
    weights += quantised - full
    return MemoryNeed(
        weights=weights,
        experts=sum(per_site),
        quantised=quantised,
        loading=mapped if packed else weights + max(per_site, default=0),
        training=training,
        batch=tokens * _numbers_per_token(model, sites, experts_per_token) * _item_size(model),
        tokens=tokens,
        precision=str(precision(model)).removeprefix("torch."),
        mapped=mapped,
    )


def machine_memory() -> Machine:
    """Free memory of this machine, or of the container that the process is in when that is less."""
    main = min([int(psutil.virtual_memory().available), *container_room()])
    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else range(0)
    free = tuple(int(torch.cuda.mem_get_info(n)[0]) for n in devices)
    return Machine(main, free, address_room())


def free_on(machine: Machine, device: str) -> int:
    """Bytes free where `device` (`cpu`, `cuda:1`, or `spread`) puts the weights."""
    if device == "cpu":
        return machine.main
    if device == "spread":
        return machine.main + sum(machine.devices)
    index = torch.device(device).index or 0
    return machine.devices[index] if index < len(machine.devices) else 0


def require_memory(source: str, need: MemoryNeed, device: str, config: ModelConfig) -> None:
    """Raise ModelError, before any weight is read, when the weights cannot fit on `device`."""
    problem = too_little(source, need, device, config, machine_memory())
    if problem is not None:
        raise ModelError(f"{problem} Nothing was read.")


def too_little(
    source: str, need: MemoryNeed, device: str, config: ModelConfig, machine: Machine
) -> str | None:
    """Why loading would fail for want of memory and what to lower; None where there is enough."""
    addresses = need.loading + need.mapped + _LOADERS_ADDRESSES
    if device == "cpu" and machine.addresses is not None and addresses > machine.addresses:
        return (
            f"{source} needs about {size(addresses)} of address space to load its weights, and "
            f"this process's limit (ulimit -v) leaves {size(machine.addresses)}: raise the limit."
        )
    free = free_on(machine, device)
    if need.loading <= free:
        return None
    place = {"cpu": "this machine has", "spread": "this machine's GPUs and main memory have"}.get(
        device, f"{device} has"
    )
    return (
        f"{source} needs about {size(need.loading)} of memory to load its weights, and {place} "
        f"{size(free)} free: {_lower(config, need, device)}."
    )


@contextmanager
def enough_memory(
    source: str, need: MemoryNeed, device: str, config: ModelConfig, *, running: str = ""
) -> Iterator[None]:
    """Around what takes memory: where it runs out all the same, one sentence (ModelError).

    `running` names a forward in words, for example `profiling`; empty: the weights are loaded.
    """
    machine = machine_memory()
    free = _bytes_left(machine, device)
    try:
        yield
    except (MemoryError, RuntimeError, OSError) as error:
        if not ran_out(error):
            raise
        if running:
            what = f"{running}, where a batch of {need.tokens:,} tokens takes about"
            ways = f"lower tokens_per_batch or max_length, {_lower(config, need, device)}"
            asked = need.batch
        else:
            what, ways = "loading its weights, which takes about", _lower(config, need, device)
            asked = need.loading
        if free < free_on(machine, device):
            ways = f"raise this process's limit (ulimit -v), {ways}"
        raise ModelError(
            f"{source}: memory ran out while {what} {size(asked)}; {size(free)} were free on "
            f"{device} before: {ways}."
        ) from None


def _bytes_left(machine: Machine, device: str) -> int:
    free = free_on(machine, device)
    if device != "cpu" or machine.addresses is None:
        return free
    return min(free, machine.addresses)


def _lower(config: ModelConfig, need: MemoryNeed, device: str) -> str:
    ways = []
    if need.precision == "float32":
        ways.append("set dtype to bfloat16, which halves it")
    if config.quantization == "none" and need.experts < need.weights / 2:
        ways.append("set quantization to 8bit or 4bit")
    if device.startswith("cuda"):
        ways.append("set device to auto (all GPUs together) or cpu")
    ways.append("close other programs, or take a machine with more memory")
    return ", ".join(ways)


def _numbers_per_token(
    model: nn.Module, sites: Sequence[Site], experts_per_token: Sequence[int]
) -> int:
    config: Any = model.config
    hidden = int(getattr(config.get_text_config(), "hidden_size", 0) or 0)
    dense = max((m.out_features for m in _linears(model)), default=0)
    routed = 0
    for site, chosen in zip(sites, experts_per_token, strict=True):
        # D x I numbers a matrix and three matrices, gate, up and down, in nearly every family.
        each = sum(p.numel() for p, _ in expert_parameters(site).values()) / site.num_experts
        width = each / (3 * hidden) if hidden else 0
        routed = max(routed, int(3 * chosen * (width + hidden)))
    return 8 * hidden + max(dense, routed)


def _linears(model: nn.Module) -> list[nn.Linear]:
    head: Any = getattr(model, "get_output_embeddings", lambda: None)()
    return [m for m in model.modules() if isinstance(m, nn.Linear) and m is not head]


def _item_size(model: nn.Module) -> int:
    return precision(model).itemsize
