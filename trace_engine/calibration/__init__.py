"""Which experts are forget-critical, and how hard each retain token counts.

Needs numpy and pandas only, so that the app previews selections and weights without torch; weights
of a live batch come back as torch tensors when torch tensors go in.
"""

from trace_engine.calibration.activity import (
    active_columns,
    active_matrix,
    calibration_frequencies,
    skipped_slots,
    weighted_frequency,
)
from trace_engine.calibration.affinity import affinity, top_experts
from trace_engine.calibration.fit import fit_weights
from trace_engine.calibration.preview import WeightPreview, preview_weights
from trace_engine.calibration.rules import normalise_weights
from trace_engine.calibration.selection import Selection, check_selection, select_experts
from trace_engine.calibration.weights import FittedWeights, Histogram

__all__ = [
    "FittedWeights",
    "Histogram",
    "Selection",
    "WeightPreview",
    "active_columns",
    "active_matrix",
    "affinity",
    "calibration_frequencies",
    "check_selection",
    "fit_weights",
    "normalise_weights",
    "preview_weights",
    "select_experts",
    "skipped_slots",
    "top_experts",
    "weighted_frequency",
]
