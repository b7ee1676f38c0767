"""Batches laid out otherwise: the same documents with their padding on the left, or with more."""

import torch

from trace_engine.models import Batch

FILLER = 7
"""A real token's id under the padding, so that a leak would be seen."""


def padded(batch: Batch, *, left: bool, more: int = 0) -> Batch:
    """The same rows with padding on one side, `more` columns of it beyond what the longest needs.

    Positions are explicit and those of the documents, whatever stands before them.
    """
    rows, width = batch.input_ids_BS.shape
    laid = {
        "input_ids_BS": torch.full((rows, width + more), FILLER),
        "attention_mask_BS": torch.zeros(rows, width + more, dtype=torch.long),
        "position_ids_BS": torch.zeros(rows, width + more, dtype=torch.long),
        "labels_BS": torch.full((rows, width + more), -100),
    }
    for row, valid_S in enumerate(batch.valid_BS):
        length = int(valid_S.sum())
        start = width + more - length if left else 0
        for name, tensor_BS in laid.items():
            tensor_BS[row, start : start + length] = getattr(batch, name)[row][valid_S]
    return Batch(**laid, document_B=batch.document_B)
