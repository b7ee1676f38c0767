"""Activity, calibration frequencies and the sum over experts (property 4)."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.profiles import synthetic_profile
from trace_engine.calibration import (
    active_matrix,
    calibration_frequencies,
    skipped_slots,
    weighted_frequency,
)
from trace_engine.calibration.activity import unique_patterns
from trace_engine.config import Cell
from trace_engine.errors import CalibrationError

INDEX_NLK = np.array([[[0, 2], [1, 0]], [[2, -1], [3, 1]], [[1, 3], [-1, -1]]], dtype=np.int16)
CELLS = (Cell(4, 2), Cell(7, 1), Cell(7, 3))
ACTIVE = [[True, True, False], [True, True, True], [False, False, False]]


def test_active_matrix_by_hand_in_numpy_and_torch() -> None:
    assert active_matrix(INDEX_NLK, (4, 7), CELLS).tolist() == ACTIVE
    tensor = active_matrix(torch.from_numpy(INDEX_NLK).long(), (4, 7), CELLS)
    assert tensor.dtype == torch.bool
    assert tensor.tolist() == ACTIVE
    assert active_matrix(INDEX_NLK, (4, 7), ()).shape == (3, 0)


def test_a_layer_without_routing_is_named() -> None:
    with pytest.raises(CalibrationError, match=r"Layer 5 .*MoE layers: 4, 7"):
        active_matrix(INDEX_NLK, (4, 7), (Cell(5, 0),))
    with pytest.raises(CalibrationError, match="does not fit 3 MoE layers"):
        active_matrix(INDEX_NLK, (4, 7, 9), CELLS)


def test_calibration_counts_labelled_positions_only() -> None:
    profile = synthetic_profile(prompts=True)
    sample = profile.sample_retain
    cells = (Cell(0, 1), Cell(3, 3))
    rows = [n for n in range(len(sample)) if sample.labelled_N[n]]
    expected = [
        sum(cell.expert in sample.index_NLK[n, profile.site_of(cell.layer)] for n in rows)
        / len(rows)
        for cell in cells
    ]
    assert calibration_frequencies(sample, profile.layers, cells).tolist() == expected
    # The first token of each document carries no label here, and position 0 does without prompts.
    assert (sample.labelled_N != sample.counted_N).any()


def test_a_sample_without_labels_is_refused() -> None:
    profile = synthetic_profile()
    sample = replace(
        profile.sample_retain, labelled_N=np.zeros(len(profile.sample_retain), dtype=bool)
    )
    with pytest.raises(CalibrationError, match="no position with a label"):
        calibration_frequencies(sample, profile.layers, (Cell(0, 1),))


@given(
    seed=st.integers(0, 10**6),
    skipped=st.sampled_from([0.0, 0.1, 0.6]),
    scale=st.floats(1e-3, 1e3),
)
@settings(max_examples=25, deadline=None)
def test_weighted_frequencies_and_skipped_slots_sum_to_k(
    seed: int, skipped: float, scale: float
) -> None:
    profile = synthetic_profile(seed=seed, documents=8, skipped=skipped, top_k=3)
    sample = profile.sample_retain
    weights_N = scale * np.random.default_rng(seed).exponential(size=len(sample))
    frequency_LE = weighted_frequency(sample, profile.layers, weights_N)
    total_L = frequency_LE.sum(axis=1) + skipped_slots(sample, weights_N)
    np.testing.assert_allclose(total_L, 3.0, rtol=1e-12)


def test_weight_one_gives_the_calibration_frequency() -> None:
    profile = synthetic_profile(seed=2)
    sample = profile.sample_retain
    frequency_LE = weighted_frequency(sample, profile.layers, np.ones(len(sample)), 8)
    cells = tuple(Cell(layer, expert) for layer in profile.layers for expert in range(8))
    expected_S = calibration_frequencies(sample, profile.layers, cells)
    np.testing.assert_allclose(frequency_LE.ravel(), expected_S, rtol=1e-12)


@given(
    seed=st.integers(0, 10**6),
    tokens=st.integers(1, 200),
    cells=st.sampled_from([0, 1, 7, 63, 64, 65, 130, 200]),
)
@settings(max_examples=50, deadline=None)
def test_unique_patterns_rebuild_the_matrix(seed: int, tokens: int, cells: int) -> None:
    """A few distinct rows, often repeated, and differing in the last column alone."""
    rng = np.random.default_rng(seed)
    rows_RS = rng.random((5, cells)) < 0.5
    if cells:
        rows_RS[1] = rows_RS[0]
        rows_RS[1, -1] ^= True
    active_NS = rows_RS[rng.integers(5, size=tokens)]
    patterns = unique_patterns(active_NS)
    np.testing.assert_array_equal(patterns.active_PS[patterns.inverse_N], active_NS)
    assert len(patterns.active_PS) == len({row.tobytes() for row in active_NS})
    assert patterns.counts_P.sum() == tokens
    np.testing.assert_array_equal(patterns.frequency_S, active_NS.mean(axis=0))
