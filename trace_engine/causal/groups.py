"""Which questions are the forget group, and which the utility: every other category together.

One definition for ablations, scans and the tests of what came back. It accepts that the groups of
one question file differ in size: n stands beside every figure.
"""

# Dims: N questions

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trace_engine.causal.paired import Answers, Effect, effects_of
from trace_engine.causal.results import FORGET, UTILITY
from trace_engine.errors import InputError
from trace_engine.sets import Question


@dataclass(frozen=True, slots=True, eq=False)
class Groups:
    """The places of each group's questions in the list."""

    forget_category: str
    forget: NDArray[np.int64]
    utility: NDArray[np.int64]
    categories: dict[str, NDArray[np.int64]]
    """The utility's categories, where there are several."""

    def named(self) -> dict[str, NDArray[np.int64]]:
        """All groups that are measured: forget, utility, and the utility's categories."""
        return {FORGET: self.forget, UTILITY: self.utility} | self.categories


def group(questions: Sequence[Question], forget_category: str) -> Groups:
    """Raises InputError when no question, or every question, has the forget category."""
    names = np.array([question.category for question in questions])
    forget = np.flatnonzero(names == forget_category)
    utility = np.flatnonzero(names != forget_category)
    known = ", ".join(sorted(set(names.tolist())))
    if not len(forget):
        raise InputError(
            f"No question has the forget category {forget_category!r}. There are: {known}."
        )
    if not len(utility):
        raise InputError(
            f"Every question has the forget category {forget_category!r}: without others, nothing "
            "says whether an ablation harms more than what should be forgotten."
        )
    others = sorted(set(names.tolist()) - {forget_category})
    categories = {name: np.flatnonzero(names == name) for name in others}
    return Groups(forget_category, forget, utility, categories if len(others) > 1 else {})


def part(answers: Answers, places: NDArray[np.int64]) -> Answers:
    """The answers to some of the questions."""
    return Answers(answers.correct_N[places], answers.loss_N[places])


def group_effects(
    groups: Groups,
    before: Answers,
    after: Sequence[Answers],
    *,
    permutations: int,
    seed: int,
    names: Sequence[str] | None = None,
) -> dict[str, list[Effect]]:
    """Per group the effect of each ablation; corrected over the ablations, within a group."""
    return {
        name: effects_of(
            name,
            part(before, places),
            [part(answers, places) for answers in after],
            permutations=permutations,
            seed=seed,
        )
        for name, places in groups.named().items()
        if names is None or name in names
    }
