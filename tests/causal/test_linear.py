"""The probe finds what is there to find, and nothing where there is nothing."""

from typing import Any

import numpy as np
import pytest

from trace_engine.causal.linear import probe
from trace_engine.errors import InputError


def case(signal: float, questions: int = 120, width: int = 12, seed: int = 0) -> tuple[Any, ...]:
    """States that hold their answer's embedding, turned and noised, beside random choices."""
    generator = np.random.default_rng(seed)
    sizes = generator.integers(2, 5, size=questions)
    answers = generator.integers(0, sizes)
    choices = generator.standard_normal((int(sizes.sum()), width))
    right = np.concatenate([[0], np.cumsum(sizes)[:-1]]) + answers
    turn = np.linalg.qr(generator.standard_normal((width, width)))[0]
    states = signal * choices[right] @ turn + generator.standard_normal((questions, width))
    tested = np.arange(questions) % 2 == 0
    return states, choices, sizes, answers, tested


def test_a_state_that_holds_the_answer_points_to_it() -> None:
    found = probe(*case(3.0), shuffles=49)
    assert found.accuracy.value > 0.9
    assert found.accuracy.n == len(found.picked) == 60
    assert max(found.shuffled) < found.accuracy.value


def test_without_a_signal_it_is_chance_and_like_its_shuffles() -> None:
    states, choices, sizes, answers, tested = case(0.0, questions=400)
    found = probe(states, choices, sizes, answers, tested, shuffles=99)
    chance = float((1 / sizes[tested]).mean())
    assert abs(np.mean(found.shuffled) - chance) < 0.02
    assert sum(share >= found.accuracy.value for share in found.shuffled) / 99 > 0.05


def test_a_question_is_never_among_those_it_was_trained_on() -> None:
    states, choices, sizes, answers, tested = case(0.0, width=300)
    # With more directions than questions a map fits every answer that it is trained on.
    found = probe(states, choices, sizes, answers, tested, shuffles=0)
    assert found.accuracy.value < 0.6


def test_it_is_repeatable_and_ignores_constant_directions() -> None:
    states, *rest = case(1.0)
    wider = np.hstack([states, np.full((len(states), 1), 5.0)])
    one = probe(states, *rest, shuffles=9)
    assert one == probe(states, *rest, shuffles=9)
    assert one.picked == probe(wider, *rest, shuffles=9).picked


def test_too_few_questions_are_refused() -> None:
    with pytest.raises(InputError, match="at least 5"):
        probe(*case(0.0, questions=8))
