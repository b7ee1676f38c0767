"""What hangs on a set of experts: the same questions with and without them, beside random sets.

One effect a group of questions, each with interval and p; and the same measured on random experts
through which as much passes, because taking out any busy expert does some harm. Trade-off: every
random set costs as much as the set itself.
"""

# Dims: R random sets

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trace_engine.causal.groups import Groups, group, group_effects
from trace_engine.causal.load import Load, question_load, random_sets
from trace_engine.causal.paired import PERMUTATIONS, Answers, corrected_together
from trace_engine.causal.replay import Examination
from trace_engine.causal.results import Ablation, RandomSet, band
from trace_engine.config import Cell
from trace_engine.evaluation.multiple_choice import Style
from trace_engine.models import MaskMode, OpenModel
from trace_engine.progress import Meter, ProgressCallback, ignore_progress
from trace_engine.sets import Question

DRAWS = 20


def ablate(
    opened: OpenModel,
    questions: Sequence[Question],
    cells: Sequence[Cell],
    *,
    mode: MaskMode = "drop",
    forget_category: str = "hazard",
    load: Load | None = None,
    draws: int = DRAWS,
    style: Style = "continuation",
    permutations: int = PERMUTATIONS,
    seed: int = 0,
    replay: bool = True,
    report: ProgressCallback = ignore_progress,
) -> Ablation:
    """Take a set of experts out, ask the questions again, and do the same with random sets.

    `load` says what "equal load" means (`profile_load`); without it, it is taken on the questions.
    Raises InputError for experts the model does not have, questions without both groups, and masks
    that leave a layer too few experts; ModelError where a router cannot be re-routed.
    """
    groups = group(questions, forget_category)
    examination = Examination(opened, questions, style=style, replay=replay, report=report)
    return ablate_in(
        examination,
        groups,
        cells,
        mode=mode,
        load=load,
        draws=draws,
        permutations=permutations,
        seed=seed,
        report=report,
    )


def ablate_in(
    examination: Examination,
    groups: Groups,
    cells: Sequence[Cell],
    *,
    mode: MaskMode = "drop",
    load: Load | None = None,
    draws: int = DRAWS,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
    report: ProgressCallback = ignore_progress,
) -> Ablation:
    """`ablate` for a model that is being examined already."""
    chosen = tuple(sorted({Cell(*cell) for cell in cells}))
    load = load or load_of(examination)
    after = examination.without(chosen, mode)
    found = group_effects(
        groups, examination.answers, [after], permutations=permutations, seed=seed
    )
    own = corrected_together([effects[0] for effects in found.values()])
    drawn = random_sets(load, chosen, draws, seed) if draws and chosen else []
    meter = Meter("ablating random experts", max(1, len(drawn)), "sets", report)
    random = []
    for draw in drawn:
        answers = examination.without(draw.cells, mode)
        measured = harm_of(groups, examination.answers, answers)
        random.append(RandomSet(draw.cells, draw.load, draw.equal, measured))
        meter.add(1)
    harm = harm_of(groups, examination.answers, after)
    bands = {
        name: band(value, [drawn.harm[name] for drawn in random])
        for name, value in harm.items()
        if random
    }
    return Ablation(
        model=model_of(examination.opened),
        cells=chosen,
        mode=mode,
        forget_category=groups.forget_category,
        effects=own,
        load=load.of(chosen),
        load_source=load.source,
        random=tuple(random),
        bands=bands,
        prefix=tuple(examination.replays()),
        permutations=permutations,
        seed=seed,
    )


def load_of(examination: Examination) -> Load:
    """Load on the questions, for whoever has no profile."""
    sites = examination.opened.sites
    return question_load(
        [site.layer for site in sites],
        [site.num_experts for site in sites],
        examination.tokens_LE,
    )


def model_of(opened: OpenModel) -> dict[str, Any]:
    """What names a model in a result."""
    info = opened.info
    return {
        "source": info.source,
        "revision": info.revision,
        "fingerprint": info.fingerprint,
        "dtype": info.dtype,
    }


def harm_of(groups: Groups, before: Answers, after: Answers) -> dict[str, float]:
    """The figures of `Harm` alone, without tests."""
    moved = after.loss_N - before.loss_N
    lost = before.correct_N.astype(float) - after.correct_N.astype(float)
    found: dict[str, float] = {}
    for name, values in (("loss", moved), ("accuracy", lost)):
        forget, utility = values[groups.forget].mean(), values[groups.utility].mean()
        found |= {
            f"forget_{name}": float(forget),
            f"utility_{name}": float(utility),
            f"specific_{name}": float(forget - utility),
        }
    return found
