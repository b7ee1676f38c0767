"""The eight properties of method.md section 3 (4 is in test_activity, 6 on a model in
test_weights_of_a_model, 7 in the routing room)."""

import json
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.profiles import synthetic_profile as make_profile
from trace_engine.calibration import (
    FittedWeights,
    Selection,
    active_matrix,
    fit_weights,
    normalise_weights,
    preview_weights,
    select_experts,
    weighted_frequency,
)
from trace_engine.calibration.fit import fit_arrays
from trace_engine.config import Cell, SelectionConfig, WeightsConfig
from trace_engine.errors import CalibrationError, InputError
from trace_engine.routing import Profile, TokenSample

synthetic_profile = cache(make_profile)  # its counts are slow on purpose, and profiles are frozen
SIMPLE = ("mean", "max", "product", "additive")
RULES = ("uniform", *SIMPLE, "odds", "exact")
MODES = ("set", "batch", "sequence", "none")


def picked(profile: Profile, *cells: tuple[int, int]) -> Selection:
    """These cells by hand and no other."""
    config = SelectionConfig(
        scope="threshold", threshold=10.0, add=tuple(Cell(*cell) for cell in cells)
    )
    return select_experts(profile, config)


def cells_for(rule: str) -> tuple[tuple[int, int], ...]:
    return ((0, 1),) if rule == "odds" else ((0, 1), (1, 2), (1, 5), (3, 3))


def fitted(profile: Profile, rule: str, cells: Any = None, **settings: Any) -> FittedWeights:
    config = WeightsConfig(rule=rule, **({"hardness": 1.0} | settings))
    return fit_weights(profile, picked(profile, *(cells or cells_for(rule))), config)


# 1 -- neutral settings are the unweighted method, bit for bit


def loss_and_gradient(weights_T: torch.Tensor | None, dtype: torch.dtype) -> list[torch.Tensor]:
    """A tiny retain loss, sum(w * l)/n, and the gradient of its parameters."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Embedding(11, 6), torch.nn.Linear(6, 11)).to(dtype)
    ids_T, labels_T = torch.randint(11, (40,)), torch.randint(11, (40,))
    loss_T = torch.nn.functional.cross_entropy(model(ids_T), labels_T, reduction="none")
    loss = (loss_T if weights_T is None else weights_T.to(dtype) * loss_T).sum() / 40
    loss.backward()
    return [loss.detach(), *(p.grad for p in model.parameters() if p.grad is not None)]


NEUTRAL = [
    *[("equal counts", rule, mode) for rule in RULES for mode in MODES],
    *[("kappa 0", rule, mode) for rule in RULES for mode in MODES],
    *[("eta 0", rule, mode) for rule in (*SIMPLE, "odds") for mode in MODES],
    *[("no expert", rule, mode) for rule in RULES for mode in MODES],
]


@pytest.mark.parametrize(("case", "rule", "mode"), NEUTRAL)
def test_1_neutral_settings_give_weight_one_bitwise(case: str, rule: str, mode: str) -> None:
    profile = synthetic_profile(seed=1, documents=20, equal=case == "equal counts")
    config = WeightsConfig(
        rule=rule,
        normalise=mode,
        hardness=0.0 if case == "kappa 0" else "auto" if case == "no expert" else 1.0,
        strength=0.0 if case == "eta 0" else 1.7,
    )
    cells = () if case == "no expert" else cells_for(rule)
    fit = fit_weights(profile, picked(profile, *cells), config)
    assert fit.weights_N is not None
    assert (fit.weights_N == 1.0).all()
    assert fit.diagnostics["ess_share"] == 1.0
    generator = torch.Generator().manual_seed(0)
    active_TS = torch.rand((40, len(cells)), generator=generator) < 0.4
    weights_T = normalise_weights(fit.token_weights(active_TS), mode, None, torch.arange(40) // 7)
    plain = loss_and_gradient(None, torch.float32)
    weighted = loss_and_gradient(weights_T, torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(plain, weighted, strict=True))


def test_1_equal_shares_of_unequal_sets_are_neutral_too() -> None:
    """30 of 100 and 3 of 10 round to the same float, so the weights are still exactly one."""
    active_TS = np.zeros((10, 1), dtype=bool)
    active_TS[:3] = True
    for rule in (*SIMPLE, "odds", "exact"):
        config = WeightsConfig(rule=rule, hardness=1.0)
        fit = fit_arrays(active_TS, np.array([30 / 100]), (Cell(0, 0),), config)
        assert (fit.token_weights(active_TS) == 1.0).all()


def test_1_the_check_can_fail() -> None:
    """With a gap left to close, weights differ from one, and the loss shows it."""
    profile = synthetic_profile(seed=1, documents=20)
    for rule in RULES[1:]:
        fit = fitted(profile, rule)
        assert (fit.weights_N != 1.0).any()
        active_TS = torch.rand((40, len(fit.cells))) < 0.4
        weighted = loss_and_gradient(fit.token_weights(active_TS), torch.float32)
        assert not torch.equal(loss_and_gradient(None, torch.float32)[0], weighted[0])


# 2 -- mean one, positive, finite, no gradient


@given(
    seed=st.integers(0, 10**5),
    rule=st.sampled_from(RULES),
    mode=st.sampled_from(MODES),
    hardness=st.one_of(st.just("auto"), st.floats(0, 1)),
    strength=st.floats(0, 4),
)
@settings(max_examples=60, deadline=None)
def test_2_weights_are_positive_finite_and_have_mean_one(
    seed: int, rule: str, mode: str, hardness: Any, strength: float
) -> None:
    profile = make_profile(seed=seed, documents=12, skipped=0.1)
    fit = fitted(profile, rule, normalise=mode, hardness=hardness, strength=strength)
    assert fit.weights_N is not None
    assert np.isfinite(fit.weights_N).all()
    assert (fit.weights_N > 0).all()
    labelled_N = profile.sample_retain.labelled_N
    if mode != "none":
        assert fit.weights_N[labelled_N].mean() == pytest.approx(1, abs=1e-9)
        assert fit.diagnostics["mean_weight"] == pytest.approx(1, abs=1e-9)
    if mode == "sequence":
        document_N = profile.sample_retain.document_N
        for document in np.unique(document_N):
            mine_N = labelled_N & (document_N == document)
            assert fit.weights_N[mine_N].mean() == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("rule", RULES)
def test_2_no_gradient_flows_and_kinds_are_kept(rule: str) -> None:
    profile = synthetic_profile(seed=2)
    fit = fitted(profile, rule)
    active_TS = np.random.default_rng(0).random((6, 5, len(fit.cells))) < 0.4
    plain = fit.token_weights(active_TS)
    assert plain.dtype == np.float64
    assert plain.shape == (6, 5)
    soft = torch.from_numpy(active_TS).float().requires_grad_()
    weights = fit.token_weights(soft)
    assert not weights.requires_grad
    assert weights.dtype == torch.float32
    assert fit.token_weights(soft, dtype=torch.float64).dtype == torch.float64
    np.testing.assert_allclose(fit.token_weights(soft, dtype=torch.float64), plain, rtol=1e-12)
    with pytest.raises(CalibrationError, match="fitted for"):
        fit.token_weights(active_TS[..., :0])


@pytest.mark.parametrize("rule", ["product", "exact"])
def test_2_routing_that_the_sample_never_held_cannot_overflow(rule: str) -> None:
    """64 rare experts, one a token in the sample; then a live token that uses all of them."""
    active_TS = np.eye(64, dtype=bool)[np.arange(6400) % 64]
    active_TS[::2] = False
    cells = tuple(Cell(0, expert) for expert in range(64))
    config = WeightsConfig(rule=rule, hardness=1.0, strength=4.0)
    fit = fit_arrays(active_TS, np.full(64, 0.0155), cells, config)
    live = fit.token_weights(torch.ones((1, 64), dtype=torch.bool))
    assert torch.isfinite(live).all()
    assert (live > 0).all()


# 3 -- exact closes every gap (more in test_exact)


@given(seed=st.integers(0, 10**5), skipped=st.sampled_from([0.0, 0.2]))
@settings(max_examples=25, deadline=None)
def test_3_exact_closes_every_gap(seed: int, skipped: float) -> None:
    profile = make_profile(seed=seed, documents=40, skipped=skipped, strength=1.0)
    cells = ((0, 1), (0, 4), (1, 2), (2, 5), (3, 3), (3, 6))
    fit = fitted(profile, "exact", cells)
    assert not fit.table["relaxed"].any()
    assert fit.diagnostics["residual_gap"] <= 1e-6
    assert fit.weights_N is not None
    reached_LE = weighted_frequency(profile.sample_retain, profile.layers, fit.weights_N, 8)
    wanted_LE = weighted_frequency(
        profile.sample_forget, profile.layers, np.ones(len(profile.sample_forget)), 8
    )
    for cell in cells:
        assert abs(reached_LE[cell] - wanted_LE[cell]) <= 1e-6


def test_3_exact_on_a_whole_layer_whose_columns_are_collinear() -> None:
    profile = synthetic_profile(seed=3)
    fit = fitted(profile, "exact", [(0, expert) for expert in range(8)] + [(3, 3)])
    assert fit.diagnostics["residual_gap"] <= 1e-6
    assert not fit.table["relaxed"].any()


def test_3_impossible_targets_are_relaxed_and_named() -> None:
    active_TS = np.arange(10)[:, None] == np.arange(2)
    cells = (Cell(2, 0), Cell(2, 1))
    config = WeightsConfig(rule="exact", hardness=1.0)
    fit = fit_arrays(active_TS, np.array([0.8, 0.7]), cells, config)
    assert fit.table["relaxed"].tolist() == [True, True]
    assert fit.diagnostics["relaxed"] == 2
    assert fit.diagnostics["residual_gap"] == np.abs(fit.table["residual"]).max() > 0.1
    assert "Layer 2, expert 0 cannot reach 0.8000" in fit.notes[0]
    np.testing.assert_allclose(
        fit.token_weights(active_TS) @ active_TS / 10, fit.table["achieved"], atol=1e-12
    )
    # auto goes down instead of relaxing, and closes what it aims at
    config = WeightsConfig(rule="exact", ess_floor=0.01)
    soft = fit_arrays(active_TS, np.array([0.8, 0.7]), cells, config)
    assert soft.hardness == pytest.approx(0.8 / 1.3, abs=1e-3)  # .2 + κ (1.5 - .2) = 1
    assert not soft.table["relaxed"].any()
    assert soft.diagnostics["residual_gap"] <= 1e-6


# 5 -- an expert that no retain token uses


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("hardness", [1.0, "auto"])
def test_5_uncoverable_is_reported_and_takes_no_part(rule: str, hardness: Any) -> None:
    profile = synthetic_profile(seed=4, unseen=(2, 6))
    others = cells_for(rule)
    fit = fitted(profile, rule, (*others, (2, 6)), hardness=hardness)
    row = fit.table.set_index(["layer", "expert"]).loc[(2, 6)]
    assert row["uncoverable"]
    assert row["achieved"] == 0
    assert fit.diagnostics["uncoverable"] == 1
    assert fit.diagnostics["uncovered_mass"] == pytest.approx(
        row["forget"] / fit.table["forget"].sum()
    )
    assert "Layer 2, expert 6 is uncoverable" in fit.notes[0]
    numbers = fit.table.select_dtypes("number").to_numpy()
    assert np.isfinite(numbers).all()
    without = fitted(profile, rule, others, hardness=hardness)
    assert (fit.weights_N == without.weights_N).all()
    # Live routing may reach it after all: it still takes no part.
    column = fit.cells.index(Cell(2, 6))
    active_TS = np.zeros((2, len(fit.cells)), dtype=bool)
    active_TS[1, column] = True
    weights_T = fit.token_weights(active_TS)
    assert weights_T[0] == weights_T[1]
    json.dumps(fit.to_dict(), allow_nan=False)


def test_5_nothing_coverable_is_weight_one() -> None:
    profile = synthetic_profile(seed=4, unseen=(2, 6))
    for rule in RULES:
        fit = fitted(profile, rule, [(2, 6)])
        assert (fit.weights_N == 1).all()
        assert fit.diagnostics["uncovered_mass"] == 1.0


# 6 -- order (batches, padding and the numbering of experts: test_weights_of_a_model)


@pytest.mark.parametrize("rule", RULES)
def test_6_order_of_tokens_changes_no_bit(rule: str) -> None:
    profile = synthetic_profile(seed=6)
    sample = profile.sample_retain
    order_N = np.random.default_rng(0).permutation(len(sample))
    arrays = {
        name: values[order_N]
        for name in TokenSample.__dataclass_fields__
        if isinstance(values := getattr(sample, name), np.ndarray)
    }
    shuffled = replace(sample, **arrays)
    one = fitted(profile, rule, hardness="auto")
    two = fitted(replace(profile, sample_retain=shuffled), rule, hardness="auto")
    assert one.weights_N is not None
    assert (one.weights_N[order_N] == two.weights_N).all()


# 8 -- what is reported


def test_8_diagnostics_are_those_of_the_weights() -> None:
    profile = synthetic_profile(seed=8)
    for rule in RULES:
        fit = fitted(profile, rule, hardness=0.8)
        assert fit.weights_N is not None
        w_T = fit.weights_N[profile.sample_retain.labelled_N]
        shown = fit.diagnostics
        assert shown["ess"] == pytest.approx(w_T.sum() ** 2 / (w_T**2).sum())
        assert shown["ess_share"] == pytest.approx(shown["ess"] / len(w_T))
        assert shown["max_weight"] == pytest.approx(w_T.max())
        assert shown["tokens"] == len(w_T)
        assert shown["selected"] == len(fit.cells)
        assert shown["hardness"] == 0.8
        assert shown["residual_gap"] == pytest.approx(np.abs(fit.table["residual"]).max())
        assert shown["sample_complete"]
        active_NS = active_matrix(
            profile.sample_retain.index_NLK[profile.sample_retain.labelled_N],
            profile.layers,
            fit.cells,
        )
        np.testing.assert_allclose(fit.table["achieved"], w_T @ active_NS / w_T.sum())
        assert fit.histogram.counts_B.sum() == len(w_T)
        assert fit.histogram.edges_B[0] <= w_T.min()
        assert w_T.max() <= fit.histogram.edges_B[-1]


def test_8_uniform_shows_the_whole_gap() -> None:
    fit = fitted(synthetic_profile(seed=8), "uniform", hardness="auto")
    assert fit.hardness == 1.0
    np.testing.assert_allclose(fit.table["residual"], fit.table["retain"] - fit.table["forget"])


# hardness `auto`


@pytest.mark.parametrize("rule", ["max", "product", "exact"])
@pytest.mark.parametrize("floor", [0.3, 0.5, 0.9])
def test_auto_is_the_largest_hardness_that_holds_the_floor(rule: str, floor: float) -> None:
    profile = synthetic_profile(seed=9, documents=200, strength=3.0)
    cells = ((0, 1), (3, 3))
    fit = fitted(profile, rule, cells, hardness="auto", ess_floor=floor, strength=3.0)
    assert fit.diagnostics["ess_share"] >= floor
    if fit.hardness < 1:
        above = fitted(profile, rule, cells, hardness=fit.hardness + 0.001, strength=3.0)
        assert above.diagnostics["ess_share"] < floor
        assert tuple(fit.diagnostics["limited_by"]) in cells
    else:
        assert fit.diagnostics["limited_by"] is None
    again = fitted(profile, rule, cells, hardness=fit.hardness, strength=3.0)
    np.testing.assert_allclose(again.weights_N, fit.weights_N, rtol=1e-6)


def test_auto_is_not_held_down_by_copies_that_disagree() -> None:
    """Two experts that always fire together cannot differ at any hardness: relaxed, not waited
    for."""
    active_TS = np.repeat((np.arange(100) % 5 == 0)[:, None], 2, axis=1)
    config = WeightsConfig(rule="exact", ess_floor=0.5)
    fit = fit_arrays(active_TS, np.array([0.2, 0.4]), (Cell(0, 0), Cell(0, 1)), config)
    assert fit.hardness == 1.0
    assert fit.table["achieved"].tolist() == pytest.approx([0.3, 0.3])
    assert fit.table["relaxed"].all()


def test_auto_names_the_cell_that_holds_it_down() -> None:
    """Expert 1 is rare in retain and common in forget; expert 0 asks for nothing much."""
    active_TS = np.zeros((1000, 2), dtype=bool)
    active_TS[:400, 0] = True
    active_TS[::200, 1] = True
    config = WeightsConfig(rule="exact")
    fit = fit_arrays(active_TS, np.array([0.45, 0.3]), (Cell(1, 0), Cell(1, 7)), config)
    assert fit.hardness < 0.25
    assert fit.diagnostics["limited_by"] == [1, 7]
    assert "Layer 1, expert 7 asks for the largest weights" in fit.notes[-1]


# sample, checkpoint, preview


def test_a_partial_sample_is_said() -> None:
    fit = fitted(synthetic_profile(complete=False), "exact")
    assert fit.diagnostics["sample_complete"] is False
    assert "not the whole set" in fit.notes[-1]


@pytest.mark.parametrize("rule", RULES)
def test_a_checkpoint_restores_the_same_bits(rule: str) -> None:
    profile = synthetic_profile(seed=10, unseen=(2, 6))
    fit = fitted(profile, rule, (*cells_for(rule), (2, 6)), hardness="auto")
    again = FittedWeights.from_dict(json.loads(json.dumps(fit.to_dict())))
    active_TS = torch.rand((50, len(fit.cells))) < 0.4
    assert torch.equal(again.token_weights(active_TS), fit.token_weights(active_TS))
    assert again.table.equals(fit.table)
    assert again.diagnostics == fit.diagnostics
    assert again.weights_N is None
    data = fit.to_dict()
    del data["normaliser"]
    with pytest.raises(CalibrationError, match="normaliser"):
        FittedWeights.from_dict(data)


def test_an_empty_selection_says_why_and_weighs_nothing() -> None:
    profile = synthetic_profile(equal=True)
    selection = select_experts(profile, SelectionConfig())
    fit = fit_weights(profile, selection, WeightsConfig())
    assert (fit.weights_N == 1).all()
    assert fit.notes == (selection.why_empty,)
    assert fit.diagnostics["selected"] == 0


def test_cells_that_do_not_exist_are_refused() -> None:
    profile = synthetic_profile()
    selection = replace(picked(profile, (0, 1)), cells=(Cell(9, 0),))
    with pytest.raises(InputError, match="Layer 9"):
        fit_weights(profile, selection, WeightsConfig())


def test_preview_lays_out_every_cell() -> None:
    profile = synthetic_profile(seed=11)
    selection = select_experts(profile, SelectionConfig(top_k=1))
    preview = preview_weights(profile, selection, WeightsConfig())
    assert len(preview.cells) == 32
    chosen = preview.cells[preview.cells["selected"]]
    assert list(zip(chosen["layer"], chosen["expert"], strict=True)) == list(selection.cells)
    np.testing.assert_allclose(chosen["weighted"], preview.table["achieved"], atol=1e-12)
    np.testing.assert_allclose(chosen["target"], preview.table["target"])
    # Weights move slots around; they make none: changes cancel in every layer.
    np.testing.assert_allclose(preview.cells.groupby("layer")["change"].sum(), 0, atol=1e-12)
    others = preview.cells[~preview.cells["selected"]]
    assert preview.unselected_change == others["change"].abs().max() > 0
    assert preview.histogram.counts_B.sum() == preview.diagnostics["tokens"]
