"""Fitted token weights: a few numbers per selected cell that weigh any token by its current
routing.

λ (or the ratios) and the normaliser are those of the calibration profile and stay fixed while the
model trains; only the routing is live. Accepted trade-off: as routing drifts, the realised mean
and gaps leave their targets, which the training log shows, rather than re-fitting unseen in
mid-run.

Dims: N sampled tokens, T tokens of a batch, S selected cells.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, cast, overload

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from trace_engine.calibration.activity import Bools, Floats
from trace_engine.calibration.rules import Normalise, Rule, apply_rule, namespace
from trace_engine.config import Cell
from trace_engine.errors import CalibrationError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Histogram:
    """Labelled tokens by weight, in bins of equal width in log weight."""

    edges_B: Floats
    """Bin edges, ascending; one more than there are counts."""
    counts_B: NDArray[np.int64]

    @classmethod
    def of(cls, weights_P: Floats, counts_P: NDArray[np.int64], bins: int = 40) -> Self:
        """Histogram of weights with multiplicities; weights that are all equal fill one bin."""
        low, high = float(weights_P.min()), float(weights_P.max())
        if high <= low * (1 + 1e-9):
            edges_B = np.array([low / 1.05, high * 1.05])
        else:
            edges_B = np.geomspace(low, high, bins + 1)
            edges_B[0], edges_B[-1] = low, high  # geomspace rounds, and would lose both ends
        counts_B = np.histogram(weights_P, bins=edges_B, weights=counts_P)[0]
        return cls(edges_B, np.rint(counts_B).astype(np.int64))

    def to_dict(self) -> dict[str, Any]:
        return {"edges": self.edges_B.tolist(), "counts": self.counts_B.tolist()}


@dataclass(frozen=True, slots=True, eq=False)
class FittedWeights:
    """What `fit_weights` found, and the weights it gives to any routing."""

    cells: tuple[Cell, ...]
    """Columns of every activity matrix, in this order."""
    rule: Rule
    normalise: Normalise
    hardness: float
    """κ in use: the one asked for, or what `auto` found."""
    strength: float
    lowest: float
    """Least weight of `additive` before normalising."""
    used_S: Bools
    """False for uncoverable cells: they take no part."""
    coefficient_S: Floats
    """Log weights per cell (`exact`, `product`, `odds`) or ratios r; neutral where unused."""
    normaliser: float
    """Mean unnormalised weight over the calibration tokens; 1 in mode `none`."""
    table: pd.DataFrame
    """One row per cell: layer, expert, forget, retain (calibration frequencies), target, achieved,
    residual (achieved − target), uncoverable, relaxed, coefficient."""
    diagnostics: dict[str, Any]
    """ess = (Σw)²/Σw² and ess_share of it in N `tokens`; max_weight, min_weight, mean_weight;
    hardness; residual_gap (largest |residual| of a coverable cell); uncovered_mass (share of the
    selected cells' forget-side frequency on uncoverable ones); selected, uncoverable, relaxed
    (numbers of cells); limited_by ([layer, expert] that holds `auto` down, or None);
    newton_steps (of the final solve); sample_complete. JSON values only."""
    notes: tuple[str, ...]
    """What a person should know, in sentences."""
    histogram: Histogram
    weights_N: Floats | None
    """Weight of every token of the retain sample, or None when restored from a checkpoint."""

    @overload
    def token_weights(self, active_TS: NDArray[Any]) -> Floats: ...
    @overload
    def token_weights(self, active_TS: "Tensor", dtype: Any = None) -> "Tensor": ...
    def token_weights(self, active_TS: Any, dtype: Any = None) -> Any:
        """Weights (...,) of tokens by the selected cells they route to, (..., S) bool or 0/1.

        Divided by the fixed set normaliser; in modes `batch` and `sequence`, pass the result
        through `normalise_weights`. Float64 maths. numpy in, float64 out; torch in, detached
        `dtype` (default float32) on the same device out. Raises CalibrationError when S is not
        the number of cells.
        """
        if active_TS.shape[-1] != len(self.cells):
            raise CalibrationError(
                f"Activity has {active_TS.shape[-1]} columns, and these weights were fitted for "
                f"{len(self.cells)} cells."
            )
        used = np.flatnonzero(self.used_S)
        coefficient: Any = self.coefficient_S[used]
        if isinstance(active_TS, np.ndarray):
            active = active_TS[..., used].astype(np.float64)
        else:
            torch = namespace(active_TS)
            wide = torch.float32 if active_TS.device.type == "mps" else torch.float64
            active = active_TS.detach()
            if len(used) < len(self.cells):
                active = active[..., torch.as_tensor(used, device=active.device)]
            active = active.to(wide)
            coefficient = torch.as_tensor(coefficient, dtype=wide, device=active.device)
        weights = apply_rule(
            active,
            self.rule,
            coefficient,
            strength=self.strength,
            lowest=self.lowest,
            normaliser=self.normaliser,
        )
        if isinstance(active_TS, np.ndarray):
            return weights
        return weights.to(dtype or namespace(active_TS).float32)

    def to_dict(self) -> dict[str, Any]:
        """Everything but `weights_N`, as JSON values that `from_dict` restores to the same bits."""
        return {
            "cells": [list(cell) for cell in self.cells],
            "rule": self.rule,
            "normalise": self.normalise,
            "hardness": self.hardness,
            "strength": self.strength,
            "lowest": self.lowest,
            "used": self.used_S.tolist(),
            "coefficient": self.coefficient_S.tolist(),
            "normaliser": self.normaliser,
            "table": {name: self.table[name].tolist() for name in self.table.columns},
            "diagnostics": self.diagnostics,
            "notes": list(self.notes),
            "histogram": self.histogram.to_dict(),
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Inverse of `to_dict`. Raises CalibrationError when a field is missing."""
        try:
            histogram = data["histogram"]
            return cls(
                cells=tuple(Cell(*cell) for cell in data["cells"]),
                rule=cast(Rule, data["rule"]),
                normalise=cast(Normalise, data["normalise"]),
                hardness=float(data["hardness"]),
                strength=float(data["strength"]),
                lowest=float(data["lowest"]),
                used_S=np.array(data["used"], dtype=np.bool_),
                coefficient_S=np.array(data["coefficient"], dtype=np.float64),
                normaliser=float(data["normaliser"]),
                table=pd.DataFrame(data["table"]).astype(TABLE_TYPES),
                diagnostics=dict(data["diagnostics"]),
                notes=tuple(data["notes"]),
                histogram=Histogram(
                    np.array(histogram["edges"], dtype=np.float64),
                    np.array(histogram["counts"], dtype=np.int64),
                ),
                weights_N=None,
            )
        except KeyError as error:
            raise CalibrationError(
                f"The saved token weights have no {error.args[0]!r}: they were written by another "
                "version. Fit them again from the run's profile."
            ) from None


TABLE_TYPES = {
    "layer": "int64",
    "expert": "int64",
    "forget": "float64",
    "retain": "float64",
    "target": "float64",
    "achieved": "float64",
    "residual": "float64",
    "uncoverable": "bool",
    "relaxed": "bool",
    "coefficient": "float64",
}
