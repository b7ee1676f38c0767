"""Negative log-likelihood of documents, computed by ourselves from the logits.

The HF heads' `.loss` may include the load-balancing term, so nothing here asks for it. The price
is one float32 copy of a batch's logits; `tokens_per_batch` bounds it.
"""

# Dims: D documents, B documents of a batch, S positions of a row, T = S - 1 shifted positions, V
# vocabulary

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from trace_engine.models import Batch, Encoded, OpenModel, make_batches
from trace_engine.progress import Meter, ProgressCallback, ignore_progress

NO_LOSS = -100
"""Label of a position that is not in the loss (padding, a prompt), as in transformers."""


def token_nll(logits_BSV: Tensor, labels_BS: Tensor) -> Tensor:
    """Negative log-likelihood in nats of each shifted label.

    logits (B, S, V), labels (B, S) unshifted, -100 where no loss -> (B, S-1), at least float32:
    entry t is the loss of predicting label t+1 from position t, and exactly 0 where label t+1 is
    -100.
    """
    logits_BTV = logits_BSV[:, :-1]
    if logits_BTV.dtype in (torch.float16, torch.bfloat16):
        logits_BTV = logits_BTV.float()
    flat_N = F.cross_entropy(
        logits_BTV.flatten(0, 1), labels_BS[:, 1:].flatten(), ignore_index=NO_LOSS, reduction="none"
    )
    return flat_N.view(labels_BS.shape[0], -1)


def label_mask(labels_BS: Tensor) -> Tensor:
    """Which shifted positions are in the loss: (B, S) -> bool (B, S-1); the calibration mask."""
    return labels_BS[:, 1:] != NO_LOSS


def sequence_nll(nll_BT: Tensor) -> Tensor:
    """Summed NLL of each document, NLL_s: (B, S-1) -> (B,)."""
    return nll_BT.sum(dim=1)


def forward_nll(opened: OpenModel, batch: Batch) -> Tensor:
    """One forward pass, with whatever gradient mode is on: token NLL (B, S-1) of a batch on the
    model's device.
    """
    logits_BSV = opened.model(**batch.inputs, use_cache=False).logits
    return token_nll(logits_BSV, batch.labels_BS)


def document_nll(
    opened: OpenModel,
    encoded: Sequence[Encoded],
    tokens_per_batch: int = 4096,
    *,
    phase: str = "measuring loss",
    report: ProgressCallback = ignore_progress,
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Summed NLL (D,) float64 in nats and number of labels (D,) of each encoded document.

    Without gradients and in eval mode; the model's own mode is restored. Batches are composed by
    length, so a document's number does not depend on the order of the list beyond float32
    rounding.
    """
    nll_D = np.zeros(len(encoded), dtype=np.float64)
    labels_D = np.zeros(len(encoded), dtype=np.int64)
    meter = Meter(phase, sum(len(item.ids) for item in encoded), "tokens", report)
    was_training = opened.model.training
    opened.model.eval()
    try:
        with torch.no_grad():
            for batch in make_batches(encoded, tokens_per_batch):
                nll_BT = forward_nll(opened, batch.to(opened.device))
                document_B = batch.document_B.numpy()
                nll_D[document_B] = sequence_nll(nll_BT.double()).cpu().numpy()
                labels_D[document_B] = label_mask(batch.labels_BS).sum(dim=1).numpy()
                meter.add(int(batch.attention_mask_BS.sum()))
    finally:
        opened.model.train(was_training)
    return nll_D, labels_D
