"""The plane of outcomes: which runs no other beats, and utility as one share of questions."""

import math
import random

import pytest

from trace_engine.evaluation.outcome import figure_of, forget_and_utility, undominated


def test_the_front_by_hand() -> None:
    #           best    beaten by 0  less forgotten, kept better  equal to 0
    outcomes = [(0.3, 0.8), (0.4, 0.8), (0.5, 0.9), (0.3, 0.8)]
    assert undominated(outcomes) == {0, 2, 3}


def test_the_front_is_what_nobody_beats() -> None:
    generator = random.Random(0)
    outcomes = [(generator.randrange(5) / 4, generator.randrange(5) / 4) for _ in range(40)]
    front = undominated(outcomes)
    assert front
    for here, (forget, utility) in enumerate(outcomes):
        beaten = any(
            f <= forget and u >= utility and (f, u) != (forget, utility) for f, u in outcomes
        )
        assert (here in front) == (not beaten)


def test_utility_is_pooled_over_questions_not_over_groups() -> None:
    cell = {"low": 0.0, "high": 1.0}
    forget, utility = forget_and_utility(
        {"hazard": {"value": 0.25, "n": 4, **cell}, "a": {"value": 1.0, "n": 30, **cell},
         "b": {"value": 0.0, "n": 10, **cell}},
        "hazard",
    )  # fmt: skip
    assert (forget.value, forget.n) == (0.25, 4)
    assert utility.value == pytest.approx(0.75)
    assert utility.n == 40
    # Wilson's interval of 30 of 40, computed by hand from its formula.
    assert utility.low == pytest.approx(0.5981, abs=1e-4)
    assert utility.high == pytest.approx(0.8581, abs=1e-4)


def test_what_was_not_measured_is_no_number() -> None:
    assert not figure_of(None).known
    assert not figure_of({"value": None, "n": 3}).known
    assert math.isnan(forget_and_utility({"a": {"value": math.nan, "n": 3}}, "hazard")[1].value)
