"""What the profiling benchmark compares, on tensors small enough to count by hand."""

import numpy as np
import torch

from bench.profile import ROUNDING, counts_of_logits, near_ties, show


def test_choices_are_counted_from_logits_site_by_site() -> None:
    first = (
        torch.tensor([[3.0, 2.0, 1.0], [1.0, 2.0, 3.0]]),
        torch.tensor([[5.0, 0, 4], [5, 4, 0]]),
    )
    second = (torch.tensor([[0.0, 9.0, 8.0]]), torch.tensor([[0.0, 9.0, 8.0]]))
    found = counts_of_logits([first, second], per_token=2)
    np.testing.assert_array_equal(found, [[1, 3, 2], [2, 2, 2]])


def test_only_the_margin_between_last_chosen_and_first_rejected_is_a_tie() -> None:
    close = 2.0 + ROUNDING
    logits = torch.tensor(
        [[4.0, close, 2.0], [4.0, 4.0, 2.0], [4.0, 2.1, 2.0]], dtype=torch.float64
    )
    assert near_ties([(logits,)], per_token=2) == 1


def test_ratios_are_taken_within_a_round() -> None:
    seconds = {name: [1.0, 10.0, 2.0] for name in ("packed", "packed_bf16", "trace_bf16")}
    seconds |= {"trace": [0.5, 8.0, 1.8], "stored": [2.0, 16.0, 5.4]}
    figures = {
        "hardware": "this machine",
        "threads": 1,
        "rounds": 3,
        "documents": 1,
        "tokens": 100,
        "row": 64,
        "seconds": seconds,
        "difference": 2,
        "choices": 50,
        "ties": 1,
        "moved_bf16": 0.01,
        "logit_bytes_per_token": 2048,
        "others": [
            {"name": "slow", "seconds": 3.6, "tokens": 100, "note": "Much."},
            {"name": "absent", "seconds": None, "tokens": 0, "note": "not run: absent."},
        ],
        "memory": {"tokens": [10, 20], "peak_mib": [1.0, 2.0], "bytes_per_token": 0.5},
    }
    text = "\n".join(show(figures))
    assert "TRACE, float32" in text
    assert "0.80 (0.50 to 0.90)" in text
    assert "stored over TRACE: 3.00 (2.00 to 4.00)" in text
    assert "1 of 50 choices differ" in text
    assert "slow: 2.0 x TRACE's time a token" in text
    assert "absent: not run: absent." in text
