"""Keeps token-level routing of some whole documents, bounded, the same whatever the batches are.

A document's place in the draw is a hash of the seed and its id, so neither batch order nor the
other documents' order matters. Accepted cost: the sample ends at the first drawn document that does
not fit, so it can stay below the bound by one document.

Dims: B documents of a batch, S padded length, T = B*S, N sampled tokens, L MoE sites, K experts per
token (largest over sites).
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trace_engine.routing.profile import TokenSample


@dataclass(frozen=True, slots=True, order=True)
class Drawn:
    """A document's place in the draw; the least ones are the sample."""

    place: bytes
    """SHA-256 of the seed and the id."""
    document_id: str
    document: int
    """Place in the set."""
    length: int
    """Tokens, special ones included."""

    @classmethod
    def of(cls, seed: int, document_id: str, document: int, length: int) -> Self:
        place = hashlib.sha256(f"{seed}\0{document_id}".encode()).digest()
        return cls(place, document_id, document, length)


def least(drawn: Iterable[Drawn], limit: int, spare: int = 0) -> list[Drawn]:
    """The sample of at most `limit` tokens, in the order of the draw.

    Whole documents until one does not fit; the first with tokens is in whatever its length, so that
    a set of long documents has a sample too. With `spare` 1 the one that does not fit is kept as
    well: what a part of a set must remember, for the draw over the parts to equal the draw over the
    whole (a bottom-k sketch).
    """
    chosen: list[Drawn] = []
    tokens = 0
    for item in sorted(drawn):
        if tokens and tokens + item.length > limit:
            return chosen + [item] * spare
        chosen.append(item)
        tokens += item.length
    return chosen


def drawn_documents(
    document_ids: Sequence[str], lengths: Sequence[int], limit: int, seed: int
) -> NDArray[np.bool_]:
    """Which documents are in a sample of at most `limit` tokens, shape (D,); see `least`."""
    rows = zip(document_ids, range(len(document_ids)), lengths, strict=True)
    drawn = least((Drawn.of(seed, *row) for row in rows), limit)
    chosen_D = np.zeros(len(document_ids), dtype=np.bool_)
    chosen_D[[item.document for item in drawn]] = True
    return chosen_D


class SampleTaker:
    """Collects one side's sample. Per batch: `start`, `add` for each site, `finish`."""

    def __init__(self, chosen_D: NDArray[np.bool_], experts_per_token_L: tuple[int, ...]) -> None:
        self._chosen_D = chosen_D
        self._sites, self._slots = len(experts_per_token_L), max(experts_per_token_L)
        self._parts: list[dict[str, NDArray[np.generic]]] = []

    def start(
        self,
        token_BS: Tensor,
        valid_BS: Tensor,
        counted_BS: Tensor,
        labelled_BS: Tensor,
        document_B: Tensor,
    ) -> None:
        """Say what the rows of the next forward are; all on the model's device."""
        chosen_B = torch.from_numpy(self._chosen_D).to(document_B.device)[document_B]
        self._rows_N = (valid_BS & chosen_B[:, None]).reshape(-1).nonzero()[:, 0]
        width = token_BS.shape[1]
        row_N = self._rows_N // width
        self._part: dict[str, NDArray[np.generic]] = {
            "document_N": _host(document_B[row_N], np.int32),
            "position_N": _host(self._rows_N % width, np.int32),
            "token_N": _host(token_BS.reshape(-1)[self._rows_N], np.int32),
            "labelled_N": _host(labelled_BS.reshape(-1)[self._rows_N], np.bool_),
            "counted_N": _host(counted_BS.reshape(-1)[self._rows_N], np.bool_),
        }
        shape = (len(self._rows_N), self._sites, self._slots)
        self._index_NLK = torch.full(shape, -1, dtype=torch.int16, device=token_BS.device)
        self._gate_NLK = torch.zeros(shape, dtype=torch.float16, device=token_BS.device)

    def add(self, site: int, index_TK: Tensor, weight_TK: Tensor) -> None:
        """Keep one site's routing of the sampled rows."""
        if len(self._rows_N) == 0:
            return
        index_NK, slots = index_TK[self._rows_N], index_TK.shape[1]
        self._index_NLK[:, site, :slots] = index_NK.short()
        gate_NK = weight_TK[self._rows_N].half()
        self._gate_NLK[:, site, :slots] = torch.where(index_NK >= 0, gate_NK, 0.0)

    def finish(self) -> None:
        """Move the batch's part to the host."""
        self._part["index_NLK"] = _host(self._index_NLK, np.int16)
        self._part["gate_NLK"] = _host(self._gate_NLK, np.float16)
        self._parts.append(self._part)

    def result(self) -> TokenSample:
        """The sample, in document and position order; empty when no batch was run."""
        if not self._parts:
            self._parts.append(self._empty())
        whole = {
            name: np.concatenate([part[name] for part in self._parts]) for name in self._parts[0]
        }
        order = np.lexsort((whole["position_N"], whole["document_N"]))
        arrays: dict[str, NDArray[np.generic]] = {name: a[order] for name, a in whole.items()}
        return TokenSample(**arrays, complete=bool(self._chosen_D.all()))  # type: ignore[arg-type]

    def _empty(self) -> dict[str, NDArray[np.generic]]:
        shape = (0, self._sites, self._slots)
        flat = {"document_N": np.int32, "position_N": np.int32, "token_N": np.int32}
        part: dict[str, NDArray[np.generic]] = {n: np.zeros(0, kind) for n, kind in flat.items()}
        part |= {name: np.zeros(0, np.bool_) for name in ("labelled_N", "counted_N")}
        return part | {
            "index_NLK": np.zeros(shape, np.int16),
            "gate_NLK": np.zeros(shape, np.float16),
        }


def _host(values: Tensor, dtype: type[np.generic]) -> NDArray[np.generic]:
    return values.cpu().numpy().astype(dtype)
