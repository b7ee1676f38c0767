"""Which documents a step sees and how fast it learns, as functions of the step number alone.

A resumed run therefore needs no generator state. Each side walks through seeded permutations of
its documents, one an epoch; accepted trade-off: an epoch's permutation is rebuilt whenever a step
asks for it, a few microseconds.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

FORGET, RETAIN = 0, 1
Schedule = Literal["constant", "cosine", "linear"]


@dataclass(frozen=True, slots=True)
class DocumentOrder:
    """Endless, seeded order of `documents` documents in batches of at most `batch_size`."""

    seed: int
    side: int
    documents: int
    batch_size: int

    @property
    def per_step(self) -> int:
        """Documents a step sees: a set smaller than the batch is seen whole, never twice in a
        step.
        """
        return min(self.batch_size, self.documents)

    def batch(self, step: int) -> list[int]:
        """Document indices of step `step` (from 0), in drawn order."""
        first, last = step * self.per_step, (step + 1) * self.per_step
        chosen: list[int] = []
        for epoch in range(first // self.documents, (last - 1) // self.documents + 1):
            start = epoch * self.documents
            order = np.random.default_rng([self.seed, self.side, epoch]).permutation(self.documents)
            chosen += order[max(first - start, 0) : last - start].tolist()
        return chosen

    def drawn(self, steps: int) -> list[int]:
        """Every document the first `steps` steps will see, ascending, each once."""
        if steps * self.per_step >= self.documents:
            return list(range(self.documents))
        return sorted({index for step in range(steps) for index in self.batch(step)})


def parts_of(
    documents: int, micro_batch_size: int | None, rank: int = 0, processes: int = 1
) -> list[slice]:
    """Where in a step's batch this process finds its documents, in parts of at most
    `micro_batch_size`.

    The batch is composed before it is shared: processes take neighbouring stretches of nearly equal
    length. Empty where there are fewer documents than processes.
    """
    first, last = (documents * at // processes for at in (rank, rank + 1))
    size = micro_batch_size or max(1, last - first)
    return [slice(start, min(start + size, last)) for start in range(first, last, size)]


def learning_rate(
    peak: float, warmup_steps: int, step: int, schedule: Schedule = "constant", max_steps: int = 0
) -> float:
    """Rate of step `step` (from 0): linear up to `peak` over `warmup_steps`, then by `schedule`.

    `cosine` and `linear` are transformers' factors (`get_cosine_schedule_with_warmup`,
    `get_linear_schedule_with_warmup`): they begin at `peak` and would reach 0 one step after the
    last, so that no step is without effect.
    """
    if step < warmup_steps:
        return peak * min(1.0, (step + 1) / warmup_steps)
    if schedule == "constant":
        return peak
    passed = (step - warmup_steps) / max(1, max_steps - warmup_steps)
    if schedule == "cosine":
        return peak * 0.5 * (1.0 + math.cos(math.pi * passed))
    return peak * (1.0 - passed)
