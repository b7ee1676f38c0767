"""The order of documents and the learning rate follow from the step number alone."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import get_scheduler

from trace_engine.unlearning.schedule import (
    FORGET,
    RETAIN,
    DocumentOrder,
    Schedule,
    learning_rate,
)


@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 5))
def test_every_epoch_sees_every_document_once(documents: int, batch_size: int, seed: int) -> None:
    order = DocumentOrder(seed, FORGET, documents, batch_size)
    stream = [index for step in range(3 * documents) for index in order.batch(step)]
    for epoch in range(len(stream) // documents):
        part = stream[epoch * documents : (epoch + 1) * documents]
        assert sorted(part) == list(range(documents))


@given(st.integers(1, 40), st.integers(1, 12), st.integers(1, 30))
def test_drawn_is_what_the_steps_see(documents: int, batch_size: int, steps: int) -> None:
    order = DocumentOrder(0, RETAIN, documents, batch_size)
    seen = {index for step in range(steps) for index in order.batch(step)}
    assert order.drawn(steps) == sorted(seen)


def test_a_small_set_is_seen_whole_in_every_step() -> None:
    order = DocumentOrder(0, FORGET, documents=3, batch_size=8)
    assert all(sorted(order.batch(step)) == [0, 1, 2] for step in range(5))


def test_sides_seeds_and_epochs_differ_and_repeat() -> None:
    order = DocumentOrder(0, FORGET, 50, 50)
    assert order.batch(0) == DocumentOrder(0, FORGET, 50, 50).batch(0)
    others = [
        order.batch(1),
        DocumentOrder(0, RETAIN, 50, 50).batch(0),
        DocumentOrder(1, FORGET, 50, 50).batch(0),
    ]
    assert all(order.batch(0) != other for other in others)


def test_warm_up_is_linear_and_then_constant() -> None:
    assert [learning_rate(1.0, 4, step) for step in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert learning_rate(0.5, 0, 0) == pytest.approx(0.5)


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
@pytest.mark.parametrize(("warmup", "steps"), [(0, 10), (3, 10), (9, 10), (10, 10)])
def test_after_the_warm_up_the_rate_falls_as_transformers_lets_it(
    schedule: Schedule, warmup: int, steps: int
) -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    factors = get_scheduler(schedule, torch.optim.SGD([parameter]), warmup, steps).lr_lambdas[0]
    for step in range(steps):
        rate = learning_rate(0.5, warmup, step, schedule, steps)
        assert rate > 0
        if step >= warmup:
            assert rate == pytest.approx(0.5 * factors(step), rel=1e-12)
        else:
            assert rate == learning_rate(0.5, warmup, step)


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_a_schedule_begins_at_the_peak_and_would_be_0_after_the_last_step(
    schedule: Schedule,
) -> None:
    assert learning_rate(1.0, 2, 2, schedule, 12) == 1.0
    assert learning_rate(1.0, 2, 7, schedule, 12) == pytest.approx(0.5)
    assert learning_rate(1.0, 2, 12, schedule, 12) == pytest.approx(0.0, abs=1e-15)
