"""What shapes the tensors of a checkpoint have once they are unpacked, told from its headers.

Checkpoints that are stored quantised keep a tensor as codes and scales. For the published forms
below the shape of the tensor that they stand for follows from theirs; of any other form only what
is stored plainly can be compared with the model.
"""

# Dims: E experts, R rows of a matrix (its outputs), C its columns (its inputs), B blocks of a row

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from math import ceil
from typing import Any

from trace_engine.models.files import ModelFiles, stored_tensors

Shape = tuple[int, ...]
Stored = dict[str, tuple[Shape, str]]
"""Name in the file -> shape and precision, in safetensors' word."""

_FLOATS = ("F64", "F32", "BF16", "F16")
_FP8 = ("F8_E4M3", "F8_E5M2")
_BYTES = (*_FP8, "I8", "U8")
_OWNER = re.compile(r"(.*experts)\.\d+\..+")


@dataclass(slots=True)
class Unpacked:
    """Tensors as they are once unpacked, and what the packed ones lack for it."""

    shapes: dict[str, Shape]
    """By the names that an unquantised checkpoint would have."""
    whole: bool = True
    """Whether `shapes` is all of the checkpoint: only then a tensor that is not here is missing."""
    missing: list[str] = field(default_factory=list)
    """Codes without scales, and the other way round."""
    mismatched: list[str] = field(default_factory=list)
    """Scales that do not fit their codes."""


def unpacked(files: ModelFiles) -> Unpacked:
    """The shapes behind the stored tensors; those of a checkpoint that is not quantised as they
    are."""
    stored = {name: (shape, dtype) for name, shape, dtype in stored_tensors(files)}
    form = files.config.get("quantization_config")
    if form is None:
        return Unpacked({name: shape for name, (shape, _) in stored.items()})
    return _FORMS.get(str(form.get("quant_method")), _plain_only)(stored, form)


def _mxfp4(stored: Stored, form: dict[str, Any]) -> Unpacked:
    """Codes (..., R, B, 16), two a byte, and scales (..., R, B) of blocks of 32, for the transpose
    of the parameter (..., C, R): openai/gpt-oss, `gpt_oss/torch/weights.py`."""
    found = Unpacked({n: s for n, (s, _) in stored.items() if not n.endswith(_MXFP4_PARTS)})
    for name in _stems(stored, _MXFP4_PARTS):
        codes, scales = stored.get(f"{name}_blocks"), stored.get(f"{name}_scales")
        if codes is None or scales is None:
            found.missing.append(f"{name}_{'blocks' if codes is None else 'scales'}")
            continue
        if scales[0] != codes[0][:-1]:
            found.mismatched.append(f"{name}_scales")
        *leading, rows, blocks, width = codes[0]
        found.shapes[name] = (*leading, blocks * width * 2, rows)
    return found


def _fp8(stored: Stored, form: dict[str, Any]) -> Unpacked:
    """Numbers of 8 bits in the tensor's own shape, and a scale for each block of rows and columns:
    deepseek-ai/DeepSeek-V3, `README_WEIGHTS.md`. Checkpoints that pack some experts further
    (DeepSeek-V4) are compared in what they store plainly."""
    scales = {n: _scale(n, stored) for n, (_, dtype) in stored.items() if dtype in _BYTES}
    tensors = {n: at for n, at in stored.items() if n not in set(scales.values())}
    found = _plain_only(tensors, form)
    found.whole = len(found.shapes) == len(tensors)
    block = form.get("weight_block_size")
    for name, scale in scales.items():
        shape, dtype = stored[name]
        if dtype not in _FP8:
            continue
        if scale is None:
            found.missing.append(f"{name}_scale_inv")
        elif block and len(shape) >= 2:
            blocks = tuple(ceil(n / b) for n, b in zip(shape[-2:], block, strict=True))
            if stored[scale][0][-2:] != blocks:
                found.mismatched.append(scale)
    return found


def _scale(name: str, stored: Stored) -> str | None:
    stems = (f"{name}_", name.removesuffix("weight"))
    return next((n for s in stems for e in _FP8_SCALES if (n := s + e) in stored), None)


def _gptq(stored: Stored, form: dict[str, Any]) -> Unpacked:
    """Codes (C x bits / 32, R), several an int32 along the columns, of a linear layer's (R, C):
    AutoGPTQ/AutoGPTQ, `nn_modules/qlinear`."""
    bits = form.get("bits")
    if not isinstance(bits, int) or bits < 1 or form.get("dynamic"):
        return _plain_only(stored, form)
    found = Unpacked({n: s for n, (s, _) in stored.items() if not n.endswith(_GPTQ_PARTS)})
    for name in _stems(stored, (".qweight",)):
        words, rows = stored[f"{name}.qweight"][0]
        found.shapes[f"{name}.weight"] = (rows, words * 32 // bits)
    return found


def _plain_only(stored: Stored, form: dict[str, Any]) -> Unpacked:
    """What is stored in its own shape. Experts that are stored one by one are stacked, so those of
    a block count only when all of them are plain."""
    plain = {name for name, (_, dtype) in stored.items() if dtype in _FLOATS + _FP8}
    partly = {_owner(name) for name in stored.keys() - plain} - {None}
    kept = {name: stored[name][0] for name in plain if _owner(name) not in partly}
    return Unpacked(kept, whole=False)


_FP8_SCALES = ("scale_inv", "scale")
_MXFP4_PARTS = ("_blocks", "_scales")
_GPTQ_PARTS = (".qweight", ".qzeros", ".scales", ".g_idx")
_FORMS: dict[str, Callable[[Stored, dict[str, Any]], Unpacked]] = {
    "mxfp4": _mxfp4,
    "fp8": _fp8,
    "gptq": _gptq,
}


def _stems(names: Iterable[str], endings: tuple[str, ...]) -> list[str]:
    return sorted({n.removesuffix(e) for n in names for e in endings if n.endswith(e)})


def _owner(name: str) -> str | None:
    at = _OWNER.fullmatch(name)
    return None if at is None else at[1]
