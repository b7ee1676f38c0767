"""Keeps token-level routing of some whole documents, bounded, the same whatever the batches are.

A document's place in the draw is a hash of the seed and its id, so neither batch order nor the
other documents' order matters. Accepted cost: the sample ends at the first drawn document that does
not fit, so it can stay below the bound by one document.

Dims: B documents of a batch, S padded length, T = B*S, N sampled tokens, L MoE sites, K experts per
token (largest over sites).
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trace_engine.routing.profile import TokenSample


def drawn_documents(
    document_ids: Sequence[str], lengths: Sequence[int], limit: int, seed: int
) -> NDArray[np.bool_]:
    """Which documents are in a sample of at most `limit` tokens, shape (D,).

    Whole documents in hash order until one does not fit; the first one is in whatever its length,
    so that a set of long documents has a sample too.
    """
    order = sorted(range(len(document_ids)), key=lambda d: _draw(seed, document_ids[d]))
    chosen_D = np.zeros(len(document_ids), dtype=np.bool_)
    tokens = 0
    for document in order:
        if tokens and tokens + lengths[document] > limit:
            break
        chosen_D[document] = True
        tokens += lengths[document]
    return chosen_D


def _draw(seed: int, document_id: str) -> tuple[bytes, str]:
    return hashlib.sha256(f"{seed}\0{document_id}".encode()).digest(), document_id


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
        """The sample, in document and position order."""
        whole = {
            name: np.concatenate([part[name] for part in self._parts]) for name in self._parts[0]
        }
        order = np.lexsort((whole["position_N"], whole["document_N"]))
        arrays: dict[str, NDArray[np.generic]] = {name: a[order] for name, a in whole.items()}
        return TokenSample(**arrays, complete=bool(self._chosen_D.all()))  # type: ignore[arg-type]


def _host(values: Tensor, dtype: type[np.generic]) -> NDArray[np.generic]:
    return values.cpu().numpy().astype(dtype)
