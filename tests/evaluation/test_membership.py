"""Attacks by hand, their AUC against counting pairs, and what is said without a reference."""

import zlib

import numpy as np
import pytest

from tests.support.models import tiny_olmoe
from trace_engine.config import ModelConfig
from trace_engine.errors import InputError
from trace_engine.evaluation.membership import (
    Membership,
    area,
    area_estimate,
    loss_score,
    min_k_plus_plus_score,
    min_k_score,
    zlib_score,
)
from trace_engine.evaluation.tokens import TokenScores
from trace_engine.models import open_model
from trace_engine.sets import Document


def scores(
    logprobs: list[float], means: list[float] | None = None, deviations: list[float] | None = None
) -> TokenScores:
    length = len(logprobs)
    return TokenScores(
        np.array(logprobs),
        np.zeros(length, dtype=bool),
        np.array(means or [0.0] * length),
        np.array(deviations or [1.0] * length),
        "some text",
    )


def test_scores_by_hand() -> None:
    one = scores([-1.0, -4.0, -2.0, -8.0, -0.5])
    assert loss_score(one) == pytest.approx(15.5 / 5)
    assert zlib_score(one) == pytest.approx(15.5 / 5 / len(zlib.compress(b"some text")))
    assert min_k_score(one, 0.4) == pytest.approx((8 + 4) / 2)
    assert min_k_score(one, 0.59) == pytest.approx((8 + 4) / 2)  # int(2.95) tokens
    assert min_k_score(one, 0.01) == pytest.approx(8)  # at least one
    other = scores([-1.0, -4.0], [-2.0, -3.0], [0.5, 2.0])
    assert min_k_plus_plus_score(other, 1.0) == pytest.approx(-((1 / 0.5) + (-1 / 2)) / 2)
    assert min_k_plus_plus_score(other, 0.5) == pytest.approx(0.5)
    flat = scores([-1.0], [-2.0], [0.0])
    assert min_k_plus_plus_score(flat) == pytest.approx(-1 / 1e-3)


def test_auc_is_the_share_of_pairs_won() -> None:
    generator = np.random.default_rng(0)
    members, others = generator.integers(0, 8, 30), generator.integers(2, 10, 40)
    pairs = [(m < o) + 0.5 * (m == o) for m in members for o in others]
    assert area(members.astype(float), others.astype(float)) == pytest.approx(np.mean(pairs))
    assert area(np.array([1.0]), np.array([2.0])) == 1.0
    assert area(np.array([2.0]), np.array([1.0])) == 0.0
    assert np.isnan(area(np.array([1.0, np.nan]), np.array([2.0])))
    with pytest.raises(InputError, match="both sides"):
        area(np.array([]), np.array([1.0]))


def test_auc_of_the_same_documents_is_one_half_and_its_interval_covers_chance() -> None:
    generator = np.random.default_rng(3)
    same = generator.normal(0, 1, 60)
    found = area_estimate(same, same)
    assert found.value == pytest.approx(0.5)
    hits = 0
    for _ in range(60):
        drawn = area_estimate(generator.normal(0, 1, 40), generator.normal(0, 1, 50))
        assert drawn.low is not None
        assert drawn.high is not None
        hits += drawn.low <= 0.5 <= drawn.high
    assert hits >= 52


def test_separated_sides_are_told_apart() -> None:
    generator = np.random.default_rng(1)
    found = area_estimate(generator.normal(0, 1, 100), generator.normal(1, 1, 100))
    # P(X < Y) of two unit normals one apart: the normal distribution function at 1/sqrt(2).
    assert found.low is not None
    assert found.high is not None
    assert found.low < 0.7602 < found.high
    assert found.low > 0.5
    assert found.n == 200


DOCUMENTS = [Document(str(n), text) for n, text in enumerate(["abc", "hello", "12 34", "zzzz"])]


def test_without_a_reference_its_attack_says_so_and_has_no_number() -> None:
    opened = open_model(ModelConfig(source=str(tiny_olmoe()), device="cpu"))
    family = Membership(DOCUMENTS[:2], DOCUMENTS[2:])
    assert family.needs_reference
    *attacks, reference = family.rows(family.collect(opened))
    assert [row.measure.rpartition(", ")[2] for row in attacks] == [
        "loss",
        "zlib",
        "Min-K",
        "Min-K++",
    ]
    assert all(row.estimate is not None and row.estimate.n == 4 for row in attacks)
    assert reference.estimate is None
    assert reference.to_dict()["value"] is None
    assert reference.note.startswith("no reference")


def test_the_reference_attack_subtracts_the_references_loss() -> None:
    family = Membership(DOCUMENTS[:2], DOCUMENTS[2:])
    own = ([scores([-1.0]), scores([-3.0])], [scores([-2.0]), scores([-2.5])])
    # Differences: members -4 and +1, others 0 and +0.5: two of four pairs won.
    reference = ([scores([-5.0]), scores([-2.0])], [scores([-2.0]), scores([-2.0])])
    row = family.rows(own, reference)[-1]
    assert row.estimate is not None
    assert row.estimate.value == 0.5
    # Against itself nothing can be told apart.
    assert family.rows(own, own)[-1].estimate.value == 0.5  # type: ignore[union-attr]


def test_a_side_without_documents_is_refused() -> None:
    opened = open_model(ModelConfig(source=str(tiny_olmoe()), device="cpu"))
    with pytest.raises(InputError, match="both sides"):
        Membership([], DOCUMENTS).collect(opened)
