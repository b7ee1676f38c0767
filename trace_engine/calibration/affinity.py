"""The experts that forget text uses most: SEUF's affinity, from a profile.

Unlike a selection it asks nothing of the retain side, and compares experts of all layers with each
other, one of the two ways that are published (for one expert they are the same). Trade-off: in
models whose gate weights do not add up to 1, layers with larger ones win.
"""

# Dims: D documents (or blocks), L MoE sites, E experts (largest over sites)

import numpy as np
from numpy.typing import NDArray

from trace_engine.config import Cell
from trace_engine.errors import CalibrationError
from trace_engine.routing import Profile


def affinity(profile: Profile) -> NDArray[np.float64]:
    """Mean gate weight of each expert over a forget document's tokens, averaged over documents:
    (L, E), -1 where a layer has fewer experts.

    Source: Zhuang et al., "SEUF", 2025, eq. 2. Every document counts alike, however long. Where the
    profile counts blocks of documents, a block stands for a document.
    """
    counts = profile.forget
    known_D = counts.tokens_D > 0
    mean_DLE = counts.gate_mass_DLE[known_D] / counts.tokens_D[known_D, None, None]
    found_LE: NDArray[np.float64] = mean_DLE.mean(axis=0)
    for site, experts in enumerate(profile.num_experts_L):
        found_LE[site, experts:] = -1.0
    return found_LE


def top_experts(profile: Profile, number: int) -> list[tuple[Cell, float]]:
    """The `number` experts of the highest affinity over the whole model, highest first.

    Ties break by (layer, expert). Raises CalibrationError when the model has fewer.
    """
    found_LE = affinity(profile)
    total = int(sum(profile.num_experts_L))
    if number > total:
        raise CalibrationError(
            f"trainable.number asks for {number} experts and the model has {total}. Name fewer."
        )
    order = np.argsort(-found_LE, axis=None, kind="stable")[:number]
    places = [np.unravel_index(place, found_LE.shape) for place in order]
    return [
        (Cell(int(profile.layers[site]), int(expert)), float(found_LE[site, expert]))
        for site, expert in places
    ]
