"""Weights as a cheaper deployment would store them, on any device: rounded, then used as before.

Round-to-nearest onto a symmetric grid: for 8 bits one scale for each row of the last dimension, for
fewer one for each group of `group` weights in it. It stands for bitsandbytes, GPTQ or a GGUF file
and is none of them: no outlier columns, no calibration, no NF4 table. Linear layers and routed
experts are rounded; embeddings, the output head, routers, norms and biases keep their precision, as
those formats keep them. Trade-off: the original weights stay in memory beside the rounded ones.
"""

# Dims: R rows (all leading dimensions), C columns, G groups of a row, W weights of a group

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from trace_engine.errors import InputError, ModelError
from trace_engine.models import OpenModel, expert_parameters
from trace_engine.models.parts import router_parameters

FULL_ROW_BITS = 8
"""From so many bits on a row has one scale."""


def round_to_nearest(weight: Tensor, bits: int, group: int) -> Tensor:
    """The weights on their grid, in their own precision: scale = max|w| / (2^(bits-1) - 1) of the
    row or group, w = scale * round(w / scale), halves to even.

    A row that the group does not divide has a shorter last group. Source: M. Nagel et al., A White
    Paper on Neural Network Quantization (2021), section 2.2, symmetric. Raises InputError for fewer
    than 2 bits.
    """
    if bits < 2:
        raise InputError(f"Weights need at least 2 bits for a sign and a size; found {bits}.")
    columns = weight.shape[-1]
    width = columns if bits >= FULL_ROW_BITS else min(group, columns)
    rows_RC = weight.reshape(-1, columns).float()
    padded_RC = nn.functional.pad(rows_RC, (0, -columns % width))
    groups_RGW = padded_RC.reshape(len(rows_RC), -1, width)
    largest = 2 ** (bits - 1) - 1
    scale_RG1 = groups_RGW.abs().amax(dim=-1, keepdim=True) / largest
    # A group of zeros stays one, whatever it is divided by.
    steps = torch.round(groups_RGW / torch.where(scale_RG1 == 0, 1, scale_RG1))
    rounded_RC = (steps * scale_RG1).reshape(len(rows_RC), -1)[:, :columns]
    rounded: Tensor = rounded_RC.reshape(weight.shape).to(weight.dtype)
    return rounded


def rounded_parameters(opened: OpenModel) -> dict[str, nn.Parameter]:
    """What is rounded: weights of linear layers and of routed experts, by name."""
    model: nn.Module = opened.model
    kept = {id(parameter) for parameter in router_parameters(opened.sites)}
    for module in (
        getattr(model, "get_output_embeddings", lambda: None)(),
        getattr(model, "get_input_embeddings", lambda: None)(),
    ):
        if module is not None:
            kept |= {id(parameter) for parameter in module.parameters()}
    chosen = {id(module.weight) for module in model.modules() if isinstance(module, nn.Linear)}
    for site in opened.sites:
        chosen |= {
            id(parameter)
            for parameter, _ in expert_parameters(site).values()
            if parameter.ndim >= 2
        }
    return {
        name: parameter
        for name, parameter in model.named_parameters()
        if id(parameter) in chosen - kept
        and parameter.is_floating_point()
        and not name.endswith("bias")
    }


@contextmanager
def quantised(opened: OpenModel, bits: int, group: int) -> Iterator[int]:
    """Inside, the model computes with rounded weights; yields how many numbers were rounded, and
    gives the weights back bit for bit.

    Raises ModelError for a model whose weights are stored in few bits already.
    """
    if opened.info.quantization != "none":
        raise ModelError(
            f"{opened.info.source} is opened with {opened.info.quantization} weights; open it "
            "without quantization, and round it here."
        )
    parameters = rounded_parameters(opened)
    saved = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    try:
        with torch.no_grad():
            for parameter in parameters.values():
                parameter.copy_(round_to_nearest(parameter, bits, group))
        yield sum(parameter.numel() for parameter in parameters.values())
    finally:
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(saved[name])
