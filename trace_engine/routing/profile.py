"""What a profile holds: integer routing counts per document, and token-level routing of a sample.

Counts add up over batches, shards and processes, and the document is the unit of resampling, so
both are kept per document rather than as shares. Beyond 20,000 documents a side, documents are kept
together in hashed blocks, and a block is then the unit. Accepted cost: arrays are dense over E even
where sites differ in E, and the token sample makes a profile a few megabytes larger.

Dims: D documents (or blocks of documents), L MoE sites, E experts (largest over sites), V tracked
token ids, N sampled tokens, K experts per token (largest over sites). Row l of an array belongs to
`layers[l]`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trace_engine.errors import InputError
from trace_engine.routing.layout import Layout

Ints = NDArray[np.integer[Any]]
Floats = NDArray[np.floating[Any]]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class RoutingCounts:
    """Routing of one side (forget or retain) under the map mask: no padding, BOS if asked for."""

    document_ids: tuple[str, ...]
    """Ids of the documents, or names of the blocks: one per row of a (D, ...) array."""
    tokens_D: Ints
    """Counted tokens per document, int64."""
    counts_DLE: Ints
    """Counted tokens of a document that route to an expert, int64."""
    gate_mass_DLE: Floats
    """Sum of gate weights over a document's counted tokens, float64; over tokens: the mean."""
    skipped_DL: Ints
    """Slots of counted tokens that chose no real expert (zero weight or identity), int64."""
    coactivation_LEE: Ints
    """Counted tokens that route to both experts of a pair, int64; the diagonal is N(i)."""
    token_ids_V: Ints
    """Token ids whose routing is tracked by id, ascending; the same on both sides of a profile."""
    token_totals_V: Ints
    """Counted tokens with that id."""
    token_counts_VLE: Ints
    """Counted tokens with that id that route to an expert."""
    truncated_documents: int
    """Documents cut at `max_length`."""
    block_documents_D: Ints | None = None
    """Documents with a counted token in each block, int64; None where a row is a document."""

    @property
    def unit(self) -> str:
        """What a row is, and what is resampled: "document" or "block"."""
        return "document" if self.block_documents_D is None else "block"

    @property
    def documents(self) -> int:
        """Documents with at least one counted token."""
        if self.block_documents_D is not None:
            return int(self.block_documents_D.sum())
        return int((self.tokens_D > 0).sum())

    @property
    def tokens(self) -> int:
        """All counted tokens."""
        return int(self.tokens_D.sum())

    @property
    def token_coverage(self) -> float:
        """Share of counted tokens whose id is in `token_ids_V`; 0 when nothing was counted."""
        return float(self.token_totals_V.sum() / self.tokens) if self.tokens else 0.0

    def merge(self, other: "RoutingCounts") -> "RoutingCounts":
        """Counts of both parts together, exactly those of one run over all their documents.

        A token id stays tracked only where both parts know its number: it is tracked in both, or a
        part that tracks every id it saw never saw it. Raises InputError when the parts differ in
        sites or experts, or share a document.
        """
        if self.unit == "block" or other.unit == "block":
            raise InputError(
                "Counts that are kept per block of documents cannot be added: their documents are "
                "no longer known. Profile the sets together. Nothing changed."
            )
        if self.counts_DLE.shape[1:] != other.counts_DLE.shape[1:]:
            raise InputError(
                f"Cannot add counts of {self.counts_DLE.shape[1:]} sites x experts to counts of "
                f"{other.counts_DLE.shape[1:]}: they come from different models. Nothing changed."
            )
        shared = set(self.document_ids) & set(other.document_ids)
        if shared:
            raise InputError(
                f"Cannot add counts: {len(shared)} documents are in both parts (for example "
                f"{min(shared)!r}) and would count twice. Nothing changed."
            )
        ids_V = np.array(sorted(_known_ids(self, other)), dtype=np.int64)
        totals_V = np.zeros(len(ids_V), dtype=np.int64)
        by_id_VLE = np.zeros((len(ids_V), *self.counts_DLE.shape[1:]), dtype=np.int64)
        for part in (self, other):
            kept_V = np.isin(part.token_ids_V, ids_V)
            where = np.searchsorted(ids_V, part.token_ids_V[kept_V])
            totals_V[where] += part.token_totals_V[kept_V]
            by_id_VLE[where] += part.token_counts_VLE[kept_V]
        return RoutingCounts(
            document_ids=self.document_ids + other.document_ids,
            tokens_D=np.concatenate([self.tokens_D, other.tokens_D]),
            counts_DLE=np.concatenate([self.counts_DLE, other.counts_DLE]),
            gate_mass_DLE=np.concatenate([self.gate_mass_DLE, other.gate_mass_DLE]),
            skipped_DL=np.concatenate([self.skipped_DL, other.skipped_DL]),
            coactivation_LEE=self.coactivation_LEE + other.coactivation_LEE,
            token_ids_V=ids_V,
            token_totals_V=totals_V,
            token_counts_VLE=by_id_VLE,
            truncated_documents=self.truncated_documents + other.truncated_documents,
        )


def _known_ids(a: RoutingCounts, b: RoutingCounts) -> set[int]:
    ids_a, ids_b = set(a.token_ids_V.tolist()), set(b.token_ids_V.tolist())
    known = ids_a & ids_b
    if int(b.token_totals_V.sum()) == b.tokens:
        known |= ids_a
    if int(a.token_totals_V.sum()) == a.tokens:
        known |= ids_b
    return known


@dataclass(frozen=True, slots=True, eq=False)
class TokenSample:
    """Token-level routing of a seeded sample of whole documents, in document and position order."""

    document_N: Ints
    """Index into the side's `document_ids` (its own, where it has some), int32."""
    position_N: Ints
    """Position in the document, BOS included, int32."""
    token_N: Ints
    """Token id, int32."""
    labelled_N: Bools
    """Calibration mask: the label t+1 is in the loss (BOS included)."""
    counted_N: Bools
    """Map mask: counted in the side's frequencies."""
    index_NLK: Ints
    """Experts chosen, int16; -1 where a slot is skipped or the site has fewer experts per token."""
    gate_NLK: Floats
    """Gate weights, float16; 0 where a slot is skipped."""
    complete: bool
    """Whether the sample is the whole set."""
    document_ids: tuple[str, ...] = ()
    """Ids of the sampled documents where the side's rows are blocks; `document_N` counts these."""

    def __len__(self) -> int:
        return len(self.token_N)


@dataclass(frozen=True, slots=True, eq=False)
class Profile:
    """Routing of a forget and a retain set through one model."""

    meta: dict[str, Any]
    """Model, sets, settings, versions and n; JSON values only."""
    layers: tuple[int, ...]
    """True decoder layer of each site."""
    num_experts_L: tuple[int, ...]
    experts_per_token_L: tuple[int, ...]
    forget: RoutingCounts
    retain: RoutingCounts
    sample_forget: TokenSample
    sample_retain: TokenSample
    token_text: dict[int, str]
    """Text of every token id that the counts or the samples mention."""

    @property
    def layout(self) -> Layout:
        """Layers and numbers of experts alone."""
        return Layout(self.layers, self.num_experts_L)

    def site_of(self, layer: int) -> int:
        """Row of a decoder layer in every (L, ...) array; InputError names the layers there are."""
        return self.layout.site_of(layer)

    def sampled_ids(self, side: str) -> tuple[str, ...]:
        """Ids that the sample's `document_N` counts."""
        return self.sample(side).document_ids or self.counts(side).document_ids

    def check_cell(self, layer: int, expert: int) -> int:
        """Row of the cell's layer; raises InputError when layer or expert does not exist."""
        return self.layout.check_cell(layer, expert)

    def cell_mask_LE(self) -> Bools:
        """True for cells that exist, shape (L, E): sites may differ in their number of experts."""
        experts = self.forget.counts_DLE.shape[2]
        return np.arange(experts)[None, :] < np.array(self.num_experts_L)[:, None]

    def counts(self, side: str) -> RoutingCounts:
        """Counts of "forget" or "retain"; raises InputError for any other name."""
        return self.forget if self._check_side(side) == "forget" else self.retain

    def sample(self, side: str) -> TokenSample:
        """Token sample of "forget" or "retain"; raises InputError for any other name."""
        return self.sample_forget if self._check_side(side) == "forget" else self.sample_retain

    @staticmethod
    def _check_side(side: str) -> str:
        if side not in ("forget", "retain"):
            raise InputError(f'A side is "forget" or "retain", found {side!r}.')
        return side

    def save(self, directory: str | Path) -> None:
        """Write the profile as a directory that appears complete or not at all.

        What was there before is replaced. Raises InputError when the place cannot be written.
        """
        from trace_engine.routing.storage import save_profile

        save_profile(self, Path(directory))

    @classmethod
    def load(cls, directory: str | Path) -> "Profile":
        """Read a saved profile, without torch. Raises InputError when missing, damaged or newer."""
        from trace_engine.routing.storage import load_profile

        return load_profile(Path(directory))
