"""Two sets compared, and one set split."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trace_engine.errors import InputError
from trace_engine.sets import Document, DocumentSet, check_pair, overlap, split_documents
from trace_engine.sets.documents import normalised


def a_set(*texts: str, name: str = "set") -> DocumentSet:
    return DocumentSet.of(name, name, [Document(str(n), text) for n, text in enumerate(texts)])


def test_overlap_evens_out_case_and_white_space() -> None:
    found = overlap(a_set("A  poison\n", "b", "c"), a_set("a poison", "C", "d", "e"))
    assert (found.count, found.forget_total, found.retain_total) == (2, 3, 4)
    assert found.sample == ("A  poison\n", "c")
    assert not found.equal


def test_the_sample_is_bounded() -> None:
    texts = [f"text {n}" for n in range(20)]
    found = overlap(a_set(*texts), a_set(*texts, "another"))
    assert (found.count, len(found.sample)) == (20, 5)


WORDS = st.sampled_from(
    ["a", "B", "b", "ß", "SS", "İ", "ﬁ", "fi", " ", "\n", "\u00a0", "\u2003", "\x1f"]
)
TEXTS = st.lists(st.lists(WORDS, max_size=12).map("".join), max_size=6)


@given(TEXTS, TEXTS)
def test_overlap_is_that_of_evened_out_texts(forget: list[str], retain: list[str]) -> None:
    found = overlap(a_set(*forget), a_set(*retain))
    evened = {normalised(text) for text in retain}
    shared = [text for text in forget if normalised(text) in evened]
    equal = bool(retain) and {normalised(text) for text in forget} == evened
    assert (found.count, found.sample, found.equal) == (len(shared), tuple(shared[:5]), equal)


def test_folding_a_case_makes_and_takes_no_white_space() -> None:
    """What lets texts be compared by their first words."""
    characters = [chr(point) for point in range(sys.maxunicode + 1)]
    assert not [c for c in characters if c.isspace() != c.casefold().isspace()]
    assert not [c for c in characters if len(c.casefold().split()) != len(c.split())]


@pytest.mark.fault_row(19)
def test_equal_sets_are_refused_whatever_their_order_and_repeats() -> None:
    with pytest.raises(InputError, match="hold the same texts"):
        check_pair(a_set("a", "b", "a"), a_set("B", "a"))
    assert check_pair(a_set("a"), a_set("a", "b")).count == 1


@pytest.mark.fault_row(18)
def test_an_empty_side_is_named() -> None:
    with pytest.raises(InputError, match=r"The forget set \(left\) has no documents"):
        check_pair(a_set(name="left"), a_set("a"))
    with pytest.raises(InputError, match=r"The retain set \(right\) has no documents"):
        check_pair(a_set("a"), a_set(name="right"))


many = st.lists(st.text(max_size=8), min_size=2, max_size=30)


def different(texts: list[str]) -> int:
    return len({" ".join(text.casefold().split()) for text in texts})


@given(many, st.floats(0.01, 0.99), st.integers(0, 5))
def test_a_split_loses_nothing_keeps_order_and_leaks_no_text(
    texts: list[str], share: float, seed: int
) -> None:
    documents = a_set(*texts)
    if different(texts) < 2:
        with pytest.raises(InputError, match="at least two"):
            split_documents(documents, share, seed)
        return
    training, held_out = split_documents(documents, share, seed)
    assert training.documents
    assert held_out.documents
    assert sorted([*training.documents, *held_out.documents], key=lambda d: int(d.id)) == list(
        documents.documents
    )
    for side in (training, held_out):
        ids = [int(d.id) for d in side.documents]
        assert ids == sorted(ids)
    assert overlap(training, held_out).count == 0


def test_adding_a_document_moves_no_other() -> None:
    texts = [f"document {n}" for n in range(300)]
    training, held_out = split_documents(a_set(*texts), 0.2, seed=3)
    more_training, more_held_out = split_documents(a_set("a new one", *texts), 0.2, seed=3)
    assert set(training.texts) <= set(more_training.texts)
    assert set(held_out.texts) <= set(more_held_out.texts)
    assert 0.12 < len(held_out) / 300 < 0.28
    assert set(split_documents(a_set(*texts), 0.2, seed=4)[1].texts) != set(held_out.texts)


def test_an_impossible_share_is_refused() -> None:
    with pytest.raises(InputError, match="between 0 and 1"):
        split_documents(a_set("a", "b"), 1.0, 0)
