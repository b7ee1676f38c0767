"""Documents into batches: nothing lost, nothing scored that should not be."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.models import tiny_tokenizer
from trace_engine.errors import InputError
from trace_engine.models import Encoded, collate, encode, make_batches
from trace_engine.models.batches import BATCH_COST

BOS, EOS = 1, 2
texts = st.lists(st.text(max_size=30), min_size=1, max_size=12)


def test_a_text_is_bos_ids_eos() -> None:
    tokenizer = tiny_tokenizer()
    [item] = encode(tokenizer, ["ab é"], 32)
    assert (item.ids[0], item.ids[-1], item.label_start) == (BOS, EOS, 1)
    assert tokenizer.decode(item.ids[1:-1]) == "ab é"
    assert not item.truncated


def test_a_tokenizer_without_special_tokens_adds_none() -> None:
    tokenizer = tiny_tokenizer().__class__(tokenizer_object=tiny_tokenizer().backend_tokenizer)
    assert tokenizer.bos_token_id is None
    [item] = encode(tokenizer, ["abc"], 8)
    assert len(item.ids) == 3
    assert item.label_start == 1, "the first id has nothing before it to be predicted from"


@pytest.mark.parametrize(
    ("length", "last", "truncated"), [(6, EOS, False), (5, 71, False), (4, 70, True)]
)
def test_eos_only_where_it_fits(length: int, last: int, truncated: bool) -> None:
    [item] = encode(tiny_tokenizer(), ["abcd"], length)
    assert len(item.ids) == length
    assert item.ids[-1] == last
    assert item.truncated is truncated


def test_a_prompt_is_context() -> None:
    [item, plain] = encode(tiny_tokenizer(), ["Q? yes", "Q? yes"], 32, prompts=["Q?", None])
    assert item.label_start == 3
    assert item.ids == plain.ids
    assert plain.label_start == 1
    [cut] = encode(tiny_tokenizer(), ["a long prompt, answer"], 6, prompts=["a long prompt,"])
    assert cut.labels == 0


def test_a_token_across_the_prompts_end_is_predicted() -> None:
    [item] = encode(tiny_tokenizer(), ["é!"], 32, prompts=["é"])
    assert item.label_start == 3


def test_a_prompt_must_lead_its_text() -> None:
    with pytest.raises(InputError, match="Document 0: its text does not begin with its prompt"):
        encode(tiny_tokenizer(), ["yes"], 32, prompts=["Q?"])


def test_no_room_is_refused() -> None:
    with pytest.raises(InputError, match="at least 2 tokens"):
        encode(tiny_tokenizer(), ["yes"], 1)
    with pytest.raises(InputError, match="at least one document"):
        collate([], [])
    assert encode(tiny_tokenizer(), [], 8) == []


@settings(max_examples=40, deadline=None)
@given(texts, st.integers(2, 40), st.integers(1, 120))
def test_batches_hold_every_token_once_and_keep_to_the_budget(
    documents: list[str], max_length: int, budget: int
) -> None:
    encoded = encode(tiny_tokenizer(), documents, max_length)
    found: dict[int, tuple[int, ...]] = {}
    widths = []
    for batch in make_batches(encoded, budget):
        rows, width = batch.input_ids_BS.shape
        assert rows == 1 or rows * width <= budget
        widths.append(width)
        assert torch.equal(batch.position_ids_BS, torch.arange(width).expand(rows, width))
        for row, number in enumerate(batch.document_B.tolist()):
            valid_S = batch.valid_BS[row]
            found[number] = tuple(batch.input_ids_BS[row][valid_S].tolist())
            assert valid_S.tolist() == sorted(valid_S.tolist(), reverse=True), (
                "padding on the right"
            )
            labels = batch.labels_BS[row].tolist()
            start = encoded[number].label_start
            expected = [-100] * start + list(encoded[number].ids[start:])
            assert labels == (expected + [-100] * width)[:width]
            assert sum(label != -100 for label in labels) == encoded[number].labels
    assert found == {n: item.ids for n, item in enumerate(encoded)}
    assert widths == sorted(widths, reverse=True)


def test_the_order_of_equal_lengths_is_the_documents() -> None:
    encoded = [Encoded((1, 5), 1), Encoded((1, 5, 6), 1), Encoded((1, 7), 1)]
    assert [b.document_B.tolist() for b in make_batches(encoded, 4)] == [[1], [0, 2]]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 300), min_size=1, max_size=9), st.integers(1, 900))
def test_no_other_cut_pads_less_for_what_a_forward_costs(lengths: list[int], budget: int) -> None:
    encoded = [Encoded(tuple(range(length)), 1) for length in lengths]
    shapes = [batch.input_ids_BS.shape for batch in make_batches(encoded, budget)]
    ordered = sorted(lengths, reverse=True)

    def least(start: int) -> int:
        """By trying every cut."""
        if start == len(ordered):
            return 0
        rows = range(1, min(max(1, budget // ordered[start]), len(ordered) - start) + 1)
        return min(BATCH_COST + n * ordered[start] + least(start + n) for n in rows)

    assert sum(BATCH_COST + rows * width for rows, width in shapes) == least(0)
