"""Erased, or merely re-routed? Four tests on a model before and after.

How far routing moved; whether the old routers bring the answers back; whether they come back when
the experts that now serve the forget questions are forbidden; and whether hidden states still point
to the answer. The models are open one after the other: of the old one, answers, routing, states
after the questions and router tensors are kept.
"""

# Dims: N tokens, L sites, K experts per token, Q questions, R choices of all questions, D hidden

from __future__ import annotations

import gc
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from trace_engine.causal.ablation import DRAWS, ablate_in, model_of
from trace_engine.causal.groups import Groups, group, group_effects
from trace_engine.causal.linear import FOLDS, SHUFFLES, Probed, probe
from trace_engine.causal.old_routers import router_tensors, routers_of
from trace_engine.causal.paired import PERMUTATIONS, Answers, Effect, returned_share
from trace_engine.causal.replay import Examination
from trace_engine.causal.rerouted_results import (
    Forced,
    Kept,
    LayerOverlap,
    Overlap,
    ProbedLayer,
    Probing,
    Rerouted,
    Restored,
)
from trace_engine.causal.results import FORGET, UTILITY
from trace_engine.causal.states import MAX_LENGTH, choice_embeddings, question_states
from trace_engine.config import Cell, ModelConfig
from trace_engine.errors import InputError, ModelError
from trace_engine.evaluation.estimate import Estimate
from trace_engine.evaluation.multiple_choice import Style, prompt_of
from trace_engine.evaluation.probe import probe_documents, routing_probe
from trace_engine.models import OpenModel, open_model
from trace_engine.progress import Meter, Progress, ProgressCallback, ignore_progress
from trace_engine.routing.drift import drift, overlap_totals
from trace_engine.sets import Document, Question

PER_LAYER = 2
"""Experts that are forbidden in each layer, at most."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """What is kept of a model once it is closed."""

    opened: OpenModel | None
    model: dict[str, Any]
    shape: tuple[Any, ...]
    answers: Answers
    routing: dict[str, tuple[NDArray[np.int16], NDArray[np.int64]]]
    """Per group the chosen experts (N, L, K), and the question of each token."""
    states: dict[int, NDArray[np.float64]]
    """Per decoder layer the state after each question, (Q, D)."""
    choices: NDArray[np.float64] | None
    """Output embedding of each choice's first token, (R, D)."""
    routers: dict[str, Tensor]


def erased_or_rerouted(
    before: ModelConfig,
    after: ModelConfig,
    questions: Sequence[Question],
    *,
    reference: ModelConfig | None = None,
    forget_category: str = "hazard",
    per_layer: int = PER_LAYER,
    draws: int = DRAWS,
    style: Style = "continuation",
    permutations: int = PERMUTATIONS,
    shuffles: int = SHUFFLES,
    seed: int = 0,
    report: ProgressCallback = ignore_progress,
) -> Rerouted:
    """Compare two models of one architecture on the same questions.

    `reference`, a model that never saw the forget set, is only asked and probed. Raises InputError
    for questions without both groups and for models of different shapes; ModelError as
    `open_model` does.
    """
    groups = group(questions, forget_category)
    old = _look(before, "the old model", groups, questions, style, report)
    new = _look(after, "the new model", groups, questions, style, report, keep=True)
    if old.shape != new.shape:
        raise InputError(
            f"{old.model['source']} and {new.model['source']} are not of one architecture "
            f"({_shown(old.shape)} against {_shown(new.shape)}), so their routing cannot be "
            "compared."
        )
    opened = new.opened
    assert opened is not None
    asked = list(questions)
    marks = {"before": _marks(old.answers), "after": _marks(new.answers)}
    restored = _restore(opened, asked, groups, old, new, style, permutations, seed, report, marks)
    examination = Examination(opened, asked, style=style, report=report)
    forced = _force(examination, groups, old, new, per_layer, draws, permutations, seed, report)
    if forced.cells:
        marks["forced"] = _marks(examination.without(forced.cells, "reroute"))
    del opened, examination
    new = _closed(new)
    gc.collect()
    unseen = None
    if reference is not None:
        unseen = _look(reference, "the reference", groups, questions, style, report)
        marks["reference"] = _marks(unseen.answers)
    probing, probed = _probe(asked, groups, old, new, unseen, shuffles, seed, report)
    return Rerouted(
        before=old.model,
        after=new.model,
        reference=None if unseen is None else unseen.model,
        forget_category=forget_category,
        questions=len(asked),
        overlap=_overlap(old, new),
        restored=restored,
        forced=forced,
        probing=probing,
        permutations=permutations,
        seed=seed,
        marks=marks,
        kept={which: _kept(old, new, which) for which in (FORGET, UTILITY)},
        probed=probed,
    )


def _marks(answers: Answers) -> str:
    return _written(answers.correct_N.tolist())


def _written(right: Iterable[bool]) -> str:
    return "".join("1" if one else "0" for one in right)


# ---- looking at one model ------------------------------------------------------------------------


def _look(
    config: ModelConfig,
    name: str,
    groups: Groups,
    questions: Sequence[Question],
    style: Style,
    report: ProgressCallback,
    *,
    keep: bool = False,
) -> _Seen:
    report(Progress(f"opening {name}", 0, 1, "models", None, None))
    opened = open_model(config)
    examination = Examination(opened, questions, style=style, report=report)
    info = opened.info
    routing = {
        which: _routing(opened, [questions[int(place)] for place in places])
        for which, places in ((FORGET, groups.forget), (UTILITY, groups.utility))
    }
    kept = _Seen(
        opened if keep else None,
        model_of(opened),
        (info.model_type, info.layers, info.num_experts, info.experts_per_token, info.vocab_size),
        examination.answers,
        routing,
        question_states(opened, questions, report),
        choice_embeddings(opened, questions),
        {} if keep else router_tensors(opened),
    )
    del examination, opened
    gc.collect()
    return kept


def _closed(kept: _Seen) -> _Seen:
    return replace(kept, opened=None)


def _shown(shape: tuple[Any, ...]) -> str:
    kind, layers, experts, per_token, vocabulary = shape
    return (
        f"{kind}, {len(layers)} MoE layers, {sorted(set(experts))} experts, "
        f"{sorted(set(per_token))} a token, {vocabulary} words"
    )


def _routing(
    opened: OpenModel, questions: Sequence[Question]
) -> tuple[NDArray[np.int16], NDArray[np.int64]]:
    documents = []
    for number, question in enumerate(questions):
        context, choices = prompt_of(question, "continuation")
        documents.append(Document(str(number), context + choices[question.answer]))
    return (
        routing_probe(opened, documents, MAX_LENGTH),
        probe_documents(opened, documents, MAX_LENGTH),
    )


# ---- the old routers -----------------------------------------------------------------------------


def _restore(
    opened: OpenModel,
    questions: list[Question],
    groups: Groups,
    old: _Seen,
    new: _Seen,
    style: Style,
    permutations: int,
    seed: int,
    report: ProgressCallback,
    marks: dict[str, str],
) -> Restored:
    with routers_of(opened, old.routers) as different:
        answers = Examination(opened, questions, style=style, report=report).answers
    if different:
        marks["restored"] = _marks(answers)
    return Restored(
        unlearned=_two(groups, old.answers, new.answers, permutations, seed),
        restored=_two(groups, new.answers, answers, permutations, seed),
        returned=returned_share(
            *(found.correct_N[groups.forget] for found in (old.answers, new.answers, answers))
        ),
        tensors=len(old.routers),
        different=different,
    )


def _two(
    groups: Groups, before: Answers, after: Answers, permutations: int, seed: int
) -> tuple[Effect, ...]:
    found = group_effects(
        groups, before, [after], permutations=permutations, seed=seed, names=(FORGET, UTILITY)
    )
    return (found[FORGET][0], found[UTILITY][0])


# ---- forbidding what serves now ------------------------------------------------------------------


def _force(
    examination: Examination,
    groups: Groups,
    old: _Seen,
    new: _Seen,
    per_layer: int,
    draws: int,
    permutations: int,
    seed: int,
    report: ProgressCallback,
) -> Forced:
    rising = risen(examination.opened, old.routing[FORGET][0], new.routing[FORGET][0], per_layer)
    if not rising:
        return Forced((), (), (), None, None, 0, "no expert gets more forget tokens than before.")
    cells = [cell for cell, _ in rising]
    try:
        found = ablate_in(
            examination,
            groups,
            cells,
            mode="reroute",
            draws=draws,
            permutations=permutations,
            seed=seed,
            report=report,
        )
    except (InputError, ModelError) as error:
        return Forced((), (), (), None, None, 0, str(error))
    changes = [-drawn.harm["forget_accuracy"] for drawn in found.random]
    low, high = np.quantile(changes, [0.025, 0.975]) if changes else (None, None)
    return Forced(
        cells=tuple(cells),
        rise=tuple(rise for _, rise in rising),
        effects=(found.effect(FORGET), found.effect(UTILITY)),
        random_low=None if low is None else float(low),
        random_high=None if high is None else float(high),
        random_n=len(changes),
        loads=found.loads,
    )


def risen(
    opened: OpenModel,
    before_NLK: NDArray[np.int16],
    after_NLK: NDArray[np.int16],
    per_layer: int,
) -> list[tuple[Cell, float]]:
    """The experts whose share of the forget questions' tokens rose most, so many per layer at most,
    each by how much. None that did not rise."""
    found = []
    for site in opened.sites:
        shares = [
            np.bincount(chosen[chosen >= 0], minlength=site.num_experts) / max(1, len(index_NLK))
            for index_NLK in (before_NLK, after_NLK)
            for chosen in (index_NLK[:, site.index].ravel(),)
        ]
        rise_E = shares[1] - shares[0]
        for expert in np.argsort(-rise_E, kind="stable")[:per_layer]:
            if rise_E[expert] > 0:
                found.append((Cell(site.layer, int(expert)), float(rise_E[expert])))
    return found


# ---- routing and hidden states -------------------------------------------------------------------


def _overlap(old: _Seen, new: _Seen) -> Overlap:
    moved = {
        which: drift(old.routing[which][0], new.routing[which][0], old.routing[which][1])
        for which in (FORGET, UTILITY)
    }
    layers: tuple[int, ...] = old.shape[1]
    return Overlap(
        tuple(
            LayerOverlap(
                layer,
                **{
                    which: Estimate(
                        float(found.overlap[row]),
                        float(found.low[row]),
                        float(found.high[row]),
                        found.n,
                        "normal, over questions",
                    )
                    for which, found in moved.items()
                },
            )
            for row, layer in enumerate(layers)
        )
    )


def _kept(old: _Seen, new: _Seen, which: str) -> Kept:
    total_QL, tokens_Q = overlap_totals(
        old.routing[which][0], new.routing[which][0], old.routing[which][1]
    )
    return Kept(
        tuple(int(tokens) for tokens in tokens_Q),
        tuple(tuple(total_Q.tolist()) for total_Q in total_QL.T),
    )


def _probe(
    questions: list[Question],
    groups: Groups,
    old: _Seen,
    new: _Seen,
    unseen: _Seen | None,
    shuffles: int,
    seed: int,
    report: ProgressCallback,
) -> tuple[Probing, dict[str, dict[int, str]]]:
    """With it, per model and layer, right and wrong of the forget questions."""
    sizes_Q = np.array([len(question.choices) for question in questions])
    answer_Q = np.array([question.answer for question in questions])
    tested_Q = np.zeros(len(questions), dtype=bool)
    tested_Q[groups.forget] = True
    chance = float((1 / sizes_Q[tested_Q]).mean())
    kept = [old, new] + ([] if unseen is None else [unseen])
    if len(groups.forget) < FOLDS:
        why = f"{len(groups.forget)} forget questions are too few for {FOLDS} folds."
        return Probing((), chance, 1.0, 1.0, None, 0, why), {}
    if any(model.choices is None for model in kept):
        why = "a model has no output embeddings."
        return Probing((), chance, 1.0, 1.0, None, 0, why), {}
    layers = sorted(set.intersection(*(set(model.states) for model in kept)))
    meter = Meter("probing hidden states", len(layers) * len(kept), "probes", report)
    probed: list[dict[int, Probed]] = []
    for model in kept:
        assert model.choices is not None
        probed.append({})
        for layer in layers:
            # The same seed, so that all layers see the same shuffles and the largest can be taken.
            probed[-1][layer] = probe(
                model.states[layer],
                model.choices,
                sizes_Q,
                answer_Q,
                tested_Q,
                shuffles=shuffles,
                seed=seed,
            )
            meter.add(1)
    p = [_p_of_best(list(of_model.values())) for of_model in probed]
    found = Probing(
        tuple(
            ProbedLayer(
                layer,
                probed[0][layer].accuracy,
                probed[1][layer].accuracy,
                probed[2][layer].accuracy if unseen is not None else None,
                float(np.mean(probed[1][layer].shuffled)) if shuffles else chance,
                float(np.quantile(probed[1][layer].shuffled, 0.95)) if shuffles else chance,
            )
            for layer in layers
        ),
        chance,
        p[0],
        p[1],
        p[2] if unseen is not None else None,
        shuffles,
    )
    names = ("before", "after", "reference")[: len(probed)]
    return found, {
        name: {layer: _written(seen.picked) for layer, seen in of_model.items()}
        for name, of_model in zip(names, probed, strict=True)
    }


def _p_of_best(probed: Sequence[Probed]) -> float:
    best = max(found.accuracy.value for found in probed)
    shuffled = np.array([found.shuffled for found in probed])
    if not shuffled.size:
        return 1.0
    return float((1 + (shuffled.max(axis=0) >= best - 1e-12).sum()) / (1 + shuffled.shape[1]))
