"""Tiny models and questions for causal evidence; no network."""

from __future__ import annotations

import random
from functools import cache

from tests.support.models import tiny_olmoe
from trace_engine.config import ModelConfig
from trace_engine.models import OpenModel, open_model
from trace_engine.sets import Question


@cache
def questions(seed: int = 0, per_group: int = 6) -> tuple[Question, ...]:
    """Random words; two groups of utility beside the forget group."""
    generator = random.Random(seed)

    def words(number: int) -> str:
        letters = "abcdefghijklmnopqrstuvwxyz"
        return " ".join(
            "".join(generator.choices(letters, k=generator.randint(1, 5))) for _ in range(number)
        )

    found = []
    for category in ("hazard", "general", "near"):
        for _ in range(per_group):
            choices = tuple(words(generator.randint(1, 3)) + str(n) for n in range(4))
            answer = generator.randrange(4)
            found.append(Question(words(generator.randint(1, 4)), choices, answer, category))
    return tuple(found)


def opened(**shape: int) -> OpenModel:
    """A tiny random OLMoE, opened for this test alone."""
    return open_model(ModelConfig(source=str(tiny_olmoe(**shape))))
