"""Intervals against published numbers and against simulation."""

import numpy as np
import pytest
from scipy import stats

from trace_engine.errors import InputError
from trace_engine.evaluation import cluster_mean, wilson


@pytest.mark.parametrize(("successes", "n"), [(0, 20), (1, 29), (3, 10), (81, 263), (15, 15)])
def test_wilson_agrees_with_scipy(successes: int, n: int) -> None:
    ours = wilson(successes, n)
    theirs = stats.binomtest(successes, n).proportion_ci(method="wilson")
    assert ours.value == successes / n
    assert ours.low == pytest.approx(theirs.low, abs=1e-12)
    assert ours.high == pytest.approx(theirs.high, abs=1e-12)
    assert ours.n == n


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (3, 2), (-1, 5)])
def test_wilson_refuses_impossible_counts(successes: int, n: int) -> None:
    with pytest.raises(InputError, match="at least one question"):
        wilson(successes, n)


def test_cluster_mean_with_equal_weights_is_the_t_interval() -> None:
    values = np.array([1.0, 4.0, 2.5, 3.0])
    found = cluster_mean(values * 5, np.full(4, 5.0))
    low, high = stats.t.interval(0.95, 3, loc=values.mean(), scale=stats.sem(values))
    assert found.value == pytest.approx(values.mean())
    assert found.low == pytest.approx(low)
    assert found.high == pytest.approx(high)
    assert found.n == 4


def test_cluster_mean_weighs_long_documents_more_and_skips_empty_ones() -> None:
    found = cluster_mean([10.0, 1.0, 0.0], [10.0, 2.0, 0.0])
    assert found.value == pytest.approx(11 / 12)
    assert found.n == 2


def test_one_document_has_no_interval() -> None:
    found = cluster_mean([3.0], [2.0])
    assert (found.value, found.low, found.high, found.n) == (1.5, None, None, 1)


def test_cluster_mean_refuses_nothing_and_mismatched_shapes() -> None:
    with pytest.raises(InputError, match="No document"):
        cluster_mean([0.0], [0.0])
    with pytest.raises(InputError, match="one value and one weight each"):
        cluster_mean([1.0, 2.0], [1.0])


def test_cluster_interval_covers_where_a_token_interval_would_not() -> None:
    """Tokens of a document share its level: 95 % intervals must hold the truth in about 95 % of
    draws.
    """
    rng = np.random.default_rng(0)
    hits, token_hits, draws = 0, 0, 400
    for _ in range(draws):
        sizes_D = rng.integers(5, 60, 30)
        levels_D = 2.0 + rng.normal(0, 0.5, 30)
        tokens = [
            level + rng.normal(0, 0.3, size) for level, size in zip(levels_D, sizes_D, strict=True)
        ]
        found = cluster_mean([float(part.sum()) for part in tokens], sizes_D.astype(float))
        assert found.low is not None
        assert found.high is not None
        hits += found.low <= 2.0 <= found.high
        flat = np.concatenate(tokens)
        token_hits += abs(flat.mean() - 2.0) <= 1.96 * flat.std() / np.sqrt(len(flat))
    assert 0.92 <= hits / draws <= 0.98
    assert token_hits / draws < 0.6
