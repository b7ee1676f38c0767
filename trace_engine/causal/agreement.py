"""Where activation and ablation disagree: the same cells ranked by both.

Activation says which experts forget text uses more than retain text; ablation, which experts the
answers hang on. Rank correlation says how well one stands in for the other, and the list of largest
rank differences where it does not. Free of torch. Trade-off: its interval resamples cells, which
are neighbours of each other in a network, so it is on the narrow side.
"""

# Dims: L sites, E experts, C cells

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trace_engine.causal.results import Scan
from trace_engine.config import Cell
from trace_engine.errors import InputError
from trace_engine.evaluation.estimate import Estimate
from trace_engine.evaluation.resampling import bootstrap
from trace_engine.routing import Mismatch

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class RankedCell:
    """One expert, by activation and by ablation."""

    layer: int
    expert: int
    gap: float
    """Forget minus retain activation frequency."""
    harm: float
    """Forget loss beyond the utility's when it is taken out, in nats per token."""
    gap_rank: int
    """1 is the largest."""
    harm_rank: int

    @property
    def cell(self) -> Cell:
        return Cell(self.layer, self.expert)


@dataclass(frozen=True, slots=True)
class Agreement:
    """How the activation map and the attribution map agree."""

    correlation: Estimate
    """Spearman's rank correlation of gap and harm over cells."""
    top: int
    shared: int
    """Cells that are among the `top` of both."""
    expected: float
    """How many chance would share: top² / cells."""
    cells: tuple[RankedCell, ...]
    """Every measured cell, largest rank difference first."""

    @property
    def sentence(self) -> str:
        """The finding in plain words."""
        low, high = self.correlation.low, self.correlation.high
        bounds = "" if low is None or high is None else f" [{low:.2f}, {high:.2f}]"
        return (
            f"Activation gap and ablation effect have a rank correlation of "
            f"{self.correlation.value:.2f}{bounds} over {self.correlation.n} experts; of the "
            f"{self.top} experts with the largest gap, {self.shared} are among the {self.top} with "
            f"the largest effect (chance: {self.expected:.1f})."
        )

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"sentence": self.sentence}


def agreement(scan: Scan, map: Mismatch, top: int = 8) -> Agreement:
    """Compare a scan with the map of a profile of the same model.

    Raises InputError where the map lacks a cell of the scan, or fewer than two were measured.
    """
    if len(scan.cells) < 2:
        raise InputError("Agreement needs the effects of at least two experts.")
    gap_C = np.array([_gap(map, cell.layer, cell.expert) for cell in scan.cells])
    harm_C = np.array([cell.specific.value for cell in scan.cells])
    ranks = [len(scan.cells) + 1 - _ranks(values) for values in (gap_C, harm_C)]
    orders = [np.argsort(rank_C, kind="stable") for rank_C in ranks]
    place_C = [np.argsort(order_C, kind="stable") + 1 for order_C in orders]
    number = min(top, len(scan.cells))
    shared = set(orders[0][:number].tolist()) & set(orders[1][:number].tolist())
    apart = np.argsort(-np.abs(place_C[0] - place_C[1]), kind="stable")
    return Agreement(
        correlation=bootstrap(
            lambda items: spearman(gap_C[items[0]], harm_C[items[0]]), [len(scan.cells)]
        ),
        top=number,
        shared=len(shared),
        expected=number**2 / len(scan.cells),
        cells=tuple(
            RankedCell(
                scan.cells[c].layer,
                scan.cells[c].expert,
                float(gap_C[c]),
                float(harm_C[c]),
                int(place_C[0][c]),
                int(place_C[1][c]),
            )
            for c in apart
        ),
    )


def spearman(left_C: Array, right_C: Array) -> float:
    """Rank correlation with mean ranks for ties; NaN where one side is constant.

    Source: C. Spearman (1904), American Journal of Psychology 15, 72-101.
    """
    left, right = (_ranks(values) - (len(values) + 1) / 2 for values in (left_C, right_C))
    size = float(np.sqrt((left**2).sum() * (right**2).sum()))
    return float((left * right).sum()) / size if size > 0 else float("nan")


def _ranks(values_C: Array) -> Array:
    """1 for the smallest; equal values share the mean of their ranks."""
    _, place_C, count = np.unique(values_C, return_inverse=True, return_counts=True)
    mean = np.cumsum(count) - (count - 1) / 2
    return np.asarray(mean[place_C], dtype=np.float64)


def _gap(map: Mismatch, layer: int, expert: int) -> float:
    if layer not in map.layers or expert >= map.num_experts_L[map.layers.index(layer)]:
        raise InputError(
            f"The profile has no expert {expert} in layer {layer}: it is of another model."
        )
    return float(map.difference[map.layers.index(layer), expert])
