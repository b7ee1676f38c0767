"""Routing of a fixed list of documents, token by token, to compare two states of one model.

Kept as int16 indices in document order, so that the start state of a long run stays small and two
probes of the same documents line up row by row.
"""

# Dims: N valid tokens of all documents, L MoE sites, K experts per token (largest over sites)

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trace_engine.evaluation.loss import encode_documents
from trace_engine.models import OpenModel, RoutingTap, Site, backbone, make_batches
from trace_engine.sets import Document


class RoutingRecorder:
    """Collects what a RoutingTap reports during one forward and hands it out as one array."""

    def __init__(self, sites: Sequence[Site]) -> None:
        self._order = [site.index for site in sites]
        self._index_TK: dict[int, Tensor] = {}

    def __call__(self, site: int, index_TK: Tensor, weight_TK: Tensor) -> None:
        self._index_TK[site] = index_TK

    def take(self) -> Tensor:
        """(T, L, K) int64, -1 where a slot was skipped or a site has fewer; forgets what it hands
        out.
        """
        rows = [self._index_TK.pop(site) for site in self._order]
        width = max(row.shape[1] for row in rows)
        padded = [torch.nn.functional.pad(row, (0, width - row.shape[1]), value=-1) for row in rows]
        return torch.stack(padded, dim=1)


def routing_probe(
    opened: OpenModel,
    documents: Sequence[Document],
    max_length: int,
    tokens_per_batch: int = 4096,
) -> NDArray[np.int16]:
    """Chosen experts (N, L, K) of every valid token, documents in their order, tokens in theirs.

    Skipped slots are -1. Runs the backbone only, without gradients and in eval mode; the model's
    mode is restored.
    """
    encoded = encode_documents(opened, documents, max_length)
    per_document: dict[int, NDArray[np.int16]] = {}
    recorder = RoutingRecorder(opened.sites)
    body = backbone(opened.model)
    was_training = opened.model.training
    opened.model.eval()
    try:
        with torch.no_grad(), RoutingTap(opened.sites, recorder):
            for batch in make_batches(encoded, tokens_per_batch):
                body(**batch.to(opened.device).inputs, use_cache=False)
                index_TLK = recorder.take().cpu().numpy().astype(np.int16)
                index_BSLK = index_TLK.reshape(*batch.input_ids_BS.shape, *index_TLK.shape[1:])
                valid_BS = batch.valid_BS.numpy()
                for row, document in enumerate(batch.document_B.tolist()):
                    per_document[document] = index_BSLK[row][valid_BS[row]]
    finally:
        opened.model.train(was_training)
    if not per_document:
        return np.zeros((0, len(opened.sites), 1), dtype=np.int16)
    return np.concatenate([per_document[document] for document in sorted(per_document)])


def probe_documents(
    opened: OpenModel, documents: Sequence[Document], max_length: int
) -> NDArray[np.int64]:
    """Document index (N,) of each row of `routing_probe`, so that intervals can be over
    documents.
    """
    encoded = encode_documents(opened, documents, max_length)
    return np.repeat(np.arange(len(encoded)), [len(item.ids) for item in encoded])
