"""The token-matched control: how much of a gap remains when both sides hold the same tokens.

Routing follows token identity to a large part, so a gap may say only that the sets use other words.
Retain tokens are re-drawn to the forget side's token-id distribution; computed as the expectation
over all such draws (post-stratification), which has no sampling noise. Accepted cost: forget tokens
whose id the retain side never shows cannot be matched, and the coverage says how many they are.

Dims: N sampled tokens, V token ids, L MoE sites, E experts, K experts per token.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trace_engine.routing.profile import Profile, RoutingCounts, TokenSample
from trace_engine.routing.statistics import check_statistic

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Matched:
    """Both sides on the shared token ids, in the forget side's proportions; arrays (L, E)."""

    forget_LE: Array
    retain_LE: Array
    coverage: float
    """Share of the forget side's counted tokens whose id is shared and tracked."""


def token_matched(profile: Profile, statistic: str = "frequency") -> Matched:
    """Match the retain side's token ids to the forget side's.

    Frequency uses the per-id counts of the whole sets; gate mass is kept per token only in the
    samples, so it uses those, and its coverage is a share of the sampled forget tokens. No shared
    id: zeros, coverage 0.
    """
    check_statistic(statistic)
    if statistic == "frequency":
        return _from_counts(profile.forget, profile.retain)
    return _from_samples(
        profile.sample_forget, profile.sample_retain, profile.forget.counts_DLE.shape[2]
    )


def _from_counts(forget: RoutingCounts, retain: RoutingCounts) -> Matched:
    shared, at_forget, at_retain = np.intersect1d(
        forget.token_ids_V[forget.token_totals_V > 0],
        retain.token_ids_V[retain.token_totals_V > 0],
        assume_unique=True,
        return_indices=True,
    )
    shape = forget.counts_DLE.shape[1:]
    if not len(shared):
        return Matched(np.zeros(shape), np.zeros(shape), 0.0)
    rows_forget = np.flatnonzero(forget.token_totals_V > 0)[at_forget]
    rows_retain = np.flatnonzero(retain.token_totals_V > 0)[at_retain]
    wanted_V = forget.token_totals_V[rows_forget].astype(np.float64)
    weight_V = wanted_V / retain.token_totals_V[rows_retain]
    total = wanted_V.sum()
    forget_LE = forget.token_counts_VLE[rows_forget].sum(axis=0) / total
    retain_LE = np.tensordot(weight_V, retain.token_counts_VLE[rows_retain], axes=1) / total
    return Matched(forget_LE, retain_LE, float(total / forget.tokens))


def _from_samples(forget: TokenSample, retain: TokenSample, experts: int) -> Matched:
    ids_forget, ids_retain = forget.token_N[forget.counted_N], retain.token_N[retain.counted_N]
    shape = (forget.index_NLK.shape[1], experts)
    size = int(max(ids_forget.max(initial=0), ids_retain.max(initial=0))) + 1
    have_V = np.bincount(ids_retain, minlength=size)
    wanted_V = np.bincount(ids_forget, minlength=size) * (have_V > 0)
    total = float(wanted_V.sum())
    if total == 0:
        return Matched(np.zeros(shape), np.zeros(shape), 0.0)
    weight_V = np.divide(wanted_V, have_V, out=np.zeros(size), where=have_V > 0)
    forget_LE = _weighted_gates(forget, (have_V > 0).astype(np.float64), experts) / total
    retain_LE = _weighted_gates(retain, weight_V, experts) / total
    return Matched(forget_LE, retain_LE, total / len(ids_forget))


def _weighted_gates(sample: TokenSample, weight_V: Array, experts: int) -> Array:
    """Sum over counted tokens of the id's weight times the gate, shape (L, E)."""
    weight_N1 = weight_V[sample.token_N[sample.counted_N]][:, None]
    index_NLK, gate_NLK = sample.index_NLK[sample.counted_N], sample.gate_NLK[sample.counted_N]
    rows = []
    for site in range(index_NLK.shape[1]):
        # Skipped slots hold index -1 and gate 0: they land on expert 0 with nothing.
        index_NK = np.maximum(index_NLK[:, site], 0)
        gate_NK = np.where(index_NLK[:, site] >= 0, gate_NLK[:, site], 0).astype(np.float64)
        mass = np.bincount(index_NK.ravel(), (weight_N1 * gate_NK).ravel(), minlength=experts)
        rows.append(mass)
    return np.stack(rows)
