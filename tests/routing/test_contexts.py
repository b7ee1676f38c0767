"""A click on a cell: the tokens that go there, and figures that agree with the map."""

import json
from dataclasses import replace

import numpy as np
import pytest

from tests.support.profiles import synthetic_profile
from trace_engine.config import Cell
from trace_engine.errors import InputError
from trace_engine.routing import (
    Profile,
    activation_frequency,
    coactivation,
    contexts,
    expert_card,
    load_entropy,
    load_share,
    mismatch,
    top_tokens,
    uniform_share,
)

CELL = Cell(3, 5)


@pytest.fixture(scope="module")
def profile() -> Profile:
    return synthetic_profile(layers=(1, 3), planted=[CELL], documents=30, skipped=0.1)


@pytest.mark.parametrize("side", ["forget", "retain"])
@pytest.mark.parametrize("order", ["gate", "random"])
def test_contexts_show_what_the_sample_holds(profile: Profile, side: str, order: str) -> None:
    sample, counts = profile.sample(side), profile.counts(side)
    found = contexts(profile, CELL, side, n=15, window=3, order=order)
    assert len(found) == 15
    for context in found:
        document = counts.document_ids.index(context.document_id)
        rows = np.flatnonzero(sample.document_N == document)
        texts = [profile.token_text[int(i)] for i in sample.token_N[rows]]
        hit = (sample.index_NLK[rows, 1] == CELL.expert).any(axis=1)
        width = len(context.tokens)
        assert len(context.gates) == len(context.routed) == width <= 7
        assert context.routed[context.centre]
        assert context.gates[context.centre] > 0
        assert [gate > 0 for gate in context.gates] == list(context.routed)
        places = [
            start
            for start in range(len(rows) - width + 1)
            if texts[start : start + width] == list(context.tokens)
            and hit[start : start + width].tolist() == list(context.routed)
        ]
        assert places


def test_every_document_once_before_any_twice(profile: Profile) -> None:
    found = contexts(profile, CELL, "forget", n=40)
    names = [context.document_id for context in found]
    assert len(set(names[:30])) == 30
    gates = [context.gates[context.centre] for context in found[:30]]
    assert gates == sorted(gates, reverse=True)


def test_start_tokens_are_context_but_never_the_centre(profile: Profile) -> None:
    found = contexts(profile, CELL, "forget", n=10_000, window=50)
    assert all(context.tokens[context.centre] != "<bos>" for context in found)
    assert all(context.tokens[0] == "<bos>" for context in found)
    routed = profile.forget.counts_DLE[:, 1, CELL.expert].sum()
    assert len(found) == routed


def test_random_contexts_follow_the_seed(profile: Profile) -> None:
    one = contexts(profile, CELL, "retain", order="random", seed=1)
    assert one == contexts(profile, CELL, "retain", order="random", seed=1)
    assert one != contexts(profile, CELL, "retain", order="random", seed=2)


def test_an_unseen_expert_has_no_contexts_and_a_finite_card() -> None:
    profile = synthetic_profile(layers=(1, 3), unseen=(3, 2), documents=10)
    assert contexts(profile, (3, 2), "retain") == []
    card = expert_card(profile, (3, 2), bootstrap=100)
    assert (card.retain, card.gate_retain, card.top_retain) == (0.0, 0.0, ())
    assert json.loads(json.dumps(card.to_dict(), allow_nan=False))["cell"] == [3, 2]


def test_wrong_cells_are_sentences(profile: Profile) -> None:
    with pytest.raises(InputError, match="MoE layers: 1, 3"):
        contexts(profile, (2, 0), "forget")
    with pytest.raises(InputError, match="experts 0 to 7"):
        expert_card(profile, (1, 8))
    with pytest.raises(InputError, match="forget"):
        contexts(profile, CELL, "left")
    with pytest.raises(InputError, match="at least 1"):
        contexts(profile, CELL, "forget", n=0)


def test_the_card_agrees_with_the_map(profile: Profile) -> None:
    found = mismatch(profile, permutations=99, bootstrap=150, seed=4)
    card = expert_card(profile, CELL, bootstrap=150, seed=4)
    assert card.forget == pytest.approx(found.forget[1, 5], rel=1e-12)
    assert card.gap == pytest.approx(found.difference[1, 5], rel=1e-12)
    assert card.gap_low == pytest.approx(found.low[1, 5], rel=1e-9)
    assert card.gap_high == pytest.approx(found.high[1, 5], rel=1e-9)
    assert card.uniform == 2 / 8
    assert card.tokens_forget / card.n_forget == card.forget
    assert card.documents_retain == 30


def test_one_document_gives_the_widest_interval() -> None:
    card = expert_card(synthetic_profile(documents=1, layers=(0,)), (0, 1))
    assert (card.gap_low, card.gap_high) == (-1.0, 1.0)


def test_top_tokens_are_those_in_excess(profile: Profile) -> None:
    counts = profile.forget
    share = counts.token_counts_VLE[:, 1, 5].sum() / counts.token_totals_V.sum()
    found = top_tokens(profile, CELL, "forget", n=100)
    assert [token.z for token in found] == sorted((t.z for t in found), reverse=True)
    excess = {
        int(v)
        for v in np.flatnonzero(counts.token_counts_VLE[:, 1, 5] > counts.token_totals_V * share)
    }
    assert {token.token_id for token in found} == excess
    for token in found:
        assert token.routed > token.expected
        assert token.expected == pytest.approx(token.total * share)


def test_a_planted_token_leads(profile: Profile) -> None:
    counts = profile.forget
    by_id = counts.token_counts_VLE.copy()
    by_id[:, 1, 5] = 0
    by_id[7, 1, 5] = counts.token_totals_V[7]
    forced = replace(profile, forget=replace(counts, token_counts_VLE=by_id))
    (only,) = top_tokens(forced, CELL, "forget")
    assert (only.token_id, only.text) == (7, " w7")


def test_coactivation_is_conditional_and_complete(profile: Profile) -> None:
    share = coactivation(profile.forget)
    np.testing.assert_allclose(np.diagonal(share, axis1=1, axis2=2), 1)
    card = expert_card(profile, CELL, bootstrap=100)
    for other in card.coactivated:
        assert other.forget == share[1, CELL.expert, other.expert]
    assert CELL.expert not in {other.expert for other in card.coactivated}
    # With K = 2 each filled pair gives the expert exactly one partner; skipped slots give none.
    assert sum(other.forget for other in card.coactivated) <= 1


def test_frequencies_sum_to_k_less_skipped(profile: Profile) -> None:
    for counts in (profile.forget, profile.retain):
        total = activation_frequency(counts).sum(axis=1)
        skipped = counts.skipped_DL.sum(axis=0) / counts.tokens
        np.testing.assert_allclose(total + skipped, 2, rtol=1e-12)
        assert (skipped > 0).all()


def test_load_is_even_or_it_is_not(profile: Profile) -> None:
    np.testing.assert_allclose(load_share(profile.forget).sum(axis=1), 1)
    entropy = load_entropy(profile.retain, profile.num_experts_L)
    assert ((entropy > 0.9) & (entropy < 1)).all()
    counts = profile.retain
    even = replace(counts, counts_DLE=np.ones_like(counts.counts_DLE))
    np.testing.assert_allclose(load_entropy(even, (8, 8)), 1)
    lone = np.zeros_like(counts.counts_DLE)
    lone[:, :, 3] = 5
    np.testing.assert_array_equal(load_entropy(replace(counts, counts_DLE=lone), (8, 8)), 0)
    nothing = replace(counts, counts_DLE=np.zeros_like(lone))
    np.testing.assert_array_equal(load_entropy(nothing, (8, 8)), 0)


def test_the_uniform_share_is_the_floor(profile: Profile) -> None:
    np.testing.assert_allclose(uniform_share(profile), [[0.25], [0.25]])
    mass = uniform_share(profile, "gate_mass")
    expected = profile.forget.gate_mass_DLE.sum(axis=(0, 2)) / profile.forget.tokens / 8
    np.testing.assert_allclose(mass[:, 0], expected)
