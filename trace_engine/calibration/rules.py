"""From activity to a token's weight: the rules of method.md section 3, for numpy and torch alike.

Every rule is written so that a ratio of 1, λ = 0 or η = 0 gives exactly 1.0: the unweighted
method is the special case, down to the bit. Log-linear rules (`exact`, `product`, `odds`) share
one formula and one bound, so no pattern of the live routing can overflow float32.

Dims: T tokens (any leading shape), S selected cells.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, cast, overload

import numpy as np

from trace_engine.calibration.activity import Floats
from trace_engine.errors import CalibrationError

if TYPE_CHECKING:
    from torch import Tensor

Rule = Literal["uniform", "mean", "max", "product", "additive", "odds", "exact"]
Normalise = Literal["set", "batch", "sequence", "none"]
LOG_LINEAR = frozenset({"product", "odds", "exact"})
LOG_BOUND = 60.0
"""Bound of |log w|: e^±60 is far beyond any fitted weight and inside float32."""


def target_frequencies(forget_S: Floats, retain_S: Floats, hardness: float) -> Floats:
    """f* = fR + κ(fF − fR), exactly fR where κ is 0 or both sides are equal."""
    return retain_S + hardness * (forget_S - retain_S)


def ratios(rule: Rule, target_S: Floats, retain_S: Floats, clip: tuple[float, float]) -> Floats:
    """r = f*/fR, or the odds ratio f*(1−fR)/(fR(1−f*)) for `odds`, clipped; fR must be above 0.

    A cell that every token uses (fR = 1) has no odds to change: 1. Raises CalibrationError when
    `odds` is asked for a target of 1 or more.
    """
    if rule != "odds":
        return np.clip(target_S / retain_S, *clip)
    if (target_S >= 1).any():
        raise CalibrationError(
            "The rule `odds` needs a target frequency below 1, and the forget side uses the cell "
            "at every token. Lower the hardness, or use `exact`."
        )
    everywhere_S = retain_S >= 1
    rest_S = np.where(everywhere_S, 1.0, retain_S * (1 - target_S))
    odds_S = np.where(everywhere_S, 1.0, target_S * (1 - retain_S) / rest_S)
    return np.clip(odds_S, *clip)


def namespace(array: Any) -> Any:
    """numpy or torch, by what the array is, without importing torch for a numpy array."""
    if isinstance(array, np.ndarray):
        return np
    import torch

    return torch


def apply_rule(
    active: Any, rule: Rule, coefficient: Any, *, strength: float, lowest: float, normaliser: float
) -> Any:
    """Weights (...,) float64 of activity rows (..., S) given as float64, over the fitted
    normaliser.

    coefficient (S,): log weights per cell for log-linear rules (strength applied), ratios for
    others.
    """
    xp = namespace(active)
    if rule in LOG_LINEAR:
        score = active @ coefficient - float(np.log(normaliser))
        return xp.exp(xp.clip(score, -LOG_BOUND, LOG_BOUND))
    number = active.sum(-1)
    none = number == 0
    if rule == "mean":
        weight = (active @ coefficient + none) / (number + none)
    elif rule == "max" and active.shape[-1]:
        weight = xp.where(none, xp.ones_like(number), xp.amax(active * coefficient, -1))
    elif rule == "additive":
        # Several ratios below 1 can add up to less than nothing; a weight stays positive.
        weight = xp.clip(1 + active @ (coefficient - 1), lowest, None)
    else:
        weight = xp.ones_like(number)
    return weight**strength / normaliser


@overload
def normalise_weights(
    w: Floats,
    mode: Normalise,
    valid_mask: Any = None,
    sequence_index: Any = None,
    fitted_normaliser: float | None = None,
) -> Floats: ...
@overload
def normalise_weights(
    w: "Tensor",
    mode: Normalise,
    valid_mask: Any = None,
    sequence_index: Any = None,
    fitted_normaliser: float | None = None,
) -> "Tensor": ...
def normalise_weights(
    w: Any,
    mode: Normalise,
    valid_mask: Any = None,
    sequence_index: Any = None,
    fitted_normaliser: float | None = None,
) -> Any:
    """Bring token weights (T,) or (B, S) to mean 1 over what `mode` says; numpy or torch, as
    given.

    - `set`: over `fitted_normaliser` when given; `FittedWeights.token_weights` has done it
      already.
    - `batch`: over the mean at `valid_mask` (default everywhere), or over `fitted_normaliser`,
      for a caller that has summed over micro-batches and processes: per-part means would weight
      parts unequally.
    - `sequence`: over the mean at `valid_mask` of each value of `sequence_index` (same shape as
      `w`); without one, each row of a (B, S) `w` is a sequence. A sequence without valid
      positions is left as it is.
    - `none`: as it is.

    Float64 inside, `w`'s dtype out; all weights 1 stay exactly 1. Raises CalibrationError for a
    (T,) `w` in mode `sequence` without `sequence_index`, or a batch without valid positions.
    """
    if mode == "none" or (mode == "set" and fitted_normaliser is None):
        return w
    if mode == "set" or (mode == "batch" and fitted_normaliser is not None):
        return w / cast(float, fitted_normaliser)
    xp = namespace(w)
    wide = w if w.dtype == xp.float64 else _as_float64(w)
    valid = xp.ones_like(wide) if valid_mask is None else _as_float64(valid_mask)
    if mode == "batch":
        number = valid.sum()
        if not float(number):
            raise CalibrationError("A batch without a labelled position cannot be normalised.")
        scale = (wide * valid).sum() / number
    else:
        if sequence_index is None and w.ndim != 2:
            raise CalibrationError(
                "Normalising per sequence needs the sequence of each token, or weights of shape "
                f"(sequences, positions); found shape {tuple(w.shape)}."
            )
        total, number = _sequence_sums(wide * valid, valid, sequence_index)
        none = number == 0
        scale = (total + none) / (number + none)
    return _as_dtype(wide / scale, w)


def _sequence_sums(weighted: Any, valid: Any, sequence_index: Any) -> tuple[Any, Any]:
    """Sum and number of valid positions of each position's sequence, broadcastable to the
    weights."""
    if sequence_index is None:
        return weighted.sum(-1)[:, None], valid.sum(-1)[:, None]
    xp = namespace(weighted)
    count: Callable[..., Any] = xp.bincount
    flat = sequence_index.reshape(-1)
    sums = (count(flat, weights=part.reshape(-1))[sequence_index] for part in (weighted, valid))
    total, number = sums
    return total, number


def _as_float64(array: Any) -> Any:
    return array.astype(np.float64) if isinstance(array, np.ndarray) else array.double()


def _as_dtype(array: Any, like: Any) -> Any:
    return array.astype(like.dtype) if isinstance(like, np.ndarray) else array.to(like.dtype)
