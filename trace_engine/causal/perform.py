"""From settings to a result: reads the questions, opens the models, and computes.

What command and worker share. Loads torch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from trace_engine.causal.ablation import ablate_in
from trace_engine.causal.groups import group
from trace_engine.causal.load import Load, profile_load
from trace_engine.causal.orders import ablation_order
from trace_engine.causal.replay import Examination
from trace_engine.causal.rerouted import erased_or_rerouted
from trace_engine.causal.rerouted_results import Rerouted
from trace_engine.causal.results import Ablation, Scan
from trace_engine.causal.scanning import scan
from trace_engine.causal.settings import CausalConfig
from trace_engine.errors import InputError
from trace_engine.models import open_model
from trace_engine.models.site import Site
from trace_engine.progress import Progress, ProgressCallback, ignore_progress
from trace_engine.routing import Profile
from trace_engine.sets import Question, load_questions
from trace_engine.sets.questions import draw_questions

Result = Scan | Ablation | Rerouted


def perform(
    config: CausalConfig,
    folder: Path | None = None,
    report: ProgressCallback = ignore_progress,
) -> Result:
    """Answer what the settings ask. `folder` is where a scan keeps each expert's answers.

    Raises InputError and ModelError as the functions behind it do, before anything is computed
    wherever that can be known.
    """
    questions = read_questions(config)
    group(questions, config.forget_category)
    if config.what == "rerouted":
        assert config.before is not None
        return erased_or_rerouted(
            config.before,
            config.model,
            questions,
            reference=config.reference,
            forget_category=config.forget_category,
            per_layer=config.per_layer,
            draws=config.draws,
            style=config.style,
            permutations=config.permutations,
            shuffles=config.shuffles,
            seed=config.seed,
            report=report,
        )
    load = None if config.profile is None else profile_load(Profile.load(config.profile))
    report(Progress("opening the model", 0, 1, "models", None, None))
    opened = open_model(config.model)
    if load is not None:
        _require_same(load, opened.sites, str(config.profile))
    if config.what == "scan":
        return scan(
            opened,
            questions,
            mode=config.mode,
            forget_category=config.forget_category,
            load=load,
            folder=folder,
            cells=config.cells or None,
            style=config.style,
            permutations=config.permutations,
            seed=config.seed,
            report=report,
        )
    groups = group(questions, config.forget_category)
    examination = Examination(opened, questions, style=config.style, report=report)
    found = ablate_in(
        examination,
        groups,
        config.cells,
        mode=config.mode,
        load=load,
        draws=config.draws,
        permutations=config.permutations,
        seed=config.seed,
        report=report,
    )
    if config.order == "none":
        return found
    order = ablation_order(
        examination,
        groups,
        config.cells,
        config.order,
        mode=config.mode,
        permutations=config.permutations,
        seed=config.seed,
        report=report,
    )
    return dataclasses.replace(found, order=order)


def read_questions(config: CausalConfig) -> list[Question]:
    """The questions that are asked, in the file's order."""
    questions = load_questions(config.questions, config.split)
    chosen = draw_questions(questions, config.max_questions, config.seed)
    return [questions[number] for number in chosen]


def _require_same(load: Load, sites: Sequence[Site], profile: str) -> None:
    layers = tuple(site.layer for site in sites)
    experts = tuple(site.num_experts for site in sites)
    if (load.layers, load.num_experts_L) != (layers, experts):
        raise InputError(
            f"{profile}: this profile is of a model with other layers or experts, so it does not "
            "say what passes through the experts of this one."
        )
