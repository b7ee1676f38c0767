"""Forget and retain losses as pure functions of tensors, so that each can be checked by hand.

Cross-entropy is computed here, in float32 at least: the HF heads' `.loss` may include the load-balancing
term, which gradient ascent would ascend too. The price is one float32 copy of the logits per forward.
"""

# Dims: B documents, S positions of a padded row, T = S - 1 shifted positions, V vocabulary

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORED = -100
"""Label of a position that is not in the loss (padding, a prompt), as in transformers."""


def token_nll(logits_BSV: Tensor, labels_BS: Tensor) -> Tensor:
    """Negative log-likelihood in nats of each shifted label.

    logits (B, S, V), labels (B, S) unshifted, -100 where no loss -> (B, S-1), at least float32: entry t is
    the loss of predicting label t+1 from position t, and exactly 0 where label t+1 is -100.
    """
    logits_BTV = logits_BSV[:, :-1]
    if logits_BTV.dtype in (torch.float16, torch.bfloat16):
        logits_BTV = logits_BTV.float()
    flat_N = F.cross_entropy(
        logits_BTV.flatten(0, 1), labels_BS[:, 1:].flatten(), ignore_index=IGNORED, reduction="none"
    )
    return flat_N.view(labels_BS.shape[0], -1)


def label_mask(labels_BS: Tensor) -> Tensor:
    """Which shifted positions are in the loss: (B, S) -> bool (B, S-1); the calibration mask."""
    return labels_BS[:, 1:] != IGNORED


def sequence_nll(nll_BT: Tensor) -> Tensor:
    """Summed NLL of each document, NLL_s: (B, S-1) -> (B,)."""
    return nll_BT.sum(dim=1)


def graddiff_forget(nll_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Forget term of GradDiff: minus the mean NLL over the batch's labels (gradient ascent).

    Source: Liu, Liu and Stone, "Continual learning and private unlearning", 2022; as in locuslab/tofu,
    where the mean runs over tokens, not documents.
    """
    return -(nll_BT.sum() / mask_BT.sum())


def npo_forget(nll_B: Tensor, reference_nll_B: Tensor, beta: float) -> Tensor:
    """Forget term of negative preference optimisation: -(2/beta) mean log sigmoid(beta (NLL - NLL_ref)).

    nll_B: (B,) summed NLL of each document now; reference_nll_B: the same under the start model, no gradient.
    Source: Zhang, Lin, Bai and Mei, "Negative Preference Optimization", 2024, eq. 3 with
    log(pi/pi_ref) = NLL_ref - NLL. Equals (2/beta) log 2 at the start and falls to 0 as NLL grows.
    """
    return -(2.0 / beta) * F.logsigmoid(beta * (nll_B - reference_nll_B)).mean()


def retain_nll(nll_BT: Tensor, mask_BT: Tensor, weights_BT: Tensor | None = None) -> Tensor:
    """Retain term: sum(w * l) / n, n the number of labels; plain mean without weights.

    Divided by n and not by sum(w): w = 1 is then bitwise the unweighted loss and gradient, and under whole-set
    normalising a batch keeps its share of the set's weight. weights_BT (B, S-1) carries no gradient.
    """
    if weights_BT is not None:
        nll_BT = weights_BT.detach().to(nll_BT.dtype) * nll_BT
    return nll_BT.sum() / mask_BT.sum()
