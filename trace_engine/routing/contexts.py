"""What goes to an expert: its tokens in their surroundings, and one card of figures.

Read from a saved profile alone, fast enough for a click. Accepted cost: contexts come from the
token sample, so a large set shows only sampled documents; shares, gaps and top tokens come from the
whole set's counts.

Dims: D documents, N sampled tokens, K experts per token, E experts, V token ids.
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from trace_engine.config import Cell
from trace_engine.errors import InputError
from trace_engine.routing.profile import Profile, RoutingCounts
from trace_engine.routing.resample import bootstrap_ratios, gap_rngs, known_documents


@dataclass(frozen=True, slots=True)
class Context:
    """A token that routes to the expert, with its neighbours in the same document."""

    document_id: str
    tokens: tuple[str, ...]
    """Texts of the window, leading spaces kept."""
    gates: tuple[float, ...]
    """The expert's gate weight at each token of the window; 0 where it was not chosen."""
    routed: tuple[bool, ...]
    """Whether the token routes to the expert."""
    centre: int
    """Index in the window of the token that was looked for."""


@dataclass(frozen=True, slots=True)
class TopToken:
    """A token id that an expert receives more often than its share of all tokens explains."""

    token_id: int
    text: str
    routed: int
    """Counted tokens with this id that route to the expert."""
    total: int
    """Counted tokens with this id."""
    expected: float
    """total times the expert's activation frequency."""
    z: float
    """(routed - expected) over the binomial standard deviation; for ranking, not a test."""


@dataclass(frozen=True, slots=True)
class CoExpert:
    """An expert of the same layer that is chosen together with the card's expert."""

    expert: int
    forget: float
    """N(i, j)/N(i) on the forget side: share of the expert's tokens that go to this one too."""
    retain: float


@dataclass(frozen=True, slots=True)
class ExpertCard:
    """Figures of one cell; frequencies are shares of counted tokens."""

    cell: Cell
    forget: float
    retain: float
    gap: float
    """forget - retain."""
    gap_low: float
    """95 % cluster bootstrap over documents, the same draws as `mismatch`."""
    gap_high: float
    uniform: float
    """K/E, what an even router would give."""
    tokens_forget: int
    """Counted tokens that route here, of `n_forget`."""
    tokens_retain: int
    n_forget: int
    n_retain: int
    documents_forget: int
    """Documents with at least one counted token."""
    documents_retain: int
    gate_forget: float
    """Mean gate weight where the expert is chosen; 0 where it never is."""
    gate_retain: float
    top_forget: tuple[TopToken, ...]
    top_retain: tuple[TopToken, ...]
    coactivated: tuple[CoExpert, ...]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"cell": list(self.cell)}


def contexts(
    profile: Profile,
    cell: Cell | tuple[int, int],
    side: str,
    n: int = 20,
    window: int = 12,
    order: Literal["gate", "random"] = "gate",
    seed: int = 0,
) -> list[Context]:
    """Up to `n` sampled counted tokens of a side that route to the expert, with `window` neighbours
    each way.

    `gate`: largest gate weight first, then document and position; `random`: a seeded draw, which
    shows what the expert usually gets. One token of every document comes before a second of any.
    Empty when no sampled token routes there. Raises InputError when the layer, the expert or the
    side does not exist.
    """
    row = profile.check_cell(*cell)
    sample, names = profile.sample(side), profile.sampled_ids(side)
    if n < 1 or window < 0:
        raise InputError(f"n must be at least 1 and window at least 0, found {n} and {window}.")
    hit_NK = sample.index_NLK[:, row] == cell[1]
    routed_N = hit_NK.any(axis=1)
    gate_N = np.where(hit_NK, sample.gate_NLK[:, row], 0).max(axis=1, initial=0).astype(np.float64)
    hits = np.flatnonzero(routed_N & sample.counted_N)
    rank = -gate_N[hits] if order == "gate" else np.random.default_rng(seed).random(len(hits))
    hits = hits[np.lexsort((hits, rank))]
    turn = _turns(sample.document_N[hits])
    chosen = hits[np.argsort(turn, kind="stable")][:n]
    found = []
    for position in chosen.tolist():
        document = sample.document_N[position]
        start, stop = np.searchsorted(sample.document_N, [document, document + 1])
        start, stop = max(int(start), position - window), min(int(stop), position + window + 1)
        found.append(
            Context(
                document_id=names[document],
                tokens=tuple(profile.token_text[int(i)] for i in sample.token_N[start:stop]),
                gates=tuple(float(gate) for gate in gate_N[start:stop]),
                routed=tuple(bool(hit) for hit in routed_N[start:stop]),
                centre=position - start,
            )
        )
    return found


def expert_card(
    profile: Profile,
    cell: Cell | tuple[int, int],
    top: int = 10,
    bootstrap: int | None = None,
    seed: int = 0,
) -> ExpertCard:
    """Shares, gap with interval, n, top tokens beyond expectation and co-activated experts of one
    cell.

    The interval is the one that `mismatch` has for this cell with the same `bootstrap` and `seed`;
    with fewer than two documents on a side it is [-1, 1]. Raises InputError when the layer or the
    expert does not exist or a side has no counted token.
    """
    cell = Cell(*cell)
    row = profile.check_cell(*cell)
    expert = cell.expert
    forget, retain = profile.forget, profile.retain
    for side, counts in (("forget", forget), ("retain", retain)):
        if not counts.tokens:
            raise InputError(f"The {side} set has no counted token, so there is nothing to show.")
    bootstrap = bootstrap or int(profile.meta.get("settings", {}).get("bootstrap", 1_000))
    share_forget, share_retain = _share(forget, row, expert), _share(retain, row, expert)
    low, high = _gap_interval(forget, retain, row, expert, bootstrap, seed)
    return ExpertCard(
        cell=cell,
        forget=share_forget,
        retain=share_retain,
        gap=share_forget - share_retain,
        gap_low=low,
        gap_high=high,
        uniform=profile.experts_per_token_L[row] / profile.num_experts_L[row],
        tokens_forget=int(forget.counts_DLE[:, row, expert].sum()),
        tokens_retain=int(retain.counts_DLE[:, row, expert].sum()),
        n_forget=forget.tokens,
        n_retain=retain.tokens,
        documents_forget=forget.documents,
        documents_retain=retain.documents,
        gate_forget=_mean_gate(forget, row, expert),
        gate_retain=_mean_gate(retain, row, expert),
        top_forget=top_tokens(profile, cell, "forget", top),
        top_retain=top_tokens(profile, cell, "retain", top),
        coactivated=_coactivated(profile, row, expert, top),
    )


def top_tokens(
    profile: Profile, cell: Cell | tuple[int, int], side: str, n: int = 10
) -> tuple[TopToken, ...]:
    """Token ids that an expert receives most beyond expectation (OLMoE's vocabulary
    specialization).

    Expected is the id's total times the expert's frequency over the tracked ids; ranked by the
    excess over its binomial standard deviation, ties by id; only ids in excess. Empty when the
    expert gets all tokens or none.
    """
    row = profile.check_cell(*cell)
    counts = profile.counts(side)
    routed_V = counts.token_counts_VLE[:, row, cell[1]].astype(np.float64)
    total_V = counts.token_totals_V.astype(np.float64)
    share = routed_V.sum() / total_V.sum() if total_V.sum() else 0.0
    if not 0 < share < 1:
        return ()
    expected_V = total_V * share
    deviation_V = np.sqrt(expected_V * (1 - share))
    excess_V = routed_V - expected_V
    z_V = np.divide(excess_V, deviation_V, out=np.zeros_like(excess_V), where=deviation_V > 0)
    order = np.lexsort((counts.token_ids_V, -z_V))[:n]
    return tuple(
        TopToken(
            token_id=int(counts.token_ids_V[v]),
            text=profile.token_text[int(counts.token_ids_V[v])],
            routed=int(routed_V[v]),
            total=int(total_V[v]),
            expected=float(expected_V[v]),
            z=float(z_V[v]),
        )
        for v in order
        if z_V[v] > 0
    )


def _turns(document_H: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """How many earlier entries have the same document, shape (H,)."""
    order = np.argsort(document_H, kind="stable")
    grouped = document_H[order]
    first = np.searchsorted(grouped, grouped, side="left")
    turn = np.empty(len(document_H), dtype=np.int64)
    turn[order] = np.arange(len(document_H)) - first
    return turn


def _share(counts: RoutingCounts, row: int, expert: int) -> float:
    return float(counts.counts_DLE[:, row, expert].sum() / counts.tokens)


def _mean_gate(counts: RoutingCounts, row: int, expert: int) -> float:
    times = int(counts.counts_DLE[:, row, expert].sum())
    return float(counts.gate_mass_DLE[:, row, expert].sum() / times) if times else 0.0


def _gap_interval(
    forget: RoutingCounts, retain: RoutingCounts, row: int, expert: int, bootstrap: int, seed: int
) -> tuple[float, float]:
    rng = gap_rngs(seed)[0]
    drawn = []
    for counts in (forget, retain):
        order = known_documents(counts)
        if len(order) < 2:
            return -1.0, 1.0
        total_D1 = counts.counts_DLE[order, row, expert].astype(np.float64)[:, None]
        drawn.append(
            bootstrap_ratios(total_D1, counts.tokens_D[order].astype(float), bootstrap, rng)
        )
    low, high = np.quantile(drawn[0] - drawn[1], (0.025, 0.975))
    return float(low), float(high)


def _coactivated(profile: Profile, row: int, expert: int, n: int) -> tuple[CoExpert, ...]:
    shares = []
    for counts in (profile.forget, profile.retain):
        pairs_E = counts.coactivation_LEE[row, expert].astype(np.float64)
        shares.append(pairs_E / pairs_E[expert] if pairs_E[expert] else pairs_E)
    forget_E, retain_E = shares
    order = np.lexsort((np.arange(len(forget_E)), -retain_E, -forget_E))
    return tuple(
        CoExpert(int(other), float(forget_E[other]), float(retain_E[other]))
        for other in order
        if other != expert and forget_E[other] + retain_E[other] > 0
    )[:n]
