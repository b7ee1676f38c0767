"""Ranks by activation beside ranks by ablation."""

import dataclasses

import numpy as np
import pytest
from scipy.stats import spearmanr

from tests.causal.cases import opened, questions
from trace_engine.bundled import PACK
from trace_engine.causal import Scan, scan
from trace_engine.causal.agreement import agreement, spearman
from trace_engine.errors import InputError
from trace_engine.routing import Mismatch, load_mismatch


@pytest.fixture(scope="module")
def found() -> Scan:
    return scan(opened(), questions(), permutations=99)


@pytest.fixture(scope="module")
def bundled() -> Mismatch:
    return load_mismatch(PACK / "profile")


def test_spearman_is_scipys_with_ties() -> None:
    generator = np.random.default_rng(0)
    left, right = generator.integers(0, 9, size=(2, 50)).astype(float)
    assert spearman(left, right) == pytest.approx(spearmanr(left, right).statistic)
    assert np.isnan(spearman(left, np.ones(50)))


def test_a_map_of_the_effects_themselves_agrees_fully(found: Scan, bundled: Mismatch) -> None:
    harm = np.zeros_like(bundled.difference)
    for cell in found.cells:
        harm[cell.layer, cell.expert] = cell.specific.value
    same = agreement(found, dataclasses.replace(bundled, difference=harm), top=4)
    assert same.correlation.value == pytest.approx(1.0)
    assert same.correlation.n == 16
    assert (same.shared, same.expected) == (4, 1.0)
    assert all(cell.gap_rank == cell.harm_rank for cell in same.cells)
    turned = agreement(found, dataclasses.replace(bundled, difference=-harm), top=4)
    assert turned.correlation.value == pytest.approx(-1.0)
    first = turned.cells[0]
    assert abs(first.gap_rank - first.harm_rank) == 15


def test_a_map_of_another_model_is_refused(found: Scan, bundled: Mismatch) -> None:
    narrow = dataclasses.replace(bundled, num_experts_L=(4,) * len(bundled.layers))
    with pytest.raises(InputError, match="another model"):
        agreement(found, narrow)
