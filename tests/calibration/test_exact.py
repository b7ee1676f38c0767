"""Entropy balancing closes every gap that can be closed, and says which cannot (property 3)."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from trace_engine.calibration.activity import unique_patterns
from trace_engine.calibration.exact import (
    ELASTIC_BOUND,
    DualSolution,
    EntropyBalance,
    _unreachable,
)

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]


def random_activity(seed: int, tokens: int, cells: int) -> Bools:
    """Activity in which every column has a token and, mostly, not every token."""
    rng = np.random.default_rng(seed)
    active_NS = rng.random((tokens, cells)) < rng.uniform(0.05, 0.7, cells)
    active_NS[rng.integers(tokens, size=cells), np.arange(cells)] = True
    return active_NS


def interior_target(active_NS: Bools, seed: int, spread: float) -> Floats:
    """The frequencies of random positive weights: strictly inside the hull by construction."""
    w_N = np.exp(np.random.default_rng(seed + 1).uniform(-spread, spread, len(active_NS)))
    return np.asarray(w_N @ active_NS / w_N.sum())


def reached(active_NS: Bools, solution: DualSolution) -> Floats:
    """Weighted frequencies, the slow and plain way."""
    w_N = np.exp(active_NS @ solution.lambda_S)
    return np.asarray((w_N[:, None] * active_NS).sum(axis=0) / w_N.sum())


@given(
    seed=st.integers(0, 10**6),
    tokens=st.integers(2, 300),
    cells=st.integers(1, 12),
    spread=st.floats(0, 4),
)
@settings(max_examples=150, deadline=None)
def test_every_interior_target_is_met(seed: int, tokens: int, cells: int, spread: float) -> None:
    active_NS = random_activity(seed, tokens, cells)
    target_S = interior_target(active_NS, seed, spread)
    solution = EntropyBalance(unique_patterns(active_NS)).solve(target_S)
    assert solution.solved
    assert not solution.relaxed_S.any()
    assert solution.steps < 20
    assert np.abs(reached(active_NS, solution) - target_S).max() <= 1e-6


@given(seed=st.integers(0, 10**6), spread=st.floats(0.1, 3))
@settings(max_examples=50, deadline=None)
def test_collinear_columns_are_met_too(seed: int, spread: float) -> None:
    """A copy, a complement, an everywhere-active column and a whole layer that sums to one."""
    base_NS = random_activity(seed, 200, 3)
    choice_N = np.random.default_rng(seed).integers(4, size=200)
    choice_N[:4] = range(4)
    layer_NE = choice_N[:, None] == np.arange(4)
    active_NS = np.column_stack(
        [base_NS, base_NS[:, 0], ~base_NS[:, 1], np.ones(200, dtype=bool), layer_NE]
    )
    target_S = interior_target(active_NS, seed, spread)
    solution = EntropyBalance(unique_patterns(active_NS)).solve(target_S)
    assert solution.solved
    assert not solution.relaxed_S.any()
    assert np.abs(reached(active_NS, solution) - target_S).max() <= 1e-6
    assert np.abs(solution.lambda_S).max() < 50


def test_one_cell_is_the_log_odds_ratio() -> None:
    active_NS = np.arange(10)[:, None] < 2
    solution = EntropyBalance(unique_patterns(active_NS)).solve(np.array([0.5]))
    assert solution.lambda_S[0] == pytest.approx(np.log(0.5 * 0.8 / (0.2 * 0.5)), abs=1e-9)


def test_uniform_weights_are_the_start_and_need_no_step() -> None:
    active_NS = random_activity(1, 100, 5)
    patterns = unique_patterns(active_NS)
    solution = EntropyBalance(patterns).solve(patterns.frequency_S)
    assert solution.steps == 0
    assert (solution.lambda_S == 0).all()


def test_copies_with_different_targets_meet_in_the_middle() -> None:
    active_NS = random_activity(2, 400, 3)
    active_NS[:, 1] = active_NS[:, 0]
    wanted_S = np.array([0.5, 0.6, 0.4])
    solution = EntropyBalance(unique_patterns(active_NS)).solve_relaxed(wanted_S)
    assert solution.solved
    assert solution.relaxed_S.tolist() == [True, True, False]
    assert reached(active_NS, solution) == pytest.approx([0.55, 0.55, 0.4], abs=1e-6)


def test_a_cell_that_every_token_uses_cannot_move_and_costs_no_step() -> None:
    active_NS = np.column_stack([np.ones(100, dtype=bool), np.arange(100) < 30])
    solution = EntropyBalance(unique_patterns(active_NS)).solve(np.array([0.4, 0.5]))
    assert solution.solved
    assert solution.relaxed_S.tolist() == [True, False]
    assert reached(active_NS, solution) == pytest.approx([1.0, 0.5], abs=1e-9)
    alone = EntropyBalance(unique_patterns(active_NS[:, :1])).solve(np.array([0.4]))
    assert alone.solved
    assert alone.steps == 0


def _one_hot(choice_N: NDArray[np.int64], number: int) -> Bools:
    return choice_N[:, None] == np.arange(number)


CHOICE_N = np.random.default_rng(0).integers(5, size=500)
OTHER_N1 = np.random.default_rng(1).random((500, 1)) < 0.3
IMPOSSIBLE = {
    "two experts that never meet, above 1 together": ([0.7, 0.6, 0.5], [0, 1]),
    "the face where they are all of it": ([0.6, 0.4, 0.5], [0, 1]),
    "always on": ([1.0, 0.1, 0.5], [0]),
    "never on": ([0.0, 0.3, 0.5], [0]),
}


@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_impossible_targets_are_detected_named_and_relaxed(case: str) -> None:
    """The third cell is independent of the two in conflict: it is still met exactly."""
    active_NS = np.column_stack([_one_hot(CHOICE_N, 2), OTHER_N1])
    target, culprits = IMPOSSIBLE[case]
    wanted_S = np.array(target)
    balance = EntropyBalance(unique_patterns(active_NS))
    assert not balance.solve(wanted_S).solved
    solution = balance.solve_relaxed(wanted_S)
    found_S = reached(active_NS, solution)
    assert solution.solved
    assert solution.gap <= 1e-6
    assert set(np.flatnonzero(solution.relaxed_S)) >= set(culprits)
    assert not solution.relaxed_S[2]
    assert abs(found_S[2] - 0.5) <= 1e-6
    assert np.abs(found_S - wanted_S).max() < 0.25
    assert np.abs(solution.lambda_S).max() <= 2 * ELASTIC_BOUND


def test_many_impossible_targets_are_relaxed_in_fewer_than_20_steps() -> None:
    active_NS = np.random.default_rng(0).random((20_000, 64)) < np.linspace(0.05, 0.3, 64)
    solution = EntropyBalance(unique_patterns(active_NS)).solve_relaxed(np.full(64, 0.9))
    assert solution.relaxed_S.all()
    assert solution.steps < 20
    assert np.abs(reached(active_NS, solution) - solution.target_S).max() <= 1e-6


@given(seed=st.integers(0, 10**6), cells=st.integers(1, 8), tokens=st.integers(2, 60))
def test_no_direction_proves_that_targets_which_are_met_cannot_be(
    seed: int, cells: int, tokens: int
) -> None:
    active_NS = random_activity(seed, tokens, cells).astype(np.float64)
    rng = np.random.default_rng(seed)
    w_N, lambda_S = rng.exponential(size=tokens), rng.normal(0, 10, cells)
    met_S = w_N @ active_NS / w_N.sum()
    assert not _unreachable(met_S, lambda_S, active_NS @ lambda_S)


def test_a_direction_in_which_targets_lie_beyond_every_token_proves_it() -> None:
    active_NS = np.array([[1.0, 0.0], [0.0, 1.0]])
    both_S = np.array([1.0, 1.0])
    assert _unreachable(np.array([0.7, 0.6]), both_S, active_NS @ both_S)
    assert not _unreachable(np.array([0.7, 0.3]), both_S, active_NS @ both_S)


@given(seed=st.integers(0, 10**6), cells=st.integers(1, 8), tokens=st.integers(1, 60))
@settings(max_examples=150, deadline=None)
def test_any_target_at_all_ends_with_finite_weights_and_a_stated_residual(
    seed: int, cells: int, tokens: int
) -> None:
    active_NS = random_activity(seed, tokens, cells)
    wanted_S = np.random.default_rng(seed).choice([0.0, 0.1, 0.5, 0.9, 1.0], cells)
    solution = EntropyBalance(unique_patterns(active_NS)).solve_relaxed(wanted_S)
    found_S = reached(active_NS, solution)
    assert solution.solved
    assert np.isfinite(solution.lambda_S).all()
    assert np.abs(found_S - solution.target_S).max() <= 1e-6
    kept_S = ~solution.relaxed_S
    assert np.abs(found_S - wanted_S)[kept_S].max(initial=0.0) <= 1e-6


def test_order_of_tokens_changes_no_bit() -> None:
    active_NS = random_activity(4, 500, 6)
    target_S = interior_target(active_NS, 4, 2.0)
    shuffled_NS = active_NS[np.random.default_rng(0).permutation(500)]
    one, other = (
        EntropyBalance(unique_patterns(part_NS)).solve(target_S)
        for part_NS in (active_NS, shuffled_NS)
    )
    assert (one.lambda_S == other.lambda_S).all()
