"""Forget and retain losses as pure functions of tensors, so that each can be checked by hand.

They start from token losses that evaluation computes as well (`evaluation.nll`), never from the
HF heads' `.loss`, which may include the load-balancing term: gradient ascent would ascend it too.
"""

# Dims: B documents, S positions of a padded row, T = S - 1 shifted positions, N labels in row-major
# order, V vocabulary, D hidden size

import torch
import torch.nn.functional as F
from torch import Tensor

from trace_engine.evaluation.nll import NO_LOSS, label_mask, sequence_nll, token_nll

__all__ = [
    "ceu_forget",
    "dpo_forget",
    "graddiff_forget",
    "label_mask",
    "later_labels",
    "npo_forget",
    "retain_mean",
    "rmu_forget",
    "satimp_forget",
    "sequence_nll",
    "simnpo_forget",
    "token_hidden",
    "token_kl",
    "token_mask",
    "token_nll",
    "undial_forget",
    "wga_forget",
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


def simnpo_forget(nll_BT: Tensor, mask_BT: Tensor, beta: float, delta: float) -> Tensor:
    """Forget term of SimNPO: -(2/beta) mean log sigmoid(beta (NLL / labels - delta)).

    Each document's NLL is divided by its own number of labels. Source: Fan et al., "Simplicity
    Prevails", 2024, in OpenUnlearning's form, where delta is a loss per token (the paper's margin
    is beta * delta).
    """
    mean_B = sequence_nll(nll_BT) / mask_BT.sum(dim=1)
    return -(2.0 / beta) * F.logsigmoid(beta * (mean_B - delta)).mean()


def wga_forget(nll_BT: Tensor, mask_BT: Tensor, beta: float) -> Tensor:
    """Forget term of weighted gradient ascent: -mean(p^beta l), p the label's probability, without
    gradient.

    Source: Wang et al., "Rethinking LLM Unlearning Objectives", 2025.
    """
    weight_BT = (-beta * nll_BT.detach()).exp()
    return graddiff_forget(weight_BT * nll_BT, mask_BT)


def satimp_forget(nll_BT: Tensor, mask_BT: Tensor, beta1: float, beta2: float) -> Tensor:
    """Forget term of SatImp: -mean(p^beta1 (1 - p)^beta2 l), the weight without gradient.

    Source: Yang et al., "Exploring Criteria of Loss Reweighting to Enhance LLM Unlearning", 2025.
    """
    fixed_BT = nll_BT.detach()
    # 1 - p from the loss itself: exact also where p is next to 1.
    weight_BT = (-beta1 * fixed_BT).exp() * (-torch.expm1(-fixed_BT)) ** beta2
    return graddiff_forget(weight_BT * nll_BT, mask_BT)


def undial_forget(
    logits_BSV: Tensor, start_logits_BSV: Tensor, labels_BS: Tensor, beta: float
) -> Tensor:
    """Forget term of UNDIAL: mean cross-entropy against softmax(start logits - beta onehot(label)).

    Over positions with a label; the start model's logits carry no gradient. Source: Dong et al.,
    "UNDIAL: Self-Distillation with Adjusted Logits", 2024.
    """
    mask_BT = label_mask(labels_BS)
    adjusted_NV = _at_labels(start_logits_BSV, mask_BT).detach().clone()
    rows_N = torch.arange(len(adjusted_NV), device=adjusted_NV.device)
    adjusted_NV[rows_N, labels_BS[:, 1:][mask_BT]] -= beta
    return F.cross_entropy(_at_labels(logits_BSV, mask_BT), adjusted_NV.softmax(dim=-1))


def ceu_forget(logits_BSV: Tensor, labels_BS: Tensor) -> Tensor:
    """Forget term of CE-U: mean cross-entropy against the model's own softmax with the label's
    logit at minus infinity, which carries no gradient.

    Over each answer's labels but the first: what an answer begins with is form more than knowledge.
    The gradient by the logits is softmax - target: bounded, and 0 where the label has no
    probability left. Source: Yang, "CE-U: Cross Entropy Unlearning", 2025 (the first token by its
    footnote on training).
    """
    mask_BT = later_labels(labels_BS)
    now_NV = _at_labels(logits_BSV, mask_BT)
    target_NV = now_NV.detach().clone()
    rows_N = torch.arange(len(target_NV), device=target_NV.device)
    target_NV[rows_N, labels_BS[:, 1:][mask_BT]] = -torch.inf
    return F.cross_entropy(now_NV, target_NV.softmax(dim=-1))


def later_labels(labels_BS: Tensor) -> Tensor:
    """Shifted positions in the loss but each document's first: (B, S) -> bool (B, S-1)."""
    mask_BT = label_mask(labels_BS)
    return mask_BT & (mask_BT.cumsum(dim=1) > 1)


def dpo_forget(
    nll_B: Tensor,
    reference_nll_B: Tensor,
    preferred_nll_B: Tensor,
    preferred_reference_nll_B: Tensor,
    beta: float,
) -> Tensor:
    """Forget term of DPO: -(2/beta) mean log sigmoid(beta ((NLL - NLL_ref) - (NLL' - NLL'_ref))).

    Primed is the preferred answer's; all are sums over one answer's labels, those of the start
    model without gradient. Source: Rafailov et al., "Direct Preference Optimization", 2023, eq. 7
    with log(pi/pi_ref) = NLL_ref - NLL; the factor 2/beta is NPO's, as in OpenUnlearning. Equals
    (2/beta) log 2 at the start.
    """
    lost_B = nll_B - reference_nll_B.detach()
    gained_B = preferred_reference_nll_B.detach() - preferred_nll_B
    return -(2.0 / beta) * F.logsigmoid(beta * (lost_B + gained_B)).mean()


def rmu_forget(
    hidden_BSD: Tensor, labels_BS: Tensor, direction_D: Tensor, steering: float
) -> Tensor:
    """Forget term of RMU: mean squared difference of a layer's hidden states to c u.

    Over the tokens of the texts themselves and the hidden size: padding, BOS and prompts are left
    out, as in OpenUnlearning. direction_D: u, of length 1; steering: c. Source: Li et al., "The
    WMDP Benchmark", 2024, section 4.
    """
    hidden_ND = _full(hidden_BSD[token_mask(labels_BS)])
    target_D = steering * direction_D.detach().to(hidden_ND)
    return (hidden_ND - target_D).square().mean()


def token_mask(labels_BS: Tensor) -> Tensor:
    """Positions whose own token is to be learned or unlearned: (B, S) -> bool (B, S), unshifted."""
    return labels_BS != NO_LOSS


def token_kl(logits_BSV: Tensor, start_logits_BSV: Tensor, labels_BS: Tensor) -> Tensor:
    """KL(start || current) of the predictions at each shifted label: (B, S-1), 0 without a label.

    On normalised log-probabilities, in nats, summed over the vocabulary; no gradient for the start
    model.
    """
    mask_BT = label_mask(labels_BS)
    log_p_NV = _at_labels(logits_BSV, mask_BT).log_softmax(dim=-1)
    log_q_NV = _at_labels(start_logits_BSV, mask_BT).detach().log_softmax(dim=-1)
    kl_N = F.kl_div(log_p_NV, log_q_NV, reduction="none", log_target=True).sum(dim=-1)
    return _in_place(kl_N, mask_BT)


def token_hidden(hidden_BSD: Tensor, start_hidden_BSD: Tensor, labels_BS: Tensor) -> Tensor:
    """Mean squared difference to the start model's hidden state of the same layer, at the position
    that predicts each shifted label: (B, S-1), 0 without a label.
    """
    mask_BT = label_mask(labels_BS)
    start_ND = _at_labels(start_hidden_BSD, mask_BT).detach()
    return _in_place((_at_labels(hidden_BSD, mask_BT) - start_ND).square().mean(dim=-1), mask_BT)


def retain_mean(loss_BT: Tensor, mask_BT: Tensor, weights_BT: Tensor | None = None) -> Tensor:
    """Retain term of any token loss: sum(w * l) / n, n the number of labels; plain mean without
    weights.

    Divided by n and not by sum(w): w = 1 is then bitwise the unweighted loss and gradient, and
    under whole-set normalising a batch keeps its share of the set's weight. weights_BT (B, S-1)
    carries no gradient.
    """
    if weights_BT is not None:
        loss_BT = weights_BT.detach().to(loss_BT.dtype) * loss_BT
    return loss_BT.sum() / mask_BT.sum()


def _at_labels(values_BSX: Tensor, mask_BT: Tensor) -> Tensor:
    """Rows of the positions that predict a label, at least float32: (B, S, X) -> (N, X)."""
    return _full(values_BSX[:, :-1][mask_BT])


def _full(values: Tensor) -> Tensor:
    return values.float() if values.dtype.itemsize < 4 else values


def _in_place(values_N: Tensor, mask_BT: Tensor) -> Tensor:
    """Values of the labels back at their positions, 0 elsewhere: (N,) -> (B, T)."""
    values_BT = values_N.new_zeros(mask_BT.shape)
    return values_BT.masked_scatter(mask_BT, values_N)
