"""Each rule on numbers worked out by hand, and normalising over set, batch and sequence."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trace_engine.calibration.fit import fit_arrays
from trace_engine.calibration.rules import normalise_weights, ratios
from trace_engine.calibration.weights import FittedWeights
from trace_engine.config import Cell, WeightsConfig
from trace_engine.errors import CalibrationError

# 20 tokens: 4 use A alone, 2 use A and B, 4 use B alone, 10 neither. fR = .3, .3.
ACTIVE = np.array([[1, 0]] * 4 + [[1, 1]] * 2 + [[0, 1]] * 4 + [[0, 0]] * 10, dtype=bool)


def fit(rule: str, forget: list[float], active: Any = ACTIVE, **settings: Any) -> FittedWeights:
    config = WeightsConfig(rule=rule, **({"hardness": 1.0} | settings))
    cells = tuple(Cell(0, expert) for expert in range(active.shape[1]))
    return fit_arrays(active, np.array(forget), cells, config)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [  # r = 2 and 3: A alone, both, B alone, neither
        ("uniform", [1, 1, 1, 1]),
        ("mean", [2, 2.5, 3, 1]),
        ("max", [2, 3, 3, 1]),
        ("product", [2, 6, 3, 1]),
        ("additive", [2, 4, 3, 1]),
    ],
)
def test_simple_rules_by_hand(rule: str, expected: list[float]) -> None:
    rows = np.array([[1, 0], [1, 1], [0, 1], [0, 0]], dtype=bool)
    raw = fit(rule, [0.6, 0.9], normalise="none")
    assert raw.token_weights(rows) == pytest.approx(expected)
    mean = (4 * expected[0] + 2 * expected[1] + 4 * expected[2] + 10 * expected[3]) / 20
    normalised = fit(rule, [0.6, 0.9])
    assert normalised.normaliser == pytest.approx(mean)
    assert normalised.token_weights(rows) == pytest.approx(np.array(expected) / mean)


def test_strength_is_a_power_and_hardness_moves_the_target() -> None:
    rows = np.array([[1, 1]], dtype=bool)
    for rule, weight in {"product": 6.0, "mean": 2.5, "max": 3.0, "additive": 4.0}.items():
        fitted = fit(rule, [0.6, 0.9], normalise="none", strength=2.0)
        assert fitted.token_weights(rows) == pytest.approx([weight**2])
    half = fit("max", [0.6, 0.9], normalise="none", hardness=0.5)
    assert half.token_weights(rows) == pytest.approx([2.0])  # (.3 + .5 * .6) / .3
    assert half.table["target"].tolist() == pytest.approx([0.45, 0.6])


def test_ratios_are_clipped_and_the_note_says_so() -> None:
    fitted = fit("max", [0.9, 0.03], normalise="none", clip=(0.5, 2.0))
    assert fitted.table["coefficient"].tolist() == [2.0, 0.5]
    assert "2 of 2 ratios were clipped" in " ".join(fitted.notes)
    assert not fit("max", [0.5, 0.4]).notes


def test_odds_closes_its_expert_and_the_ratio_rule_does_not() -> None:
    one = ACTIVE[:, :1]
    odds = fit("odds", [0.6], one)
    assert odds.token_weights(np.array([[True]])) / odds.token_weights(
        np.array([[False]])
    ) == pytest.approx([0.6 * 0.7 / (0.3 * 0.4)])
    assert abs(odds.table["residual"][0]) < 1e-12
    assert fit("exact", [0.6], one).token_weights(one) == pytest.approx(odds.token_weights(one))
    # r = 2 on 30 % of the tokens: .6 / 1.3, short of .6.
    assert fit("mean", [0.6], one).table["achieved"][0] == pytest.approx(0.6 / 1.3)


def test_product_overshoots_where_experts_fire_together() -> None:
    """Two experts that always fire together: r² instead of r, and the gap changes sign."""
    pair = np.repeat(ACTIVE[:, :1], 2, axis=1)
    fitted = fit("product", [0.6, 0.6], pair, clip=(0.1, 20))
    assert fitted.table["achieved"].tolist() == pytest.approx([1.2 / 1.9] * 2)
    assert (fitted.table["residual"] > 0).all()
    assert fitted.diagnostics["residual_gap"] == pytest.approx(1.2 / 1.9 - 0.6)


def test_widened_gap_is_reported() -> None:
    """Raising B's tokens pulls weight from A, which never meets it and was to stay at .2."""
    apart = np.array([[1, 0]] * 4 + [[0, 1]] * 6 + [[0, 0]] * 10, dtype=bool)
    fitted = fit("mean", [0.2, 0.6], apart)
    assert fitted.table["achieved"].tolist() == pytest.approx([4 / 26, 12 / 26])
    assert fitted.table["residual"][0] == pytest.approx(4 / 26 - 0.2)


def test_additive_stays_positive_when_ratios_below_one_add_up() -> None:
    fitted = fit("additive", [0.03, 0.03], normalise="none")
    assert fitted.token_weights(np.array([[True, True]])) == pytest.approx([0.1])


def test_odds_refuses_what_it_cannot_do() -> None:
    with pytest.raises(CalibrationError, match="exactly one expert"):
        fit("odds", [0.6, 0.6])
    with pytest.raises(CalibrationError, match="below 1"):
        fit("odds", [1.0], ACTIVE[:, :1])
    # auto looks below the impossible κ = 1 instead
    soft = fit("odds", [1.0], ACTIVE[:, :1], hardness="auto", ess_floor=0.01, clip=(0.1, 1e9))
    assert 0.9 < soft.hardness < 1


def test_odds_of_an_expert_that_every_token_uses_are_one() -> None:
    everywhere = np.array([1.0])
    assert ratios("odds", np.array([0.5]), everywhere, (0.1, 20.0)).tolist() == [1.0]


def as_kind(array: np.ndarray[Any, Any], kind: str) -> Any:
    return torch.from_numpy(array) if kind == "torch" else array


@pytest.mark.parametrize("kind", ["numpy", "torch"])
@given(seed=st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_normalised_means_are_one(kind: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    weights_BS = rng.exponential(size=(4, 9)) + 0.01
    valid_BS = rng.random((4, 9)) < 0.6
    valid_BS[:, 0] = True
    w_BS, mask_BS = as_kind(weights_BS, kind), as_kind(valid_BS, kind)
    batch_BS = normalise_weights(w_BS, "batch", mask_BS)
    assert float(batch_BS[mask_BS].mean()) == pytest.approx(1, abs=1e-12)
    rows_BS = normalise_weights(w_BS, "sequence", mask_BS)
    for row in range(4):
        assert float(rows_BS[row][mask_BS[row]].mean()) == pytest.approx(1, abs=1e-12)
    # The same, flattened and shuffled, with the sequence of each token given.
    order = rng.permutation(36)
    index_T = np.repeat(np.arange(4), 9)[order]
    flat_T = normalise_weights(
        as_kind(weights_BS.ravel()[order], kind),
        "sequence",
        as_kind(valid_BS.ravel()[order], kind),
        as_kind(index_T, kind),
    )
    np.testing.assert_allclose(np.asarray(flat_T), np.asarray(rows_BS).ravel()[order], rtol=1e-12)
    assert normalise_weights(w_BS, "none") is w_BS
    assert normalise_weights(w_BS, "set") is w_BS
    assert (normalise_weights(w_BS, "set", fitted_normaliser=2.0) == w_BS / 2).all()


@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_ones_stay_exactly_one_in_every_mode(kind: str) -> None:
    ones = as_kind(np.ones((7, 13), dtype=np.float32), kind)
    valid = as_kind(np.random.default_rng(0).random((7, 13)) < 0.4, kind)
    for mode in ("batch", "sequence", "none", "set"):
        out = normalise_weights(ones, mode, valid)
        assert out.dtype == ones.dtype
        assert (out == 1).all()


def test_summed_over_parts_equals_the_whole_batch() -> None:
    """Two micro-batches of unequal size: with the summed mean they are the whole batch's
    weights."""
    weights_T = np.random.default_rng(0).exponential(size=10)
    whole_T = normalise_weights(weights_T, "batch")
    mean = weights_T.mean()
    parts = [
        normalise_weights(part, "batch", fitted_normaliser=mean)
        for part in (weights_T[:3], weights_T[3:])
    ]
    np.testing.assert_allclose(np.concatenate(parts), whole_T, rtol=1e-15)


def test_normalising_refuses_what_has_no_answer() -> None:
    with pytest.raises(CalibrationError, match="sequence of each token"):
        normalise_weights(np.ones(4), "sequence")
    with pytest.raises(CalibrationError, match="without a labelled position"):
        normalise_weights(np.ones(4), "batch", np.zeros(4, dtype=bool))
    masked = normalise_weights(np.full((2, 2), 3.0), "sequence", np.array([[1, 1], [0, 0]]))
    assert masked.tolist() == [[1, 1], [3, 3]]
