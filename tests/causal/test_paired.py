"""The paired statistics against hand-computed values, and under a seeded null."""

import math
from fractions import Fraction

import numpy as np
import pytest

from trace_engine.causal.paired import (
    Answers,
    agresti_min,
    effects_of,
    holm,
    mcnemar,
    mean_interval,
    sign_flips,
)
from trace_engine.errors import InputError


@pytest.mark.parametrize(
    ("lost", "gained", "tail"),
    [(6, 0, [1]), (1, 5, [1, 6]), (2, 3, [1, 5, 10])],
)
def test_mcnemar_is_the_binomial_tail_twice(lost: int, gained: int, tail: list[int]) -> None:
    expected = min(Fraction(1), Fraction(2 * sum(tail), 2 ** (lost + gained)))
    assert mcnemar(lost, gained) == pytest.approx(float(expected), rel=1e-12)


def test_nothing_changed_is_no_evidence() -> None:
    assert mcnemar(0, 0) == 1.0


def test_agresti_min_by_hand() -> None:
    # n 20, 5 lost, 1 gained: n* 22, b* 5.5, c* 1.5; change -4/22, variance (7 - 16/22) / 22^2.
    half = 1.959963984540054 * math.sqrt(7 - 16 / 22) / 22
    assert agresti_min(5, 1, 20) == pytest.approx((-4 / 22 - half, -4 / 22 + half), rel=1e-12)


def test_no_change_keeps_a_width_and_bounds_hold() -> None:
    low, high = agresti_min(0, 0, 100)
    assert -0.05 < low < 0 < high < 0.05
    assert agresti_min(3, 0, 3)[0] == -1.0


def test_agresti_min_covers() -> None:
    generator = np.random.default_rng(0)
    probabilities = [0.10, 0.04, 0.86]  # lost, gained, unchanged: the true change is -0.06
    drawn = generator.multinomial(100, probabilities, size=2_000)
    inside = [low <= -0.06 <= high for low, high in (agresti_min(*d[:2], 100) for d in drawn)]
    assert 0.93 <= np.mean(inside) <= 0.98


def test_mean_interval_by_hand() -> None:
    mean, low, high = mean_interval(np.array([1.0, 2.0, 3.0]))
    half = 4.302652729911275 / math.sqrt(3)  # t quantile with 2 degrees of freedom
    assert (mean, low, high) == pytest.approx((2.0, 2 - half, 2 + half), rel=1e-9)
    assert mean_interval(np.array([4.0])) == (4.0, None, None)


def test_holm_by_hand() -> None:
    assert holm(np.array([0.01, 0.04, 0.03, 0.5])) == pytest.approx([0.04, 0.09, 0.09, 0.5])
    assert holm(np.array([0.9, 0.8])) == pytest.approx([1.0, 1.0])


def test_sign_flips_of_three_questions_by_enumeration() -> None:
    # |sum| of +-1 +-2 +-3 is 6 for 2 of 8 signs; with both cells alike the largest is the same.
    moved_NC = np.array([[1.0, 2.0], [2.0, 4.0], [3.0, 6.0]])
    alone_C, largest_C = sign_flips(moved_NC, 20_000, seed=1)
    assert alone_C == pytest.approx([0.25, 0.25], abs=0.01)
    assert np.array_equal(alone_C, largest_C)


def test_a_cell_without_any_difference_has_p_one() -> None:
    alone_C, largest_C = sign_flips(np.array([[0.0, 1.0], [0.0, 2.0]]), 999, seed=0)
    assert (alone_C[0], largest_C[0]) == (1.0, 1.0)
    assert largest_C[1] >= alone_C[1]


def test_sign_flips_are_uniform_under_the_null() -> None:
    generator = np.random.default_rng(7)
    moved_NC = generator.standard_normal((40, 400)) * generator.exponential(size=(40, 1))
    alone_C, _ = sign_flips(moved_NC, 999, seed=3)
    for level in (0.05, 0.2, 0.5, 0.8):
        error = math.sqrt(level * (1 - level) / 400)
        assert abs((alone_C <= level).mean() - level) < 4 * error


def test_the_largest_of_all_holds_the_family_wise_error() -> None:
    generator = np.random.default_rng(11)
    false_alarms = [
        sign_flips(generator.standard_normal((30, 20)), 199, seed=s)[1].min() <= 0.05
        for s in range(300)
    ]
    assert np.mean(false_alarms) < 0.05 + 4 * math.sqrt(0.05 * 0.95 / 300)


def test_mcnemar_and_holm_hold_the_family_wise_error() -> None:
    generator = np.random.default_rng(5)
    alarms = []
    for _ in range(300):
        pairs = generator.multinomial(100, [0.1, 0.1, 0.8], size=20)[:, :2]
        alarms.append(holm(np.array([mcnemar(*pair) for pair in pairs])).min() <= 0.05)
    assert np.mean(alarms) <= 0.06


def test_effects_hold_the_same_questions_before_and_after() -> None:
    before = Answers(np.array([True, True, False, True]), np.array([1.0, 1.0, 2.0, 1.0]))
    same = Answers(before.correct_N.copy(), before.loss_N.copy())
    worse = Answers(np.array([False, True, True, False]), np.array([2.0, 1.5, 1.0, 3.0]))
    nothing, something = effects_of("forget", before, [same, worse])
    assert (nothing.accuracy.change, nothing.loss.change) == (0.0, 0.0)
    assert (nothing.accuracy.p, nothing.loss.p_corrected) == (1.0, 1.0)
    assert (something.lost, something.gained, something.n) == (2, 1, 4)
    assert something.accuracy.change == pytest.approx(-0.25)
    assert something.accuracy.after - something.accuracy.before == pytest.approx(-0.25)
    assert something.loss.change == pytest.approx((1 + 0.5 - 1 + 2) / 4)
    assert something.loss.low is not None
    assert something.loss.low < something.loss.change < (something.loss.high or 0)


def test_a_group_without_questions_is_refused() -> None:
    nobody = Answers(np.zeros(0, dtype=bool), np.zeros(0))
    with pytest.raises(InputError, match="forget"):
        effects_of("forget", nobody, [nobody])
