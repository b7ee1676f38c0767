"""Overlap between two states of a model."""

import numpy as np
import pytest

from trace_engine.errors import InputError
from trace_engine.routing import drift


def routing(seed: int, tokens: int = 400) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.argsort(rng.random((tokens, 3, 8)), axis=-1)[..., :4]


def test_same_routing_in_any_slot_order_is_unmoved() -> None:
    before = routing(0)
    found = drift(before, before[..., ::-1])
    assert (found.overlap == 1).all()
    assert (found.low == 1).all()
    assert (found.n, found.unit) == (400, "tokens")


def test_overlap_is_the_share_in_common() -> None:
    before = np.array([[[0, 1, 2, 3]], [[0, 1, 2, 3]]])
    after = np.array([[[3, 2, 7, 6]], [[4, 5, 6, 7]]])
    assert drift(before, after).overlap == pytest.approx([0.25])


def test_unrelated_routing_leaves_chance() -> None:
    found = drift(routing(0, 4000), routing(1, 4000))
    np.testing.assert_allclose(found.overlap, 0.5, atol=0.02)
    assert ((found.low < found.overlap) & (found.overlap < found.high)).all()


def test_it_is_symmetric_with_skipped_slots() -> None:
    before, after = routing(0), routing(1)
    before[::3, :, 0] = -1
    after[::5, :, 1] = -1
    np.testing.assert_array_equal(drift(before, after).overlap, drift(after, before).overlap)
    nothing = np.full((5, 2, 4), -1)
    assert (drift(nothing, nothing).overlap == 1).all()
    assert (drift(nothing, np.zeros((5, 2, 4), dtype=int)).overlap == 0).all()


def test_documents_widen_the_interval_when_tokens_are_alike() -> None:
    document = np.repeat(np.arange(20), 20)
    before = np.repeat(routing(0, 20), 20, axis=0)
    after = np.repeat(routing(1, 20), 20, axis=0)
    by_token, by_document = drift(before, after), drift(before, after, document)
    np.testing.assert_allclose(by_token.overlap, by_document.overlap)
    assert (by_document.high - by_document.low > 2 * (by_token.high - by_token.low)).all()
    assert (by_document.n, by_document.unit) == (20, "documents")


def test_one_document_says_it_knows_nothing() -> None:
    found = drift(routing(0), routing(1), np.zeros(400, dtype=int))
    assert (found.low == 0).all()
    assert (found.high == 1).all()
    assert found.to_dict()["n"] == 1


def test_other_tokens_are_refused() -> None:
    with pytest.raises(InputError, match="same tokens"):
        drift(routing(0), routing(0)[:7])
    with pytest.raises(InputError, match="at least one token"):
        drift(routing(0)[:0], routing(0)[:0])
    with pytest.raises(InputError, match="one document per token"):
        drift(routing(0), routing(1), np.zeros(3))
