"""What a choice of experts and weights would do, before anything runs: the selection page's
numbers.

Adds to the fit how the cells that were not selected move: weighting tokens moves every expert
they route to. Accepted trade-off: the preview is of the profile's token sample and the start
model's routing; the training log shows what live routing makes of it.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from trace_engine.calibration.activity import trained_positions, weighted_frequency
from trace_engine.calibration.fit import fit_weights
from trace_engine.calibration.selection import Selection
from trace_engine.calibration.weights import FittedWeights, Histogram
from trace_engine.config import WeightsConfig
from trace_engine.routing import Profile, TokenSample


@dataclass(frozen=True, slots=True, eq=False)
class WeightPreview:
    fitted: FittedWeights
    cells: pd.DataFrame
    """One row per expert of every layer: layer, expert, selected, forget, retain (calibration
    frequencies), weighted (retain under the weights), change (weighted − retain), target (NaN where
    not selected)."""
    unselected_change: float
    """Largest |change| of a cell that was not selected."""

    @property
    def histogram(self) -> Histogram:
        return self.fitted.histogram

    @property
    def diagnostics(self) -> dict[str, Any]:
        return self.fitted.diagnostics

    @property
    def table(self) -> pd.DataFrame:
        """Per selected cell: forget, retain, target, achieved and residual."""
        return self.fitted.table


def preview_weights(
    profile: Profile,
    selection: Selection,
    config: WeightsConfig,
    *,
    max_length: int | None = None,
) -> WeightPreview:
    """Fit the weights and lay out every cell's move. Arguments and errors as `fit_weights`."""
    fitted = fit_weights(profile, selection, config, max_length=max_length)
    forget = trained_positions(profile.sample_forget, max_length)
    retain = trained_positions(profile.sample_retain, max_length)
    assert fitted.weights_N is not None  # only a restored fit has none
    experts = max(profile.num_experts_L)

    def frequency(sample: TokenSample, weights_N: Any) -> Any:
        return weighted_frequency(sample, profile.layers, weights_N, experts)

    forget_LE = frequency(forget, np.ones(len(forget)))
    retain_LE = frequency(retain, np.ones(len(retain)))
    weighted_LE = frequency(retain, fitted.weights_N)
    site_C, expert_C = np.nonzero(profile.cell_mask_LE())
    cells = pd.DataFrame(
        {
            "layer": np.array(profile.layers)[site_C],
            "expert": expert_C,
            "forget": forget_LE[site_C, expert_C],
            "retain": retain_LE[site_C, expert_C],
            "weighted": weighted_LE[site_C, expert_C],
        }
    )
    cells["change"] = cells["weighted"] - cells["retain"]
    target = fitted.table[["layer", "expert", "target"]]
    cells = cells.merge(target, on=["layer", "expert"], how="left")
    cells.insert(2, "selected", cells["target"].notna())
    others = cells.loc[~cells["selected"], "change"].abs()
    return WeightPreview(fitted, cells, float(others.max()) if len(others) else 0.0)
