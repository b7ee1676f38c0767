"""Plain statistics of routing counts: activation frequency, gate mass, load and co-activation.

One definition each, used by the map, the selection and the report alike. Accepted cost: router
entropy over the full softmax is not here, because only what the experts module received is tapped.

Dims: D documents, L MoE sites, E experts, K experts per token.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from trace_engine.errors import InputError
from trace_engine.routing.profile import Profile, RoutingCounts

Statistic = Literal["frequency", "gate_mass"]
STATISTICS: tuple[Statistic, ...] = ("frequency", "gate_mass")


def activation_frequency(counts: RoutingCounts) -> NDArray[np.float64]:
    """Share of counted tokens that route to each expert (OLMoE's "domain specialization").

    Shape (L, E) float64; a row sums to the site's K less its skipped slots per token. Raises
    InputError when nothing was counted.
    """
    return _mean(counts.counts_DLE, counts)


def gate_mass(counts: RoutingCounts) -> NDArray[np.float64]:
    """Mean gate weight per counted token, zero outside the top-k (SEUF, Eq. 2, over tokens).

    Shape (L, E) float64. Raises InputError when nothing was counted.
    """
    return _mean(counts.gate_mass_DLE, counts)


def document_totals(counts: RoutingCounts, statistic: str) -> NDArray[np.float64]:
    """What is summed per document before it is divided by tokens, shape (D, L, E) float64."""
    check_statistic(statistic)
    source = counts.counts_DLE if statistic == "frequency" else counts.gate_mass_DLE
    return source.astype(np.float64)


def side_statistic(counts: RoutingCounts, statistic: str) -> NDArray[np.float64]:
    """`activation_frequency` or `gate_mass` by name, shape (L, E)."""
    check_statistic(statistic)
    return activation_frequency(counts) if statistic == "frequency" else gate_mass(counts)


def check_statistic(statistic: str) -> None:
    """Raise InputError when the name is not one of `STATISTICS`."""
    if statistic not in STATISTICS:
        raise InputError(f"statistic must be one of {', '.join(STATISTICS)}, found {statistic!r}.")


def uniform_share(profile: Profile, statistic: str = "frequency") -> NDArray[np.float64]:
    """The floor of a cell, shape (L, 1): K/E for frequency, the mean over experts for gate mass.

    For gate mass the mean is that of the forget side.
    """
    check_statistic(statistic)
    experts_L = np.array(profile.num_experts_L, dtype=np.float64)
    if statistic == "frequency":
        return np.asarray(np.array(profile.experts_per_token_L) / experts_L)[:, None]
    return np.asarray(gate_mass(profile.forget).sum(axis=1) / experts_L)[:, None]


def load_share(counts: RoutingCounts) -> NDArray[np.float64]:
    """Share of the filled slots that each expert receives, shape (L, E); a row sums to 1 (0 if
    none)."""
    total_LE = counts.counts_DLE.sum(axis=0).astype(np.float64)
    slots_L1 = total_LE.sum(axis=1, keepdims=True)
    return _share(total_LE, slots_L1)


def load_entropy(counts: RoutingCounts, num_experts_L: tuple[int, ...]) -> NDArray[np.float64]:
    """Entropy of the load over log E, shape (L,): 1 is perfectly even, 0 is a single expert.

    A site with one expert, or with no filled slot, has 0.
    """
    share_LE = load_share(counts)
    logs_LE = np.log(share_LE, out=np.zeros_like(share_LE), where=share_LE > 0)
    top_L = np.log(np.array(num_experts_L, dtype=np.float64))
    entropy_L = -(share_LE * logs_LE).sum(axis=1)
    return _share(entropy_L, top_L)


def coactivation(counts: RoutingCounts) -> NDArray[np.float64]:
    """N(i, j)/N(i) over all chosen pairs, shape (L, E, E), row i: the share of i's tokens that go
    to j too.

    The diagonal is 1 where the expert received a token; rows of experts without tokens are 0.
    """
    pairs_LEE = counts.coactivation_LEE.astype(np.float64)
    own_LE1 = np.diagonal(pairs_LEE, axis1=1, axis2=2)[..., None]
    return _share(pairs_LEE, own_LE1)


def _mean(totals_DLE: NDArray[np.generic], counts: RoutingCounts) -> NDArray[np.float64]:
    if counts.tokens == 0:
        raise InputError("No token was counted: every document is empty or only a start token.")
    return np.asarray(totals_DLE.astype(np.float64).sum(axis=0) / counts.tokens)


def _share(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    """part / whole, and 0 where the whole is 0."""
    return np.asarray(np.divide(part, whole, out=np.zeros_like(part), where=whole > 0))
