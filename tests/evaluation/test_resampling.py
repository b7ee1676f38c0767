"""The bootstrap: reproducible, covering, and honest about a single item."""

import numpy as np
import pytest

from trace_engine.errors import InputError
from trace_engine.evaluation.resampling import bootstrap, bootstrap_mean


def test_same_items_give_the_same_bits_and_the_mean() -> None:
    values = [0.0, 0.25, 1.0, 0.5]
    found = bootstrap_mean(values)
    assert found == bootstrap_mean(values)
    assert (found.value, found.n, found.method) == (0.4375, 4, "bootstrap over items")
    assert found.low is not None
    assert found.high is not None
    assert 0.0 <= found.low < found.value < found.high <= 1.0
    many = np.random.default_rng(0).normal(0, 1, 50)
    assert bootstrap_mean(many, seed=1) != bootstrap_mean(many)


def test_intervals_hold_the_truth_in_about_95_of_100_draws() -> None:
    generator = np.random.default_rng(0)
    hits = 0
    for _ in range(200):
        found = bootstrap_mean(generator.exponential(2.0, 80), resamples=400)
        assert found.low is not None
        assert found.high is not None
        hits += found.low <= 2.0 <= found.high
    assert 0.88 <= hits / 200 <= 0.99


def test_groups_are_resampled_apart() -> None:
    """A difference of two groups: its interval is that of independent means."""
    left, right = np.arange(50.0), np.arange(200.0)
    found = bootstrap(lambda at: float(left[at[0]].mean() - right[at[1]].mean()), [50, 200])
    error = np.sqrt(left.var() / 50 + right.var() / 200)
    assert found.value == left.mean() - right.mean()
    assert found.n == 250
    assert found.low is not None
    assert found.high is not None
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.15)


def test_one_item_has_no_interval_and_none_has_no_figure() -> None:
    alone = bootstrap_mean([0.5])
    assert (alone.value, alone.low, alone.high, alone.n) == (0.5, None, None, 1)
    with pytest.raises(InputError, match="No item"):
        bootstrap_mean([])


@pytest.mark.parametrize("count", [2, 9, 130, 777])
def test_a_mean_in_blocks_has_the_bits_of_a_mean_one_by_one(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = np.random.default_rng(count).normal(size=count)
    alone = bootstrap(lambda at: float(values[at[0]].mean()), [count], seed=4)
    for block in (1, 3 * count + 1, 2**17):  # one at a time; three, and one left over; all
        monkeypatch.setattr("trace_engine.evaluation.resampling._DRAWN_AT_A_TIME", block)
        assert bootstrap_mean(values, seed=4) == alone
