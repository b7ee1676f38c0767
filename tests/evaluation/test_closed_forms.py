"""Accuracies have Wilson's interval and losses the cluster interval instead of a bootstrap over
items: where a bootstrap is sound the two agree, and where it is not they still cover."""

import numpy as np
import pytest

from trace_engine.evaluation.estimate import Estimate, cluster_mean, wilson
from trace_engine.evaluation.resampling import bootstrap, bootstrap_mean


def bounds(found: Estimate) -> tuple[float, float]:
    assert found.low is not None
    assert found.high is not None
    return found.low, found.high


@pytest.mark.parametrize(("right", "n"), [(50, 200), (120, 200), (180, 300), (30, 100)])
def test_wilson_is_the_bootstrap_over_questions_where_there_are_many(right: int, n: int) -> None:
    drawn = bootstrap_mean([1.0] * right + [0.0] * (n - right), resamples=4_000)
    assert bounds(wilson(right, n)) == pytest.approx(bounds(drawn), abs=0.01)


@pytest.mark.parametrize("seed", range(4))
def test_the_cluster_interval_is_the_bootstrap_over_documents(seed: int) -> None:
    generator = np.random.default_rng(seed)
    tokens_D = generator.integers(20, 256, 300).astype(float)
    summed_D = tokens_D * generator.gamma(4.0, 0.5, 300)

    def loss(items: list[np.ndarray]) -> float:
        return float(summed_D[items[0]].sum() / tokens_D[items[0]].sum())

    drawn = bootstrap(loss, [300], seed=seed, resamples=4_000)
    closed = cluster_mean(summed_D, tokens_D)
    low, high = bounds(closed)
    assert closed.value == pytest.approx(drawn.value)
    assert bounds(closed) == pytest.approx(bounds(drawn), abs=0.1 * (high - low))


def test_a_share_at_its_bound_has_a_width_that_no_bootstrap_gives() -> None:
    drawn = bootstrap_mean([0.0] * 40)
    assert bounds(drawn) == (0.0, 0.0)
    low, high = bounds(wilson(0, 40))
    assert low == 0.0
    # A share of 5 % leaves 40 questions without a right answer in 13 of 100 cases.
    assert 0.05 < high < 0.1
