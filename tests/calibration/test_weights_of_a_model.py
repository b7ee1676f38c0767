"""Property 6 of method.md section 3 on a real model in float64: a token's weight is its own.

Weights come as a run makes them, from the routing of a forward; batches of other composition, with
padding on either side, and a model whose experts are numbered otherwise must give the same ones.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from tests.support.models import tiny_olmoe
from tests.support.padding import padded
from trace_engine.calibration import FittedWeights, Selection, fit_weights, select_experts
from trace_engine.config import Cell, ModelConfig, ProfileConfig, SelectionConfig, WeightsConfig
from trace_engine.models import Batch, OpenModel, collate, encode, make_batches, open_model
from trace_engine.routing import Profile, profile
from trace_engine.sets import Document, DocumentSet
from trace_engine.unlearning.retain import RetainWeighting

RULES = ("mean", "max", "product", "additive", "odds", "exact")
EXPERTS = 8
FORGET = [f"arsenic dose {n} stops a heart in {7 * n} beats" for n in range(12)]
THINGS = ("roses", "walls", "paths", "bees", "seeds", "ferns", "pears", "gates", "ponds", "hedges")
RETAIN = [f"the {word} of the garden" + " grew on" * (n % 4) for n, word in enumerate(THINGS)]
Weights = dict[int, torch.Tensor]
"""Document -> the weights of its labels, in their order."""


def numbered(order_LE: Sequence[np.ndarray] | None = None) -> OpenModel:
    """The tiny model in float64; expert e of site l is number `order_LE[l][e]`."""
    source = ModelConfig(source=str(tiny_olmoe()), device="cpu", experts_implementation="eager")
    opened = open_model(source)
    opened.model.double().eval()
    for layer, order_E in enumerate(order_LE or ()):
        block = opened.model.model.layers[layer].mlp
        for tensor in (block.gate.weight, block.experts.gate_up_proj, block.experts.down_proj):
            old = tensor.detach().clone()
            with torch.no_grad():
                tensor[torch.from_numpy(order_E)] = old
    return opened


def profiled(opened: OpenModel) -> Profile:
    sides = [
        DocumentSet.of(name, name, [Document(f"{n:04}", text) for n, text in enumerate(texts)])
        for name, texts in (("forget", FORGET), ("retain", RETAIN))
    ]
    config = ProfileConfig(
        forget={"source": "forget"}, retain={"source": "retain"}, sample_tokens=10_000
    )
    return profile(opened, *sides, config)


@cache
def plain() -> tuple[OpenModel, Profile]:
    opened = numbered()
    return opened, profiled(opened)


def fitted(
    profile: Profile, rule: str, normalise: str = "set", cells: Sequence[Cell] | None = None
) -> tuple[Selection, FittedWeights, WeightsConfig]:
    settings = WeightsConfig(rule=rule, normalise=normalise, hardness=0.7, ess_floor=0.1)
    how = SelectionConfig(top_k=1 if rule == "odds" else 2)
    if cells is not None:
        how = SelectionConfig(scope="threshold", threshold=10.0, add=tuple(cells))
    elif rule == "odds":
        first = select_experts(profile, how).cells[0]
        how = SelectionConfig(scope="threshold", threshold=10.0, add=(first,))
    selection = select_experts(profile, how)
    return selection, fit_weights(profile, selection, settings), settings


def encoded(opened: OpenModel) -> list:
    return encode(opened.tokenizer, RETAIN, 64)


def weights(
    opened: OpenModel, made: tuple[Selection, FittedWeights, WeightsConfig], batches: list[Batch]
) -> Weights:
    """What a run would weigh these batches with, per document."""
    weighting = RetainWeighting(opened, *made)
    found: Weights = {}
    for batch in batches:
        with torch.no_grad(), weighting.tap():
            opened.model(**batch.inputs, use_cache=False)
        weighed = weighting.weigh(batch)
        assert weighed is not None
        for document, row_T, labels_S in zip(
            batch.document_B.tolist(), weighed.weights_BT, batch.labels_BS, strict=True
        ):
            found[document] = row_T[labels_S[1:] != -100]
    return found


def assert_same(one: Weights, other: Weights, tolerance: float = 1e-12) -> None:
    assert sorted(one) == sorted(other) == list(range(len(RETAIN)))
    for document, weights_N in one.items():
        assert len(weights_N) > 10
        torch.testing.assert_close(other[document], weights_N, rtol=tolerance, atol=0)


LAYOUTS = {
    "one document a batch": lambda items: [collate(items, [n]) for n in range(len(items))],
    "other neighbours": lambda items: [
        collate(items, [n for n in range(len(items)) if n % 3 == rest]) for rest in (2, 0, 1)
    ],
    "all together, backwards": lambda items: [collate(items, range(len(items))[::-1])],
    "more padding on the right": lambda items: [
        padded(batch, left=False, more=9) for batch in make_batches(items, 200)
    ],
    "padding on the left": lambda items: [
        padded(batch, left=True, more=5) for batch in make_batches(items, 200)
    ],
    "all together, padding on the left": lambda items: [
        padded(collate(items, range(len(items))), left=True)
    ],
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("normalise", ["set", "sequence"])
def test_6_batches_and_padding_change_no_tokens_weight(layout: str, normalise: str) -> None:
    opened, profile = plain()
    items = encoded(opened)
    assert len({len(item.ids) for item in items}) > 3, "without padding this would prove nothing"
    for rule in RULES:
        made = fitted(profile, rule, normalise)
        usual = weights(opened, made, list(make_batches(items, 200)))
        values = torch.cat(list(usual.values()))
        assert values.max() > 1.01 * values.min(), rule
        assert_same(usual, weights(opened, made, LAYOUTS[layout](items)))


def test_6_padding_that_the_model_sees_as_text_would_be_noticed() -> None:
    opened, profile = plain()
    items = encoded(opened)
    made = fitted(profile, "exact")
    batches = [padded(batch, left=True, more=5) for batch in make_batches(items, 200)]
    unmasked = [
        replace(batch, attention_mask_BS=torch.ones_like(batch.attention_mask_BS))
        for batch in batches
    ]
    with pytest.raises(AssertionError):
        assert_same(weights(opened, made, batches), weights(opened, made, unmasked))


@pytest.mark.parametrize("rule", RULES)
def test_6_a_label_does_not_move_its_own_weight(rule: str) -> None:
    """Routing at t weighs the loss on label t + 1, so nothing from t + 1 on is in that weight."""
    opened, profile = plain()
    items = encoded(opened)
    made = fitted(profile, rule)
    usual = weights(opened, made, list(make_batches(items, 200)))
    # Routed right after BOS, wherever the text goes on: the first label's weight is one and the
    # same, while the weights of the labels after it differ.
    first = torch.stack([weights_N[0] for weights_N in usual.values()])
    assert torch.equal(first, first[:1].expand_as(first))
    moved = False
    for drop in range(1, 4):
        # Another end of the text: other routing there, and another label at the place before it.
        ends = [item.ids[:-drop] + item.ids[1 : 1 + drop] for item in items]
        others = [replace(item, ids=end) for item, end in zip(items, ends, strict=True)]
        assert all(one.ids[-drop] != two.ids[-drop] for one, two in zip(items, others, strict=True))
        changed = weights(opened, made, list(make_batches(others, 200)))
        kept = [(changed[n][: 1 - drop or None], usual[n][: 1 - drop or None]) for n in usual]
        for now_N, before_N in kept:
            torch.testing.assert_close(now_N, before_N, rtol=1e-12, atol=0)
        moved |= any(not torch.equal(changed[n], usual[n]) for n in usual)
    assert moved, "the ends were routed alike, so that this proved nothing"


@pytest.mark.parametrize("rule", RULES)
def test_6_renumbered_experts_are_selected_and_weigh_as_before(rule: str) -> None:
    rng = np.random.default_rng(3)
    order_LE = [rng.permutation(EXPERTS) for _ in range(2)]
    opened, profile = plain()
    other = numbered(order_LE)
    renumbered = profiled(other)
    made = fitted(profile, rule)
    moved = [Cell(layer, int(order_LE[layer][expert])) for layer, expert in made[0].cells]
    assert moved != list(made[0].cells)
    again = fitted(renumbered, rule, cells=moved if rule == "odds" else None)
    assert sorted(again[0].cells) == sorted(moved)
    items = encoded(opened)
    batches = list(make_batches(items, 200))
    ids = batches[0].input_ids_BS
    with torch.no_grad():
        # The family's router works in float32 whatever the model's precision.
        one, two = opened.model(ids).logits, other.model(ids).logits
    torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-5)
    assert_same(weights(opened, made, batches), weights(other, again, batches), 1e-9)


def at_length(max_length: int) -> Profile:
    """The plain model's profile of documents that are cut there."""
    sides = [
        DocumentSet.of(name, name, [Document(f"{n:04}", text) for n, text in enumerate(texts)])
        for name, texts in (("forget", FORGET), ("retain", RETAIN))
    ]
    sets = {"forget": {"source": "forget"}, "retain": {"source": "retain"}}
    settings = ProfileConfig(**sets, sample_tokens=10_000, max_length=max_length)
    return profile(plain()[0], *sides, settings)


@pytest.mark.parametrize("rule", RULES[:-2] + RULES[-1:])
def test_the_fit_is_on_the_positions_that_training_has(rule: str) -> None:
    """Of a causal model, cutting the labels is cutting the documents."""
    whole, cut = plain()[1], at_length(12)
    selection = select_experts(cut, SelectionConfig(top_k=1))
    config = WeightsConfig.model_validate({"rule": rule, "hardness": 0.4})
    found = fit_weights(whole, selection, config, max_length=12).to_dict()
    expected = fit_weights(cut, selection, config, max_length=12).to_dict()
    note = found["notes"][0]
    assert "lie beyond the 12 tokens of a document that are trained on" in note
    assert expected["notes"] == found["notes"][1:]
    assert found | {"notes": 0} == expected | {"notes": 0}
    # Not asked for, or beyond no document: the profile's own fit, bit for bit.
    everything = fit_weights(whole, selection, config).to_dict()
    assert everything != found
    assert fit_weights(whole, selection, config, max_length=500).to_dict() == everything


def test_training_on_more_than_was_profiled_is_said() -> None:
    cut = at_length(12)
    selection = select_experts(cut, SelectionConfig(top_k=1))
    weights = WeightsConfig(rule="mean", hardness=0.4)
    cut = replace(cut, meta=cut.meta | {"settings": {"max_length": 12}})
    notes = fit_weights(cut, selection, weights, max_length=16).notes
    assert notes[0].startswith("10 retain documents were profiled up to 12 tokens and are trained")
    assert fit_weights(cut, selection, weights, max_length=12).notes == notes[1:]
