"""Adds up routing while a model runs: integers per document, per token id and per pair of experts.

Everything but the per-document counts stays on the model's device until the end, one bincount per
site and batch, so that the host never waits inside a forward. Accepted cost: the per-token-id table
is dense, so it is bounded by `MAX_TOKEN_CELLS` and rarer ids are left out of it (the coverage says
how much).

Dims: B documents of a batch, S padded length, T = B*S, R counted rows of T, D documents (or
blocks), L MoE sites, E experts (largest over sites), K experts per token, V tracked token ids, M =
E + 1 (the last column takes skipped slots).
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trace_engine.routing.profile import RoutingCounts

MAX_TOKEN_CELLS = 2**25
"""Bound on V * L * E: 256 MB of int64 a side."""


def tracked_ids(
    forget_V: NDArray[np.int64], retain_V: NDArray[np.int64], sites: int, experts: int
) -> NDArray[np.int64]:
    """Token ids to keep a row for, ascending: all, or the most frequent of the forget side.

    Takes how often each side's counted tokens have an id, by id. Ids that the forget side lacks
    come after all that it has, by their frequency on the retain side; ties by id.
    """
    size = max(len(forget_V), len(retain_V))
    by_forget_V = np.pad(forget_V, (0, size - len(forget_V)))
    by_retain_V = np.pad(retain_V, (0, size - len(retain_V)))
    order = np.lexsort((np.arange(size), -by_retain_V, -by_forget_V))
    room = max(1, MAX_TOKEN_CELLS // (sites * experts))
    seen = order[(by_forget_V + by_retain_V)[order] > 0]
    return np.sort(seen[:room])


class Tally:
    """Counts of one side, or of a window of it. Per batch: `start`, a forward that calls `add` for
    each site, `finish`.

    A row is a document, or with `row_D` a block of them: the row of each document.
    """

    def __init__(
        self,
        document_ids: tuple[str, ...],
        experts_per_token_L: tuple[int, ...],
        experts: int,
        token_ids_V: NDArray[np.int64],
        device: torch.device,
        row_D: NDArray[np.int64] | None = None,
    ) -> None:
        self.broken: set[int] = set()
        self._document_ids, self._device = document_ids, device
        self._row_D = None if row_D is None else torch.from_numpy(row_D)
        self._known_D = np.zeros(len(document_ids), dtype=np.int64)
        self._experts, self._columns = experts, experts + 1
        sites, documents = len(experts_per_token_L), len(document_ids)
        self._tokens_D = np.zeros(documents, dtype=np.int64)
        self._counts_DLM = np.zeros((documents, sites, self._columns), dtype=np.int64)
        self._mass_DLE = np.zeros((documents, sites, experts))
        self._token_ids_V = token_ids_V
        rows = len(token_ids_V) + 1
        size = int(token_ids_V.max(initial=-1)) + 2
        row_of_id = np.full(size, rows - 1)
        row_of_id[token_ids_V] = np.arange(rows - 1)
        self._row_of_id = torch.from_numpy(row_of_id).to(device)
        self._by_id_LVM = torch.zeros(
            (sites, rows * self._columns), dtype=torch.long, device=device
        )
        self._totals_V = torch.zeros(rows, dtype=torch.long, device=device)
        self._pairs_LMM = torch.zeros((sites, self._columns**2), dtype=torch.long, device=device)

    def start(self, token_BS: Tensor, counted_BS: Tensor, document_B: Tensor) -> None:
        """Say what the rows of the next forward are; all on the model's device."""
        documents, width = token_BS.shape
        self._rows_R = counted_BS.reshape(-1).nonzero()[:, 0]
        document_R = self._rows_R // width
        tokens_B = counted_BS.sum(dim=1)
        row_B = document_B.cpu()
        if self._row_D is not None:
            # Documents of one block are one row of the batch, so that rows stay unique.
            row_B, of_B = torch.unique(self._row_D[row_B], return_inverse=True)
            of_B, documents = of_B.to(self._device), len(row_B)
            document_R = of_B[document_R]
            known_B = torch.bincount(of_B[tokens_B > 0], minlength=documents)
            self._known_D[row_B.numpy()] += known_B.cpu().numpy()
            zeros_B = torch.zeros(documents, dtype=torch.long, device=self._device)
            tokens_B = zeros_B.scatter_add_(0, of_B, tokens_B)
        self._documents = documents
        self._document_R1 = document_R[:, None]
        token_R = token_BS.reshape(-1)[self._rows_R]
        # Ids beyond the table are untracked: its last entry is the spare row.
        self._id_row_R1 = self._row_of_id[token_R.clamp(max=len(self._row_of_id) - 1)][:, None]
        self._totals_V += torch.bincount(self._id_row_R1[:, 0], minlength=len(self._totals_V))
        self._document_B = row_B.numpy()
        self._tokens_D[self._document_B] += tokens_B.cpu().numpy()
        self._batch: dict[int, tuple[Tensor, Tensor]] = {}

    def add(self, site: int, index_TK: Tensor, weight_TK: Tensor) -> None:
        """Count one site's routing of the batch; slots of index -1 are skipped slots."""
        index_RK, weight_RK = index_TK[self._rows_R], weight_TK[self._rows_R]
        column_RK = torch.where(index_RK < 0, self._experts, index_RK)
        cells = self._documents * self._columns
        key = (self._document_R1 * self._columns + column_RK).reshape(-1)
        counts = torch.bincount(key, minlength=cells)
        mass = torch.bincount(key, weight_RK.reshape(-1).double(), minlength=cells)
        self._batch[site] = (counts, mass)
        id_key = (self._id_row_R1 * self._columns + column_RK).reshape(-1)
        self._by_id_LVM[site].scatter_add_(0, id_key, torch.ones_like(id_key))
        slots = index_RK.shape[1]
        first, second = torch.triu_indices(slots, slots, 1, device=self._device)
        pair = (column_RK[:, first] * self._columns + column_RK[:, second]).reshape(-1)
        self._pairs_LMM[site] += torch.bincount(pair, minlength=self._columns**2)

    def finish(self) -> set[int]:
        """Move the batch's per-document counts to the host; returns the sites that were counted.

        `broken` then holds the sites whose gate weights were not all finite.
        """
        for site, (counts, mass) in self._batch.items():
            shape = (self._documents, self._columns)
            self._counts_DLM[self._document_B, site] += counts.cpu().numpy().reshape(shape)
            mass_BM = mass.cpu().numpy().reshape(shape)
            if not np.isfinite(mass_BM).all():
                self.broken.add(site)
            self._mass_DLE[self._document_B, site] += mass_BM[:, :-1]
        return set(self._batch)

    def result(self, truncated_documents: int) -> RoutingCounts:
        """The side's counts so far."""
        experts = self._experts
        sites = len(self._pairs_LMM)
        counts_DLE = np.ascontiguousarray(self._counts_DLM[:, :, :experts])
        half_LMM = self._pairs_LMM.cpu().numpy().reshape(sites, self._columns, self._columns)
        half_LEE = half_LMM[:, :experts, :experts]
        pairs_LEE = half_LEE + half_LEE.transpose(0, 2, 1)
        each = np.arange(experts)
        pairs_LEE[:, each, each] = counts_DLE.sum(axis=0)
        by_id_LVM = self._by_id_LVM.cpu().numpy().reshape(sites, -1, self._columns)
        return RoutingCounts(
            document_ids=self._document_ids,
            tokens_D=self._tokens_D,
            counts_DLE=counts_DLE,
            gate_mass_DLE=self._mass_DLE,
            skipped_DL=np.ascontiguousarray(self._counts_DLM[:, :, experts]),
            coactivation_LEE=pairs_LEE,
            token_ids_V=self._token_ids_V,
            token_totals_V=self._totals_V.cpu().numpy()[:-1],
            token_counts_VLE=np.ascontiguousarray(by_id_LVM[:, :-1, :experts].transpose(1, 0, 2)),
            truncated_documents=truncated_documents,
            block_documents_D=None if self._row_D is None else self._known_D,
        )
