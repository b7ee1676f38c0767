"""Scores of cells and the rules that choose among them, on plain arrays.

Scores are ranked after rounding, so that float noise never decides a tie (0.3 − 0.1 and 0.4 − 0.2
differ in the last bit); ties fall to the lower layer, then the lower expert. Accepted trade-off:
two scores closer than 1e-12 count as equal.

Dims: D documents, L MoE sites, E experts (largest over sites), C candidate cells.
"""

import numpy as np
from numpy.typing import NDArray

from trace_engine.calibration.activity import Bools, Floats
from trace_engine.config import SelectionConfig
from trace_engine.routing import RoutingCounts

_DIGITS = 12


def standard_errors(counts: RoutingCounts, statistic: str) -> Floats:
    """Document-level standard error of every cell's activation frequency or gate mass, (L, E).

    The mean is a ratio of sums over documents, f = Σx/Σn, with cluster-robust variance
    D/(D−1) Σ(x_d − f n_d)² / (Σn)² (Cochran, Sampling Techniques, 1977, section 6.4). Documents
    without a counted token carry no information; NaN with fewer than two others.
    """
    sums_DLE = counts.counts_DLE if statistic == "frequency" else counts.gate_mass_DLE
    documents = np.flatnonzero(counts.tokens_D > 0)
    mean_LE = sums_DLE.sum(axis=0) / counts.tokens
    square_LE = np.zeros(mean_LE.shape)
    for document in documents:  # one at a time: D x L x E float64 would be large
        square_LE += (sums_DLE[document] - mean_LE * counts.tokens_D[document]) ** 2
    factor = len(documents) / (len(documents) - 1) if len(documents) > 1 else np.nan
    return np.asarray(np.sqrt(factor * square_LE) / counts.tokens)


def scores(
    score: str, forget_LE: Floats, retain_LE: Floats, error_LE: Floats, epsilon: float
) -> Floats:
    """How far each cell stands out: d = fF − fR, (fF+ε)/(fR+ε), its log2, or d over its error.

    With ε at half a token a cell unseen in retain has a large ratio, not an infinite one. Where no
    document differs from its side's mean, z is 0 or infinite, as d says.
    """
    difference_LE = forget_LE - retain_LE
    if score == "difference":
        return difference_LE
    if score == "z":
        certain_LE = np.where(difference_LE == 0, 0.0, np.copysign(np.inf, difference_LE))
        safe_LE = np.where(error_LE > 0, error_LE, 1.0)
        return np.where(error_LE > 0, difference_LE / safe_LE, certain_LE)
    ratio_LE = (forget_LE + epsilon) / (retain_LE + epsilon)
    return ratio_LE if score == "ratio" else np.asarray(np.log2(ratio_LE))


def choose(config: SelectionConfig, score_LE: Floats, eligible_LE: Bools, gain_LE: Floats) -> Bools:
    """The cells that a scope takes from the eligible ones, (L, E) bool; rows in layer order.

    `threshold` takes scores of at least the threshold. `cumulative` adds up gain_LE = max(d, 0) in
    score order until it holds the share of the eligible cells' sum: with `difference`, the smallest
    set that does.
    """
    if config.scope == "threshold":
        return eligible_LE & (np.round(score_LE, _DIGITS) >= config.threshold)
    chosen_LE = np.zeros(score_LE.shape, dtype=np.bool_)
    if config.scope == "per_layer":
        for row in range(len(score_LE)):
            ranked = _ranked(score_LE[row], np.flatnonzero(eligible_LE[row]))
            chosen_LE[row, ranked[: config.top_k]] = True
        return chosen_LE
    ranked = _ranked(score_LE.ravel(), np.flatnonzero(eligible_LE))
    number = config.top_k
    if config.scope == "cumulative":
        ranked = ranked[gain_LE.ravel()[ranked] > 0]
        held_C = np.cumsum(gain_LE.ravel()[ranked])
        total = held_C[-1] if len(held_C) else 0.0
        number = int(np.searchsorted(held_C, config.share * total * (1 - 1e-12))) + 1
    chosen_LE.ravel()[ranked[:number]] = True
    return chosen_LE


def _ranked(score_C: Floats, candidates: NDArray[np.intp]) -> NDArray[np.intp]:
    """Candidates by falling score; the stable sort keeps equal ones in index order."""
    return candidates[np.argsort(-np.round(score_C[candidates], _DIGITS), kind="stable")]
