"""The experts of a set taken out one after the other, until all are out.

`one_at_a_time` goes by what each does alone; `greedy` looks again before every step, and so sees
experts that stand in for each other. Trade-off: greedy asks the questions once for every expert
still in, at every step.
"""

from __future__ import annotations

from collections.abc import Sequence

from trace_engine.causal.ablation import harm_of
from trace_engine.causal.groups import Groups, group_effects
from trace_engine.causal.paired import Answers
from trace_engine.causal.replay import Examination
from trace_engine.causal.results import FORGET, UTILITY, Order, OrderKind, OrderStep
from trace_engine.config import Cell
from trace_engine.models import MaskMode
from trace_engine.progress import Meter, ProgressCallback, ignore_progress


def ablation_order(
    examination: Examination,
    groups: Groups,
    cells: Sequence[Cell],
    kind: OrderKind,
    *,
    mode: MaskMode = "drop",
    permutations: int,
    seed: int = 0,
    report: ProgressCallback = ignore_progress,
) -> Order:
    """Which expert goes at each step, and what is left then: forget and utility after each.

    Ties fall to the lower layer, then the lower expert. p-values are corrected over the steps.
    """
    left = sorted({Cell(*cell) for cell in cells})
    looks = len(left) if kind == "one_at_a_time" else len(left) * (len(left) + 1) // 2
    meter = Meter("ordering the experts", looks + len(left), "ablations", report)

    def harm(out: Sequence[Cell]) -> float:
        answers = examination.without(out, mode)
        meter.add(1)
        return harm_of(groups, examination.answers, answers)["specific_loss"]

    alone = {cell: harm([cell]) for cell in left}
    out: list[Cell] = []
    after: list[Answers] = []
    while left:
        again = kind == "greedy" and out
        worth = {cell: harm([*out, cell]) for cell in left} if again else alone
        chosen = max(left, key=lambda cell: worth[cell])
        left.remove(chosen)
        out.append(chosen)
        after.append(examination.without(out, mode))
        meter.add(1)
    found = group_effects(
        groups,
        examination.answers,
        after,
        permutations=permutations,
        seed=seed,
        names=(FORGET, UTILITY),
    )
    return Order(
        kind,
        tuple(
            OrderStep(cell, found[FORGET][step], found[UTILITY][step])
            for step, cell in enumerate(out)
        ),
    )
