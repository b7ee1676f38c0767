"""What the processes of one run tell each other within a step: sums, and nothing else that decides.

One process alone gets back what it gave, bit for bit, and loads nothing for it. Sums go over the
CPU whatever the model is on: that needs no GPU library, and costs the copies.
"""

# Dims: N labels of this process's share, X anything

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from trace_engine.errors import RunError
from trace_engine.routing import Workers
from trace_engine.unlearning.controls import Gradients, norm_of

BUCKET = 2**24
"""Numbers that are summed at once: 64 MiB of float32 beside the gradients."""
_SAME = 1e-4
"""Relative difference of a tensor's squared norm that rounding on another machine may make."""


def total(workers: Workers, values: Sequence[float]) -> list[float]:
    """Each value summed over all processes, in float64; the same in every one of them."""
    if workers.size == 1:
        return list(values)
    summed = torch.tensor(values, dtype=torch.float64)
    workers.sum(summed)
    return [float(value) for value in summed]


def all_rows(workers: Workers, own_NX: Tensor) -> Tensor:
    """The rows of all processes, one process after the other, in every one of them."""
    if workers.size == 1:
        return own_NX
    sizes = torch.zeros(workers.size, dtype=torch.int64)
    sizes[workers.rank] = len(own_NX)
    workers.sum(sizes)
    longest = int(sizes.max())
    wire = torch.uint8 if own_NX.dtype == torch.bool else own_NX.dtype
    padded = torch.zeros((longest, *own_NX.shape[1:]), dtype=wire)
    padded[: len(own_NX)] = own_NX.cpu().to(wire)
    found = zip(workers.gather(padded), sizes.tolist(), strict=True)
    parts = [part[:size] for part, size in found]
    return torch.cat(parts).to(own_NX.dtype).to(own_NX.device)


def sum_gradients(workers: Workers, parameters: Sequence[nn.Parameter]) -> None:
    """Replace every parameter's gradient by the sum over all processes.

    A parameter has none afterwards where it had none in any process: an expert that no token of the
    batch reached is left alone by the optimizer, as in one process.
    """
    if workers.size == 1:
        return
    gradients = _aligned(workers, parameters, [p.grad for p in parameters])
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    for bucket, flat in _sums(workers, gradients):
        sizes = [gradient.numel() for gradient in bucket]
        for gradient, part in zip(bucket, torch.split(flat, sizes), strict=True):
            gradient.copy_(part.view_as(gradient))


def norm_of_sum(
    workers: Workers, parameters: Sequence[nn.Parameter], gradients: Gradients
) -> float:
    """Norm of the gradients' sum over all processes, which is not kept; those given stay."""
    if workers.size == 1:
        return norm_of(gradients)
    squares = [
        float(flat.double().square().sum())
        for _, flat in _sums(workers, _aligned(workers, parameters, gradients))
    ]
    return math.sqrt(sum(squares))


def require_same(workers: Workers, parameters: Sequence[nn.Parameter]) -> None:
    """Raise RunError where the processes no longer hold the same weights: steps would be summed
    over different models from then on."""
    if workers.size == 1:
        return
    squares = [parameter.detach().double().square().sum().cpu() for parameter in parameters]
    first, *others = workers.gather(torch.stack(squares))
    for rank, other in enumerate(others, start=1):
        if not torch.allclose(first, other, rtol=_SAME, atol=0, equal_nan=True):
            raise RunError(
                f"Process {rank} no longer has the weights of process 0. Give all processes the "
                "same kind of machine and the same versions, and start the run again."
            )


def _aligned(
    workers: Workers, parameters: Sequence[nn.Parameter], gradients: Gradients
) -> Gradients:
    """The same tensors in every process: 0 where only others have a gradient."""
    there = torch.tensor([g is not None for g in gradients], dtype=torch.uint8)
    workers.largest(there)
    return [
        torch.zeros_like(parameter) if known and gradient is None else gradient
        for parameter, gradient, known in zip(parameters, gradients, there.tolist(), strict=True)
    ]


def _sums(workers: Workers, gradients: Gradients) -> Iterator[tuple[list[Tensor], Tensor]]:
    """Buckets of gradients, each with its sum over all processes as one flat tensor on the CPU.

    Narrow precisions are summed in float32.
    """
    for bucket in _buckets([gradient for gradient in gradients if gradient is not None]):
        wide = torch.float64 if bucket[0].dtype == torch.float64 else torch.float32
        flat = torch.cat([gradient.flatten().to("cpu", wide) for gradient in bucket])
        workers.sum(flat)
        yield bucket, flat


def _buckets(tensors: Sequence[Tensor]) -> list[list[Tensor]]:
    """Neighbours of one precision, up to BUCKET numbers together."""
    found: list[list[Tensor]] = []
    held = 0
    for tensor in tensors:
        if not found or held + tensor.numel() > BUCKET or found[-1][0].dtype != tensor.dtype:
            found.append([])
            held = 0
        found[-1].append(tensor)
        held += tensor.numel()
    return found
