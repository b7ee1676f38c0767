"""Selection on numbers worked out by hand, and refusals that say what to do."""

import json
from collections.abc import Sequence

import numpy as np
import pytest

from tests.support.profiles import synthetic_profile
from trace_engine.calibration import select_experts
from trace_engine.calibration.ranking import choose, scores, standard_errors
from trace_engine.config import Cell, SelectionConfig
from trace_engine.errors import CalibrationError, InputError
from trace_engine.routing import Profile, RoutingCounts, TokenSample, mismatch


def counts(counts_DLE: object, tokens_D: Sequence[int], gates_DLE: object = None) -> RoutingCounts:
    array_DLE = np.array(counts_DLE, dtype=np.int64)
    documents, layers, experts = array_DLE.shape
    return RoutingCounts(
        document_ids=tuple(f"d{i}" for i in range(documents)),
        tokens_D=np.array(tokens_D, dtype=np.int64),
        counts_DLE=array_DLE,
        gate_mass_DLE=np.array(array_DLE if gates_DLE is None else gates_DLE, dtype=np.float64),
        skipped_DL=np.zeros((documents, layers), dtype=np.int64),
        coactivation_LEE=np.zeros((layers, experts, experts), dtype=np.int64),
        token_ids_V=np.zeros(0, dtype=np.int64),
        token_totals_V=np.zeros(0, dtype=np.int64),
        token_counts_VLE=np.zeros((0, layers, experts), dtype=np.int64),
        truncated_documents=0,
    )


def hand_profile(
    forget: RoutingCounts,
    retain: RoutingCounts,
    layers: tuple[int, ...] = (2, 5),
    num_experts: tuple[int, ...] | None = None,
    top_k: int = 1,
) -> Profile:
    none = np.zeros(0, dtype=np.int64)
    sample = TokenSample(
        none, none, none, none.astype(bool), none.astype(bool),
        np.zeros((0, len(layers), top_k), dtype=np.int16), none.astype(np.float16), True,
    )  # fmt: skip
    experts = forget.counts_DLE.shape[2]
    return Profile(
        {}, layers, num_experts or (experts,) * len(layers), (top_k,) * len(layers),
        forget, retain, sample, sample, {},
    )  # fmt: skip


# Layer 2: d = +.3 +.1 -.2 -.2; layer 5: d = +.2 +.1 -.3 0. K/E = .25.
FORGET = counts([[[5, 3, 1, 1], [4, 4, 2, 0]]], [10])
RETAIN = counts([[[4, 4, 6, 6], [4, 6, 10, 0]]], [20])
HAND = hand_profile(FORGET, RETAIN)


def chosen(profile: Profile = HAND, **settings: object) -> list[tuple[int, int]]:
    return [tuple(cell) for cell in select_experts(profile, SelectionConfig(**settings)).cells]


def test_per_layer_takes_the_largest_gaps_of_each_layer() -> None:
    assert chosen(top_k=1) == [(2, 0), (5, 0)]
    assert chosen(top_k=2) == [(2, 0), (2, 1), (5, 0), (5, 1)]


def test_global_takes_the_largest_gaps_of_the_model() -> None:
    assert chosen(scope="global", top_k=2) == [(2, 0), (5, 0)]


def test_threshold_includes_the_score_that_equals_it() -> None:
    assert chosen(scope="threshold", threshold=0.2) == [(2, 0), (5, 0)]
    assert chosen(scope="threshold", threshold=0.2001) == [(2, 0)]


@pytest.mark.parametrize(
    ("share", "cells"),
    [  # positive gaps .3 .2 .1 .1, sum .7
        (0.3 / 0.7, [(2, 0)]),
        (0.43, [(2, 0), (5, 0)]),
        (0.5 / 0.7, [(2, 0), (5, 0)]),
        (0.72, [(2, 0), (2, 1), (5, 0)]),
        (1.0, [(2, 0), (2, 1), (5, 0), (5, 1)]),
    ],
)
def test_cumulative_is_the_smallest_set_with_the_share(
    share: float, cells: list[tuple[int, int]]
) -> None:
    assert chosen(scope="cumulative", share=share) == cells


def test_ties_fall_to_the_lower_layer_then_the_lower_expert() -> None:
    """.3 - .2 and .4 - .3 differ in the last bit; neither may win by that."""
    assert 0.3 - 0.2 != 0.4 - 0.3
    assert chosen(scope="global", top_k=3) == [(2, 0), (2, 1), (5, 0)]
    same = counts([[[3, 3, 3, 1]]], [10])
    flat = hand_profile(same, counts([[[2, 2, 2, 4]]], [10]), layers=(0,))
    assert chosen(flat, top_k=2) == [(0, 0), (0, 1)]


def test_floor_asks_for_more_than_retain_and_more_than_uniform() -> None:
    # K/E = .25. Expert 0: gap +.1 but .2 < .25; expert 1: .25 is not above .25; expert 2: passes.
    forget = counts([[[20, 25, 30, 25]]], [100])
    retain = counts([[[10, 15, 20, 55]]], [100])
    profile = hand_profile(forget, retain, layers=(0,))
    assert chosen(profile, top_k=4) == [(0, 2)]
    # .2-.1 and .3-.2 tie at .1 without the floor, and the negative gap comes last.
    assert chosen(profile, top_k=3, floor=False) == [(0, 0), (0, 1), (0, 2)]
    assert chosen(profile, top_k=4, floor=False) == [(0, 0), (0, 1), (0, 2), (0, 3)]


def test_gate_mass_is_compared_with_its_mean_over_experts() -> None:
    gates = [[[6.0, 2.5, 1.0, 0.5]]]  # mean over experts .25 per token
    forget = counts([[[2, 2, 3, 3]]], [10], gates)
    retain = counts([[[3, 3, 2, 2]]], [10], [[[1.0, 1.0, 4.0, 4.0]]])
    profile = hand_profile(forget, retain, layers=(0,))
    assert chosen(profile, statistic="gate_mass", top_k=4) == [(0, 0)]
    assert chosen(profile, statistic="frequency", top_k=4) == [(0, 2), (0, 3)]


def test_ratio_and_log_ratio_rank_alike_and_differently_from_the_difference() -> None:
    forget = counts([[[60, 30, 5, 5]]], [100])
    retain = counts([[[40, 11, 24, 25]]], [100])
    profile = hand_profile(forget, retain, layers=(0,))
    assert chosen(profile, top_k=1, score="difference") == [(0, 0)]
    for score in ("ratio", "log_ratio"):
        assert chosen(profile, top_k=1, score=score) == [(0, 1)]
    table = select_experts(profile, SelectionConfig(score="ratio", top_k=1)).table
    assert table["score"][0] == pytest.approx((0.30 + 0.005) / (0.11 + 0.005))


def test_z_divides_by_the_error_between_documents() -> None:
    """Two documents of 10 tokens with 8 and 4 hits: f = .6, se = sqrt(2/1 * (2²+2²))/20 = .2."""
    side = counts([[[8, 2]], [[4, 6]]], [10, 10])
    error_LE = standard_errors(side, "frequency")
    assert error_LE[0] == pytest.approx([0.2, 0.2])
    profile = hand_profile(side, counts([[[3, 7]], [[5, 5]]], [10, 10]), layers=(0,))
    table = select_experts(profile, SelectionConfig(score="z", top_k=1)).table
    assert table["score"][0] == pytest.approx((0.6 - 0.4) / np.hypot(0.2, 0.1))


@pytest.mark.parametrize("statistic", ["frequency", "gate_mass"])
def test_numbers_are_those_of_the_map(statistic: str) -> None:
    profile = synthetic_profile(seed=3)
    shown = mismatch(profile, statistic, permutations=99, bootstrap=100)
    for score, expected_LE in {
        "difference": shown.difference,
        "ratio": shown.ratio,
        "z": shown.difference / shown.standard_error,
    }.items():
        settings = SelectionConfig(statistic=statistic, score=score, top_k=8, floor=False)
        selection = select_experts(profile, settings, shown)
        assert len(selection.table) == shown.forget.size
        np.testing.assert_allclose(selection.table["score"], expected_LE.ravel(), rtol=1e-10)
    np.testing.assert_array_equal(selection.table["p_max"], shown.p_max.ravel())


def test_a_map_of_another_statistic_or_model_is_not_shown_beside() -> None:
    profile = synthetic_profile(seed=3)
    shown = mismatch(profile, "gate_mass", permutations=99, bootstrap=100)
    assert "p_max" not in select_experts(profile, SelectionConfig(), shown).table
    with pytest.raises(CalibrationError, match="Compute the map from this profile"):
        select_experts(HAND, SelectionConfig(), shown)


def test_planted_cells_are_found() -> None:
    profile = synthetic_profile(planted=[(1, 4), (3, 2)])
    for score in ("difference", "ratio", "log_ratio", "z"):
        assert chosen(profile, scope="global", top_k=2, score=score) == [(1, 4), (3, 2)]


def test_certain_z_is_infinite_by_the_sign_of_the_gap_and_jsonable() -> None:
    zero = np.zeros((1, 3))
    score_LE = scores("z", np.array([[0.5, 0.2, 0.3]]), np.array([[0.2, 0.5, 0.3]]), zero, 0.0)
    assert score_LE.tolist() == [[np.inf, -np.inf, 0.0]]
    even = counts([[[8, 2]], [[8, 2]]], [10, 10])
    profile = hand_profile(even, counts([[[5, 5]], [[5, 5]]], [10, 10]), layers=(0,))
    data = select_experts(profile, SelectionConfig(score="z", top_k=1)).to_dict()
    assert json.loads(json.dumps(data, allow_nan=False))["table"][0]["score"] is None


def test_layer_subset_and_sites_of_different_size() -> None:
    assert chosen(top_k=1, layers=(5,)) == [(5, 0)]
    uneven = hand_profile(FORGET, RETAIN, num_experts=(4, 2))
    selection = select_experts(uneven, SelectionConfig(top_k=2, floor=False))
    assert set(selection.candidates.query("layer == 5")["expert"]) == {0, 1}
    with pytest.raises(CalibrationError, match=r"3 is larger than the 2 experts of layer 5"):
        chosen(uneven, top_k=3)


def test_hands_are_recorded() -> None:
    selection = select_experts(
        HAND,
        SelectionConfig(top_k=1, add=(Cell(5, 3), Cell(2, 0)), remove=(Cell(5, 0), Cell(2, 2))),
    )
    assert selection.cells == (Cell(2, 0), Cell(5, 3))
    assert selection.table["origin"].tolist() == ["rule", "added"]
    assert selection.removed == (Cell(5, 0),)
    assert selection.candidates.query("layer == 5 and expert == 0")["origin"].item() == "removed"
    assert "expert 2 was to be removed" in selection.notes[0]
    assert selection.gap_share == pytest.approx(0.3 / 0.7)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"top_k": 5}, CalibrationError, "5 is larger than the 4 experts of layer 2"),
        ({"top_k": 9, "scope": "global"}, CalibrationError, "9 is larger than the 8 experts"),
        ({"layers": (2, 3)}, InputError, "Layer 3 .*MoE layers: 2, 5"),
        ({"add": (Cell(4, 0),)}, InputError, "Layer 4 .*MoE layers: 2, 5"),
        ({"add": (Cell(5, 4),)}, InputError, "experts 0 to 3; found 4"),
        ({"remove": (Cell(5, -1),)}, InputError, "experts 0 to 3; found -1"),
        ({"add": (Cell(5, 1),), "remove": (Cell(5, 1),)}, CalibrationError, "both added and rem"),
        ({"score": "z"}, CalibrationError, "at least two documents"),
    ],
)
def test_refusals_are_sentences(
    settings: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        chosen(**settings)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"scope": "threshold", "threshold": 0.9}, "threshold 0.9"),
        ({"layers": (2,), "top_k": 1, "remove": (Cell(2, 0),)}, "removed by hand"),
    ],
)
def test_an_empty_selection_says_why(settings: dict[str, object], reason: str) -> None:
    selection = select_experts(HAND, SelectionConfig(**settings))
    assert selection.cells == ()
    assert reason in selection.why_empty
    assert list(selection.table.columns[:3]) == ["layer", "expert", "forget"]


def test_equal_sides_select_nothing() -> None:
    selection = select_experts(synthetic_profile(equal=True), SelectionConfig())
    assert selection.cells == ()
    assert "floor" in selection.why_empty


def test_shuffling_documents_changes_nothing() -> None:
    profile = synthetic_profile(seed=5, documents=30)
    side = profile.forget
    order = np.random.default_rng(0).permutation(30)
    shuffled = counts(side.counts_DLE[order], side.tokens_D[order], side.gate_mass_DLE[order])
    for settings in ({"statistic": "gate_mass"}, {"score": "z"}):
        config = SelectionConfig(**settings)
        other = hand_profile(shuffled, profile.retain, profile.layers, top_k=2)
        assert select_experts(other, config).cells == select_experts(profile, config).cells


def test_cumulative_ranks_by_score() -> None:
    config = SelectionConfig(scope="cumulative", share=0.4, score="ratio")
    score_LE, gain_LE = np.array([[1.0, 3.0, 2.0]]), np.array([[0.5, 0.2, 0.3]])
    chosen_LE = choose(config, score_LE, np.ones((1, 3), dtype=bool), gain_LE)
    assert chosen_LE.tolist() == [[False, True, True]]
