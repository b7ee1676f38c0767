"""A run's answers, question by question, as shares right per group under any weights of questions.

Utility is pooled over every group that is not to be forgotten, right answers over all questions, as
on the Compare page.
"""

# Dims: B resamples, T evaluations of a run, Q questions of a group

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from trace_engine.benchmark.curves import Floats

Weights = Mapping[str, Floats]
"""Per group how often each question counts, (B, Q)."""


@dataclass(frozen=True, slots=True)
class Answers:
    """What one run answered at each of its evaluations."""

    forget_category: str
    right: dict[str, NDArray[np.bool_]]
    """Per group, (T, Q)."""

    @classmethod
    def of(cls, evaluations: list[dict[str, Any]], forget_category: str) -> Self:
        """From a result's evaluations, each with its string of 0 and 1 per group."""
        groups = sorted(evaluations[0]["right"])
        return cls(
            forget_category,
            {
                group: np.array([[mark == "1" for mark in e["right"][group]] for e in evaluations])
                for group in groups
            },
        )

    def sizes(self) -> dict[str, int]:
        """Questions per group."""
        return {group: right_TQ.shape[1] for group, right_TQ in self.right.items()}

    def once(self) -> Weights:
        """Every question counts once."""
        return {group: np.ones((1, size)) for group, size in self.sizes().items()}

    def shares(self, weights: Weights) -> dict[str, Floats]:
        """Accuracy per group, (B, T)."""
        return {
            group: weights[group] @ right_TQ.T / weights[group].sum(axis=1, keepdims=True)
            for group, right_TQ in self.right.items()
        }

    def forget(self, weights: Weights) -> Floats:
        """Accuracy of the group to forget, (B, T)."""
        return self.shares(weights)[self.forget_category]

    def utility(self, weights: Weights) -> Floats:
        """Accuracy pooled over all other groups, (B, T)."""
        kept = {g: right for g, right in self.right.items() if g != self.forget_category}
        right_BT = sum(weights[group] @ right_TQ.T for group, right_TQ in kept.items())
        asked_B = sum(weights[group].sum(axis=1) for group in kept)
        pooled: Floats = np.asarray(right_BT) / np.asarray(asked_B)[:, None]
        return pooled
