"""The sum of a side's windows, always added in the order of the set.

Integers would agree in any order; with one order, gate mass, a sum of floats, has the same bits
whatever the number of processes or interruptions. Accepted cost: a window that finishes early waits
on disk for those before it.

Dims: D documents or blocks, L MoE sites, E experts, V tracked token ids, N sampled tokens.
"""

from dataclasses import fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trace_engine.routing.profile import RoutingCounts, TokenSample
from trace_engine.routing.scan import Scan
from trace_engine.routing.storage import COUNT_DTYPES, SAMPLE_DTYPES, Arrays
from trace_engine.routing.windows import block_names, in_blocks

PER_ROW = ("tokens_D", "counts_DLE", "gate_mass_DLE", "skipped_DL")
SUMMED = ("coactivation_LEE", "token_totals_V", "token_counts_VLE")


def window_part(counts: RoutingCounts, sample: TokenSample, start: int) -> Arrays:
    """A finished window as arrays; its sampled documents are numbered as in the whole set."""
    part: dict[str, Any] = {name: getattr(counts, name) for name in PER_ROW + SUMMED}
    part["truncated"] = np.array(counts.truncated_documents)
    if counts.block_documents_D is not None:
        part["block_documents_D"] = counts.block_documents_D
    for field in fields(sample):
        if field.name in SAMPLE_DTYPES:
            part[f"sample.{field.name}"] = getattr(sample, field.name)
    part["sample.document_N"] = sample.document_N.astype(np.int64) + start
    return part


class Total:
    """Windows added up so far."""

    def __init__(self, scan: Scan, token_ids_V: NDArray[np.int64]) -> None:
        self.windows = 0
        self._scan, self._token_ids_V = scan, token_ids_V
        self._by_block = in_blocks(scan.documents)
        self._sums: Arrays = {}
        self._rows: list[Arrays] = []
        self._samples: list[Arrays] = []

    def add(self, part: Arrays, windows: int = 1) -> None:
        """Take in the next window, or a total of several that begins here."""
        self.windows += windows
        summed = [*SUMMED, "truncated"]
        if self._by_block:
            summed += [*PER_ROW, "block_documents_D"]
        for name in summed:
            if name in self._sums:
                self._sums[name] += part[name]
            else:
                # Shards hold narrow integers, which would overflow as a sum.
                self._sums[name] = np.array(part[name], dtype=COUNT_DTYPES.get(name, np.int64))
        if not self._by_block:
            self._rows.append({name: part[name] for name in PER_ROW})
        self._samples.append({name: part[f"sample.{name}"] for name in SAMPLE_DTYPES})

    def part(self) -> Arrays:
        """All of it as arrays that `add` takes."""
        sample = _joined(self._samples)
        return (
            self._sums
            | ({} if self._by_block else _joined(self._rows))
            | {f"sample.{name}": array for name, array in sample.items()}
        )

    def result(self) -> tuple[RoutingCounts, TokenSample]:
        """Counts and token sample of the whole side."""
        rows = self._sums if self._by_block else _joined(self._rows)
        arrays: dict[str, Any] = {
            name: np.asarray(rows[name], dtype=COUNT_DTYPES[name]) for name in PER_ROW
        }
        arrays |= {name: self._sums[name] for name in SUMMED}
        counts = RoutingCounts(
            document_ids=block_names() if self._by_block else tuple(self._scan.ids),
            token_ids_V=self._token_ids_V,
            truncated_documents=int(self._sums["truncated"]),
            block_documents_D=self._sums["block_documents_D"] if self._by_block else None,
            **arrays,
        )
        return counts, self._sample()

    def _sample(self) -> TokenSample:
        whole = _joined(self._samples)
        order = np.lexsort((whole["position_N"], whole["document_N"]))
        whole = {name: array[order] for name, array in whole.items()}
        names: tuple[str, ...] = ()
        if self._by_block:
            id_of = {item.document: item.document_id for item in self._scan.drawn}
            documents, whole["document_N"] = np.unique(whole["document_N"], return_inverse=True)
            names = tuple(id_of[int(document)] for document in documents)
        sample: dict[str, Any] = {
            name: whole[name].astype(dtype, copy=False) for name, dtype in SAMPLE_DTYPES.items()
        }
        complete = len(self._scan.drawn) == self._scan.documents
        return TokenSample(**sample, complete=complete, document_ids=names)


def _joined(parts: list[Arrays]) -> Arrays:
    if len(parts) == 1:
        return parts[0]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
