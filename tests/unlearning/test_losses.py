"""Losses against numbers worked out by hand, at padding and prompts, and their gradients in
float64.
"""

import math

import pytest
import torch
from torch import Tensor

from trace_engine.unlearning.losses import (
    graddiff_forget,
    label_mask,
    npo_forget,
    retain_mean,
    sequence_nll,
    token_nll,
)


def logits_giving(nll_BT: list[list[float]], labels_BS: Tensor, vocabulary: int = 3) -> Tensor:
    """Logits (B, S, V) whose shifted losses are exactly those asked for: the rest shares 1 - p
    evenly.
    """
    rows, width = labels_BS.shape
    logits_BSV = torch.zeros(rows, width, vocabulary, dtype=torch.float64)
    for row in range(rows):
        for t in range(width - 1):
            p = math.exp(-nll_BT[row][t])
            logits_BSV[row, t] = math.log((1 - p) / (vocabulary - 1))
            label = int(labels_BS[row, t + 1])
            if label >= 0:
                logits_BSV[row, t, label] = math.log(p)
    return logits_BSV


def test_token_nll_is_shifted_and_zero_where_there_is_no_label() -> None:
    labels_BS = torch.tensor([[0, 2, 1, -100], [1, -100, 0, 2]])
    wanted = [[0.5, 1.5, 9.0], [9.0, 0.25, 2.0]]
    nll_BT = token_nll(logits_giving(wanted, labels_BS), labels_BS)
    torch.testing.assert_close(
        nll_BT, torch.tensor([[0.5, 1.5, 0.0], [0.0, 0.25, 2.0]], dtype=torch.float64)
    )
    assert label_mask(labels_BS).tolist() == [[True, True, False], [False, True, True]]
    torch.testing.assert_close(sequence_nll(nll_BT), torch.tensor([2.0, 2.25], dtype=torch.float64))


def test_the_last_positions_logits_and_the_first_label_never_matter() -> None:
    labels_BS = torch.tensor([[0, 2, 1]])
    logits_BSV = torch.randn(1, 3, 4, generator=torch.Generator().manual_seed(0))
    other_BSV, other_labels_BS = logits_BSV.clone(), labels_BS.clone()
    other_BSV[:, -1] = 99.0
    other_labels_BS[:, 0] = 3
    assert torch.equal(token_nll(logits_BSV, labels_BS), token_nll(other_BSV, other_labels_BS))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_token_nll_of_half_precision_logits_is_computed_in_float32(dtype: torch.dtype) -> None:
    labels_BS = torch.tensor([[0, 2, 1]])
    logits_BSV = torch.randn(1, 3, 4, generator=torch.Generator().manual_seed(1)).to(dtype)
    nll_BT = token_nll(logits_BSV, labels_BS)
    assert nll_BT.dtype == torch.float32
    assert torch.equal(nll_BT, token_nll(logits_BSV.float(), labels_BS))


def test_padding_and_ragged_lengths_change_nothing() -> None:
    generator = torch.Generator().manual_seed(2)
    long_SV = torch.randn(5, 7, generator=generator, dtype=torch.float64)
    short_SV = torch.randn(3, 7, generator=generator, dtype=torch.float64)
    labels_BS = torch.tensor([[0, 1, 2, 3, 4], [5, 6, 0, -100, -100]])
    padded_BSV = torch.zeros(2, 5, 7, dtype=torch.float64)
    padded_BSV[0], padded_BSV[1, :3] = long_SV, short_SV
    padded_BSV[1, 3:] = 7.0  # whatever a model says at padding
    together_B = sequence_nll(token_nll(padded_BSV, labels_BS))
    alone = [
        sequence_nll(token_nll(long_SV[None], labels_BS[:1])),
        sequence_nll(token_nll(short_SV[None], labels_BS[1:, :3])),
    ]
    torch.testing.assert_close(together_B, torch.cat(alone), rtol=0, atol=1e-12)


def test_graddiff_is_minus_the_mean_over_labels_not_documents() -> None:
    nll_BT = torch.tensor([[1.0, 2.0, 3.0], [6.0, 0.0, 0.0]])
    mask_BT = torch.tensor([[True, True, True], [True, False, False]])
    assert float(graddiff_forget(nll_BT, mask_BT)) == -3.0  # -(1 + 2 + 3 + 6) / 4, not -(2 + 6) / 2


def test_npo_at_the_start_and_far_away() -> None:
    start_B = torch.tensor([3.0, 8.0], dtype=torch.float64)
    at_start = npo_forget(start_B, start_B, beta=0.1)
    assert float(at_start) == pytest.approx(2 / 0.1 * math.log(2), abs=1e-12)
    # NLL 10 above the reference: (2/beta) * log(1 + exp(-beta * 10)), worked out by hand for beta
    # 0.1.
    by_hand = 20 * math.log(1 + math.exp(-1.0))
    assert float(npo_forget(start_B + 10, start_B, beta=0.1)) == pytest.approx(by_hand, abs=1e-12)
    assert float(npo_forget(start_B + 1e4, start_B, beta=0.1)) == 0.0
    assert math.isfinite(float(npo_forget(start_B - 1e6, start_B, beta=0.1)))


def test_npo_tends_to_gradient_ascent_as_beta_vanishes() -> None:
    """Zhang et al. 2024, Proposition 1: the gradient's limit is that of minus the mean sequence
    NLL.
    """
    nll_B = torch.tensor([5.0, 9.0], dtype=torch.float64, requires_grad=True)
    reference_B = torch.tensor([4.0, 6.0], dtype=torch.float64)
    (gradient_B,) = torch.autograd.grad(npo_forget(nll_B, reference_B, beta=1e-9), nll_B)
    torch.testing.assert_close(
        gradient_B, torch.tensor([-0.5, -0.5], dtype=torch.float64), atol=1e-8, rtol=0
    )


def test_npo_takes_each_documents_own_reference() -> None:
    nll_B = torch.tensor([5.0, 5.0], dtype=torch.float64)
    reference_B = torch.tensor([5.0, 0.0], dtype=torch.float64)
    by_hand = 2 * (math.log(2) + math.log(1 + math.exp(-5.0))) / 2
    assert float(npo_forget(nll_B, reference_B, beta=1.0)) == pytest.approx(by_hand, abs=1e-12)


def test_retain_divides_by_the_number_of_labels_not_by_the_weights() -> None:
    nll_BT = torch.tensor([[1.0, 2.0, 0.0]])
    mask_BT = torch.tensor([[True, True, False]])
    weights_BT = torch.tensor([[3.0, 0.5, 0.0]], dtype=torch.float64)
    assert float(retain_mean(nll_BT, mask_BT, weights_BT)) == 2.0  # (3 * 1 + 0.5 * 2) / 2


def test_weights_of_one_are_bitwise_the_unweighted_loss_and_gradient() -> None:
    labels_BS = torch.tensor([[0, 2, 1, 3], [1, 3, -100, -100]])
    base_BSV = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(3))
    found = []
    for weights_BT in (None, torch.ones(2, 3, dtype=torch.float64)):
        logits_BSV = base_BSV.clone().requires_grad_()
        loss = retain_mean(token_nll(logits_BSV, labels_BS), label_mask(labels_BS), weights_BT)
        found.append((loss, *torch.autograd.grad(loss, logits_BSV)))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])


def test_no_gradient_flows_through_weights() -> None:
    nll_BT = torch.tensor([[1.0, 2.0]], requires_grad=True)
    weights_BT = torch.tensor([[2.0, 3.0]], requires_grad=True)
    retain_mean(nll_BT, torch.ones(1, 2, dtype=torch.bool), weights_BT).backward()
    assert weights_BT.grad is None
    assert nll_BT.grad is not None
    assert nll_BT.grad.tolist() == [[1.0, 1.5]]


@pytest.mark.parametrize("method", ["graddiff", "npo", "retain"])
def test_gradients_in_float64(method: str) -> None:
    labels_BS = torch.tensor([[0, 2, 1, 3], [1, 3, -100, -100], [0, -100, 2, -100]])
    mask_BT = label_mask(labels_BS)
    weights_BT = torch.tensor([[0.5, 2.0, 1.0], [1.5, 0.0, 0.0], [0.0, 3.0, 0.0]]).double()
    reference_B = torch.tensor([4.0, 1.0, 2.0], dtype=torch.float64)

    def loss(logits_BSV: Tensor) -> Tensor:
        nll_BT = token_nll(logits_BSV, labels_BS)
        if method == "graddiff":
            return graddiff_forget(nll_BT, mask_BT)
        if method == "npo":
            return npo_forget(sequence_nll(nll_BT), reference_B, beta=0.5)
        return retain_mean(nll_BT, mask_BT, weights_BT)

    generator = torch.Generator().manual_seed(4)
    logits_BSV = torch.randn(3, 4, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(loss, (logits_BSV,))
