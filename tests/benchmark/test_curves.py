"""Interpolation, area and resampling against numbers worked out by hand."""

import numpy as np
import pytest

from trace_engine.benchmark.answers import Answers
from trace_engine.benchmark.curves import area, attained, matched
from trace_engine.benchmark.resampling import (
    Draws,
    Interval,
    Sample,
    difference,
    estimate,
    interval,
    relative_gain,
)


def path(*points: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    forget, utility = zip(*points, strict=True)
    return np.array([forget]), np.array([utility])


def test_a_falling_path_is_interpolated() -> None:
    # From (0.6, 0.8) to (0.2, 0.4), 0.5 is a quarter of the way: 0.8 - 0.25 * 0.4.
    falling = path((1.0, 1.0), (0.6, 0.8), (0.2, 0.4))
    assert attained(*falling, 0.5) == pytest.approx([0.7])
    place = matched(*falling, 0.5)
    assert (place.index_B[0], place.share_B[0]) == (1, pytest.approx(0.25))
    # Steps are read at the same place.
    assert place.read(np.array([[0.0, 10.0, 20.0]])) == pytest.approx([12.5])


def test_a_path_that_turns_back_counts_at_its_best_place() -> None:
    # Down to (0.2, 0.3), then it recovers to (0.4, 0.9): the end is the best at 0.5 and at 0.4.
    turning = path((1.0, 1.0), (0.2, 0.3), (0.4, 0.9))
    assert attained(*turning, 0.5) == pytest.approx([0.9])
    # At 0.3 the way back crosses at (0.3, 0.6).
    assert attained(*turning, 0.3) == pytest.approx([0.6])
    assert attained(*turning, 0.2) == pytest.approx([0.3])


def test_a_level_that_is_never_reached_has_no_number() -> None:
    short = path((1.0, 1.0), (0.5, 0.9))
    assert np.isnan(attained(*short, 0.4)).all()
    assert not matched(*short, 0.4).reached_B[0]
    assert np.isnan(area(*short, 0.4, 0.9)).all()


def test_the_area_of_a_straight_path_is_its_utility_in_the_middle() -> None:
    assert area(*path((1.0, 1.0), (0.0, 0.0)), 0.4, 0.9) == pytest.approx([0.65])
    assert area(*path((1.0, 0.7), (0.0, 0.7)), 0.4, 0.9) == pytest.approx([0.7])


def test_a_start_below_the_level_counts_as_it_is() -> None:
    assert attained(*path((0.3, 0.8), (0.2, 0.6)), 0.4) == pytest.approx([0.8])


def answers() -> Answers:
    rows = [
        {"right": {"f": "11", "a": "1111", "b": "11"}},
        {"right": {"f": "01", "a": "1100", "b": "01"}},
    ]
    return Answers.of(rows, "f")


def test_utility_pools_every_group_but_the_forgotten_one() -> None:
    once = answers().once()
    assert answers().forget(once) == pytest.approx(np.array([[1.0, 0.5]]))
    assert answers().utility(once) == pytest.approx(np.array([[1.0, 3 / 6]]))
    drawn = once | {"a": np.array([[2.0, 2.0, 0.0, 0.0]])}
    assert answers().utility(drawn) == pytest.approx(np.array([[1.0, 5 / 6]]))


def test_draws_repeat_and_keep_their_sizes() -> None:
    draws = Draws.of({"f": 5, "a": 9}, 300, 0)
    assert (draws.weights["a"].sum(axis=1) == 9).all()
    assert np.array_equal(draws.weights["f"], Draws.of({"f": 5, "a": 9}, 300, 0).weights["f"])
    assert draws.seeds(3).sum(axis=1) == pytest.approx(np.ones(300))


def constant(values: list[float], resamples: int = 300) -> Sample:
    return Sample(np.array(values), np.tile(values, (resamples, 1)))


def test_pairing_removes_what_both_rows_share() -> None:
    draws = Draws.of({"a": 4}, 300, 0)
    one, two = constant([0.9, 0.5, 0.1]), constant([0.8, 0.4, 0.0])
    wide = estimate(one, draws)
    assert wide.value == pytest.approx(0.5)
    assert wide.low is not None
    assert wide.high is not None
    assert wide.high - wide.low > 0.3
    paired = difference(one, two, draws)
    assert (paired.value, paired.low, paired.high) == pytest.approx((0.1, 0.1, 0.1))
    gain = relative_gain(constant([0.6]), constant([0.5]), draws)
    assert gain.value == pytest.approx(0.2)


def test_rows_with_other_numbers_of_seeds_are_compared_on_the_shared_ones() -> None:
    draws = Draws.of({"a": 4}, 300, 0)
    assert difference(
        constant([0.5, 0.7, 9.0]), constant([0.4, 0.6]), draws
    ).value == pytest.approx(0.1)


def test_a_seed_without_a_number_leaves_none() -> None:
    draws = Draws.of({"a": 4}, 300, 0)
    assert estimate(constant([0.5, float("nan")]), draws) == Interval(None, None, None)


def test_many_resamples_without_a_number_leave_no_interval() -> None:
    values = np.linspace(0, 1, 100)
    values[:5] = np.nan
    assert interval(0.5, values).low is not None
    values[5] = np.nan
    assert interval(0.5, values) == Interval(0.5, None, None)


def test_a_bootstrap_interval_is_that_of_the_binomial_mean() -> None:
    """One seed, 400 questions, half of them right: the standard error is 0.025."""
    draws = Draws.of({"f": 400, "a": 400}, 4000, 0)
    right = np.tile([1.0, 0.0], 200)
    sample = Sample(np.array([0.5]), (draws.weights["a"] @ right / 400)[:, None])
    found = estimate(sample, draws)
    assert found.low == pytest.approx(0.5 - 1.96 * 0.025, abs=0.006)
    assert found.high == pytest.approx(0.5 + 1.96 * 0.025, abs=0.006)
