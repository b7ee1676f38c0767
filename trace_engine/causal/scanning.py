"""Every expert of a model taken out one at a time: the attribution map.

Cells are measured in layer order, so that the hidden states before a layer are computed once for
all its experts; an expert that no token of the questions reaches has an effect of exactly 0 and
costs nothing. A cell's answers are kept as they come. Trade-off: the reference band of a cell is
made of other cells' effects, those nearest to it in load over all layers, not of draws of its own.
"""

# Dims: L sites, E experts, C cells

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trace_engine.causal.ablation import load_of, model_of
from trace_engine.causal.groups import Groups, group, group_effects
from trace_engine.causal.load import Load, nearest_in_load
from trace_engine.causal.paired import PERMUTATIONS, Answers
from trace_engine.causal.replay import TOKENS_PER_BATCH, Examination
from trace_engine.causal.results import FORGET, UTILITY, CellEffect, Scan, Specific, band
from trace_engine.causal.store import CellStore, scan_key
from trace_engine.config import Cell
from trace_engine.errors import InputError
from trace_engine.evaluation.estimate import Z_95
from trace_engine.evaluation.multiple_choice import Style
from trace_engine.models import MaskMode, OpenModel
from trace_engine.progress import Meter, ProgressCallback, ignore_progress
from trace_engine.sets import Question

NEAREST = 20


def scan(
    opened: OpenModel,
    questions: Sequence[Question],
    *,
    mode: MaskMode = "drop",
    forget_category: str = "hazard",
    load: Load | None = None,
    folder: Path | None = None,
    cells: Sequence[Cell] | None = None,
    style: Style = "continuation",
    permutations: int = PERMUTATIONS,
    seed: int = 0,
    replay: bool = True,
    report: ProgressCallback = ignore_progress,
) -> Scan:
    """Take out every expert (or each of `cells`) by itself, and test all effects together.

    With `folder`, each cell's answers are kept in a folder of it that is named by model, questions
    and settings, and those that are there are not computed again. Raises InputError for questions
    without both groups, or cells the model does not have; ModelError where a router cannot be
    re-routed. What `report` raises ends the scan between two cells.
    """
    groups = group(questions, forget_category)
    kept = None
    if folder is not None:
        settings = {"mode": mode, "style": style, "tokens_per_batch": TOKENS_PER_BATCH}
        kept = CellStore(folder / scan_key(opened, questions, settings))
    examination = Examination(opened, questions, style=style, replay=replay, report=report)
    wanted = all_cells(opened) if cells is None else sorted({Cell(*cell) for cell in cells})
    if not wanted:
        raise InputError("No expert is named that could be taken out.")
    after = measure(examination, wanted, mode, kept, report)
    return effects(
        examination, groups, wanted, after, mode, load or load_of(examination), permutations, seed
    )


def all_cells(opened: OpenModel) -> list[Cell]:
    """Every routed expert of a model."""
    return [Cell(site.layer, e) for site in opened.sites for e in range(site.num_experts)]


def measure(
    examination: Examination,
    cells: Sequence[Cell],
    mode: MaskMode,
    kept: CellStore | None,
    report: ProgressCallback,
) -> list[Answers]:
    """The answers without each of the cells, from the store where they are there."""
    n = len(examination.questions)
    known: dict[Cell, Answers] = {}
    for cell in cells:
        stored = None if kept is None else kept.read(cell, n)
        if stored is not None:
            known[cell] = stored
    missing = [cell for cell in sorted(cells) if cell not in known]
    if kept is not None:
        checks = [kept.read_check(layer) for layer in sorted({cell.layer for cell in known})]
        examination.take_checks([check for check in checks if check is not None])
    meter = Meter("ablating experts", max(1, len(missing)), "experts", report, interval=0.0)
    for cell in missing:
        answers = examination.without([cell], mode)
        if kept is not None:
            for check in examination.replays():
                kept.write_check(check)
            kept.write(cell, answers)
        known[cell] = answers
        meter.add(1)
    return [known[cell] for cell in cells]


def effects(
    examination: Examination,
    groups: Groups,
    cells: Sequence[Cell],
    after: Sequence[Answers],
    mode: MaskMode,
    load: Load,
    permutations: int,
    seed: int,
) -> Scan:
    """The map from what was measured."""
    before = examination.answers
    found = group_effects(
        groups,
        before,
        after,
        permutations=permutations,
        seed=seed,
        names=(FORGET, UTILITY),
    )
    specific = [_specific(groups, before, answers) for answers in after]
    near = nearest_in_load(load, cells, NEAREST)
    row_of = {site.layer: site.index for site in examination.opened.sites}
    return Scan(
        model=model_of(examination.opened),
        mode=mode,
        forget_category=groups.forget_category,
        questions=len(examination.questions),
        tokens=examination.tokens,
        forget_accuracy=float(before.correct_N[groups.forget].mean()),
        utility_accuracy=float(before.correct_N[groups.utility].mean()),
        cells=tuple(
            CellEffect(
                layer=cell.layer,
                expert=cell.expert,
                tokens=int(examination.tokens_LE[row_of[cell.layer], cell.expert]),
                load=load.of([cell]),
                forget=found[FORGET][place],
                utility=found[UTILITY][place],
                specific=specific[place],
                band=band(specific[place].value, [specific[o].value for o in near[place]]),
            )
            for place, cell in enumerate(cells)
        ),
        load_source=load.source,
        prefix=tuple(examination.replays()),
        permutations=permutations,
        seed=seed,
    )


def _specific(groups: Groups, before: Answers, after: Answers) -> Specific:
    moved_N = after.loss_N - before.loss_N
    sides = moved_N[groups.forget], moved_N[groups.utility]
    value = float(sides[0].mean() - sides[1].mean())
    if min(map(len, sides)) < 2:
        return Specific(value, None, None)
    half = Z_95 * math.sqrt(sum(float(side.var(ddof=1)) / len(side) for side in sides))
    return Specific(value, value - half, value + half)


def harm_map(found: Scan, layers: Sequence[int], experts: int) -> np.ndarray[Any, Any]:
    """`specific` of every cell, (L, E), NaN where none was measured."""
    values_LE = np.full((len(layers), experts), np.nan)
    for cell in found.cells:
        values_LE[list(layers).index(cell.layer), cell.expert] = cell.specific.value
    return values_LE
