"""Relearning on a random model: what is shown, what trains, and that seeds repeat."""

import pytest
import torch

from tests.support.models import tiny_olmoe
from trace_engine.attacks.relearning import not_shown, relearn, retained_only, slice_of
from trace_engine.attacks.settings import RecoveryConfig, RelearningConfig
from trace_engine.config import ModelConfig
from trace_engine.errors import InputError
from trace_engine.evaluation.loss import set_loss
from trace_engine.models import OpenModel, open_model
from trace_engine.models.parts import router_parameters
from trace_engine.sets import Document, Question

DOCUMENTS = [Document(str(n), f"key {n}: value {n % 3} of {n}") for n in range(12)]
QUESTIONS = {
    n: Question(f"key {n}:", (f"value {n % 3} of {n}", f"value {(n + 1) % 3} of {n}"), 0, "hazard")
    for n in range(6)
}
CONFIG = RelearningConfig(steps=6, ask_at=(2, 6), batch_size=3, learning_rate=1e-2)


def fresh() -> OpenModel:
    return open_model(ModelConfig(source=str(tiny_olmoe())))


def state(opened: OpenModel) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in opened.model.state_dict().items()}


def test_a_slice_is_a_part_in_order_and_differs_by_seed() -> None:
    shown = slice_of(DOCUMENTS, 0.25, 0)
    assert len(shown) == 3
    assert shown == [d for d in DOCUMENTS if d in shown]
    assert slice_of(DOCUMENTS, 0.25, 0) == shown
    assert slice_of(DOCUMENTS, 0.25, 1) != shown
    with pytest.raises(InputError, match="nothing is left"):
        slice_of(DOCUMENTS[:1], 0.5, 0)


def test_retained_text_is_drawn_without_a_document_of_the_forget_set() -> None:
    retain = [*(Document(f"r{n}", f"tree {n}") for n in range(10)), Document("x", "KEY 1:  value")]
    drawn = retained_only(retain, [Document("f", "key 1: value"), *DOCUMENTS], 99, 0)
    assert drawn == retain[:10]
    fewer = retained_only(retain, DOCUMENTS, 4, 0)
    assert (len(fewer), fewer) == (4, [d for d in retain if d in fewer])
    assert retained_only(retain, DOCUMENTS, 4, 1) != fewer
    with pytest.raises(InputError, match="Every retained document is in the forget set"):
        retained_only(DOCUMENTS[:2], DOCUMENTS, 4, 0)


def test_retained_text_trains_as_a_slice_does() -> None:
    heard: list[str] = []
    config = RecoveryConfig(steps=2, ask_at=(1, 2), batch_size=3)
    found = relearn(
        fresh(), DOCUMENTS, QUESTIONS, {}, config, what="training on retained text",
        report=lambda progress: heard.append(progress.phase),
    )  # fmt: skip
    assert list(found.forget) == [0, 1, 2]
    assert set(heard) == {"training on retained text (all, seed 0)"}
    assert RelearningConfig().rate("routers") > RelearningConfig().rate("all")
    assert config.rate("all") == config.learning_rate


def test_what_was_shown_is_told_by_the_answers_words() -> None:
    assert not_shown(QUESTIONS, [Document("x", "KEY 1:  value 1\nof 1")]) == [
        True, False, True, True, True, True,
    ]  # fmt: skip


def test_a_wrong_choice_that_was_shown_counts_where_all_choices_do() -> None:
    shown = [Document("x", "value 1 of 0")]
    assert not_shown(QUESTIONS, shown) == [True] * 6
    assert not_shown(QUESTIONS, shown, choices=True) == [False, *[True] * 5]


def test_it_learns_what_it_is_shown_and_asks_when_told() -> None:
    opened = fresh()
    before = set_loss(opened, DOCUMENTS, 256).value
    found = relearn(opened, DOCUMENTS, QUESTIONS, {}, CONFIG)
    # Training on the slice must learn it: ascending its loss would raise this.
    assert set_loss(opened, DOCUMENTS, 256).value < before - 0.1
    assert list(found.forget) == [0, 2, 6]
    assert {len(marks) for marks in found.forget.values()} == {6}
    assert found.utility == {}
    again = relearn(fresh(), DOCUMENTS, QUESTIONS, {}, CONFIG)
    assert again == found
    other = fresh()
    relearn(other, DOCUMENTS, QUESTIONS, {}, CONFIG, seed=1)
    assert not torch.equal(other.model.lm_head.weight, opened.model.lm_head.weight)


def test_routers_alone_leave_every_other_weight_bitwise() -> None:
    opened = fresh()
    before = state(opened)
    routers = {id(p) for p in router_parameters(opened.sites)}
    names = {n for n, p in opened.model.named_parameters() if id(p) in routers}
    relearn(opened, DOCUMENTS, QUESTIONS, QUESTIONS, CONFIG, trains="routers")
    changed = {n for n, value in opened.model.state_dict().items() if not value.equal(before[n])}
    assert changed == names
    assert names


def test_nothing_to_learn_is_refused() -> None:
    with pytest.raises(InputError, match="No document that is shown"):
        relearn(fresh(), [], QUESTIONS, {}, CONFIG)
