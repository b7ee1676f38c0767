"""Forget and retain losses as pure functions of tensors, so that each can be checked by hand.

They start from token losses that evaluation computes as well (`evaluation.nll`), never from the
HF heads' `.loss`, which may include the load-balancing term: gradient ascent would ascend it too.
"""

# Dims: B documents, S positions of a padded row, T = S - 1 shifted positions

import torch.nn.functional as F
from torch import Tensor

from trace_engine.evaluation.nll import label_mask, sequence_nll, token_nll

__all__ = [
    "graddiff_forget",
    "label_mask",
    "npo_forget",
    "retain_nll",
    "sequence_nll",
    "token_nll",
]


def graddiff_forget(nll_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Forget term of GradDiff: minus the mean NLL over the batch's labels (gradient ascent).

    Source: Liu, Liu and Stone, "Continual learning and private unlearning", 2022; as in
    locuslab/tofu, where the mean runs over tokens, not documents.
    """
    return -(nll_BT.sum() / mask_BT.sum())


def npo_forget(nll_B: Tensor, reference_nll_B: Tensor, beta: float) -> Tensor:
    """Forget term of negative preference optimisation: -(2/beta) mean log sigmoid(beta (NLL -
    NLL_ref)).

    nll_B: (B,) summed NLL of each document now; reference_nll_B: the same under the start model,
    no gradient. Source: Zhang, Lin, Bai and Mei, "Negative Preference Optimization", 2024, eq. 3
    with log(pi/pi_ref) = NLL_ref - NLL. Equals (2/beta) log 2 at the start and falls to 0 as NLL
    grows.
    """
    return -(2.0 / beta) * F.logsigmoid(beta * (nll_B - reference_nll_B)).mean()


def retain_nll(nll_BT: Tensor, mask_BT: Tensor, weights_BT: Tensor | None = None) -> Tensor:
    """Retain term: sum(w * l) / n, n the number of labels; plain mean without weights.

    Divided by n and not by sum(w): w = 1 is then bitwise the unweighted loss and gradient, and
    under whole-set normalising a batch keeps its share of the set's weight. weights_BT (B, S-1)
    carries no gradient.
    """
    if weights_BT is not None:
        nll_BT = weights_BT.detach().to(nll_BT.dtype) * nll_BT
    return nll_BT.sum() / mask_BT.sum()
