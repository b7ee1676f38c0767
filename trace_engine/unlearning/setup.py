"""Everything a run decides before its first step: sets, profile, selection, weights, what trains.

Kept apart from the loop so that each decision can be read, printed and tested without training.
Accepted cost: a profile is always made, also for an unweighted run, because the run's report
compares routing before and after.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from trace_engine.calibration import (
    FittedWeights,
    Selection,
    check_selection,
    fit_weights,
    select_experts,
    top_experts,
)
from trace_engine.config import Cell, EvaluationConfig, UnlearnConfig
from trace_engine.errors import CalibrationError, InputError
from trace_engine.evaluation.loss import encode_documents
from trace_engine.methods import METHODS
from trace_engine.models import Encoded, OpenModel, Trainable, make_trainable, open_model
from trace_engine.models.quantised import require_trainable
from trace_engine.progress import ProgressCallback, ignore_progress
from trace_engine.routing import Layout, Profile, profile, profile_key
from trace_engine.sets import (
    Document,
    DocumentSet,
    Overlap,
    Question,
    check_pair,
    load_questions,
    load_set,
    require_answers,
    split_documents,
    unknown_answer,
    with_answer,
)
from trace_engine.sets.questions import draw_questions
from trace_engine.unlearning.anchor import Anchored
from trace_engine.unlearning.controls import control_facts, random_experts
from trace_engine.unlearning.judging import check_rules
from trace_engine.unlearning.precision import check_mixed, check_trains
from trace_engine.unlearning.schedule import FORGET, RETAIN
from trace_engine.unlearning.steering import require_steered, steering_layer


class ProfileStore(Protocol):
    """Profiles kept by their keys, so that a run that is refused after profiling costs it once."""

    def get(self, key: str) -> Profile | None: ...
    def put(self, key: str, profile: Profile) -> None: ...


@dataclass(frozen=True, slots=True)
class Side:
    """One set of a run: what is trained on, what is measured on."""

    documents: DocumentSet
    training: tuple[Encoded, ...]
    """Documents with at least one label, as token ids; an order's indices point here."""
    without_labels: int
    """Training documents that tokenize to nothing to predict, or to fewer tokens than the method
    needs; left out."""
    preferred: tuple[Encoded, ...] | None
    """For each training document, its prompt with the answer that is preferred to its own; only for
    methods that prefer one."""
    truncated: int
    """Training documents cut at `max_length`."""
    measured: tuple[Document, ...]
    """Documents of the loss curve and the drift probe."""


@dataclass(frozen=True, slots=True)
class Setup:
    """A run, ready to start."""

    config: UnlearnConfig
    opened: OpenModel
    forget: Side
    retain: Side
    overlap: Overlap
    held_out: bool
    """Whether the loss curves are on documents kept out of training."""
    questions: tuple[Question, ...] | None
    question_numbers: tuple[int, ...]
    """Where each question stands in its file, counted from 0."""
    profile: Profile
    profile_key: str
    selection: Selection
    """The experts of this run: under the control `random_experts`, the drawn ones."""
    control: dict[str, Any]
    """Name, sentence and seed of the control, and the cells that random ones stand for."""
    weights: FittedWeights
    trainable: Trainable
    steering_layer: int | None
    """Decoder layer whose hidden states the method steers; None for methods on predictions."""
    anchored: Anchored
    """The experts that forget text uses most, where they are what trains."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a run works on, read and checked; nothing has been computed yet."""

    config: UnlearnConfig
    opened: OpenModel
    forget: Side
    retain: Side
    overlap: Overlap
    questions: dict[int, Question] | None
    """The questions to ask, by their number in the file."""
    steering_layer: int | None


def read_inputs(config: UnlearnConfig) -> Inputs:
    """Load the sets and the questions, open the model, and refuse what it cannot be asked for.

    Raises a TraceError with the sentence to show.
    """
    sets = load_set(config.forget), load_set(config.retain)
    require_answers(config, sets[0].name, sets[0].documents)
    overlap = check_pair(*sets)
    asked = read_chosen_questions(config.evaluation, config.seed)
    if asked is not None:
        check_rules(config, asked.values())
    require_trainable(config.model)
    opened = open_model(config.model)
    check_trains(opened)
    # Train mode would add dropout and, in some families, random routing: see design/0003.
    opened.model.eval()
    # Profiling may take hours: what the model's shape alone forbids is refused before it.
    sites = opened.sites
    layout = Layout(tuple(s.layer for s in sites), tuple(s.num_experts for s in sites))
    check_selection(layout, config.selection)
    layer = steering_layer(opened, config)
    held_out = asked is None
    forget = make_side(config, opened, sets[0], FORGET, held_out=held_out)
    retain = make_side(config, opened, sets[1], RETAIN, held_out=held_out)
    check_mixed(opened, forget.training[0], config.mixed_precision)
    return Inputs(config, opened, forget, retain, overlap, asked, layer)


def set_up(
    config: UnlearnConfig,
    *,
    profile_before: Profile | None = None,
    profiles: ProfileStore | None = None,
    report: ProgressCallback = ignore_progress,
) -> Setup:
    """Open, load, check, profile, select, weigh. Raises a TraceError with the sentence to show.

    `profile_before` is used as given when it belongs to this model and these sets; else `profiles`
    is asked; else the sets are profiled here, and `profiles` gets the result at once.
    """
    inputs = read_inputs(config)
    opened, forget, retain = inputs.opened, inputs.forget, inputs.retain
    sets = forget.documents, retain.documents
    settings = config.profile_config()
    key = profile_key(settings, opened.info.fingerprint, sets[0].fingerprint, sets[1].fingerprint)
    before = profile_before
    if before is None and profiles is not None:
        before = profiles.get(key)
    if before is None:
        before = profile(opened, sets[0], sets[1], settings, report)
        if profiles is not None:
            profiles.put(key, before)
    check_profile(before, opened, *sets)
    selection = select_experts(before, config.selection)
    if config.weights.rule != "uniform" and not selection.cells:
        raise CalibrationError(
            f"There is nothing to calibrate. {selection.why_empty} Change the selection, or set "
            "the weighting rule to uniform."
        )
    chosen = selection
    if config.control == "random_experts":
        selection = random_experts(before, chosen, config.selection, config.seed)
    weights = fit_weights(before, selection, config.weights, max_length=config.max_length)
    anchored: Anchored = []
    trained: Sequence[Cell] = selection.cells
    if config.trainable.kind == "top_experts":
        anchored = top_experts(before, config.trainable.number)
        trained = [cell for cell, _ in anchored]
    trainable = make_trainable(opened, config.trainable, trained, seed=config.seed)
    alone = [cell for cell, _ in anchored]
    require_steered(opened, inputs.steering_layer, trainable.names, alone)
    asked = inputs.questions
    return Setup(
        config=config,
        opened=opened,
        forget=forget,
        retain=retain,
        overlap=inputs.overlap,
        held_out=asked is None,
        questions=None if asked is None else tuple(asked.values()),
        question_numbers=tuple(asked or ()),
        profile=before,
        profile_key=key,
        selection=selection,
        control=control_facts(config, chosen, selection),
        weights=weights,
        trainable=trainable,
        steering_layer=inputs.steering_layer,
        anchored=anchored,
    )


def make_side(
    config: UnlearnConfig, opened: OpenModel, documents: DocumentSet, side: int, *, held_out: bool
) -> Side:
    """Split, encode and sample one set. Raises InputError when nothing is left to train on."""
    training: Sequence[Document] = documents.documents
    measured: Sequence[Document] = documents.documents
    if held_out:
        inside, out = split_documents(documents, config.evaluation.held_out, config.seed)
        training, measured = inside.documents, out.documents
    encoded = encode_documents(opened, training, config.max_length)
    method = METHODS[config.method]
    least = method.least_labels if side == FORGET else 1
    preferred = None
    if side == FORGET and method.preferred:
        instead = [preferred_to(document, config) for document in training]
        preferred = encode_documents(opened, instead, config.max_length)
    kept = [
        place
        for place, item in enumerate(encoded)
        if item.labels >= least and (preferred is None or preferred[place].labels)
    ]
    usable = tuple(encoded[place] for place in kept)
    if not usable:
        raise InputError(
            f"{documents.name}: none of its {len(encoded)} documents has "
            f"{'a token' if least == 1 else f'{least} tokens'} to predict after tokenizing, so "
            "there is nothing to train on."
        )
    return Side(
        documents=documents,
        training=usable,
        preferred=None if preferred is None else tuple(preferred[place] for place in kept),
        without_labels=len(encoded) - len(usable),
        truncated=sum(item.truncated for item in usable),
        measured=sample_documents(measured, config.evaluation.max_documents, (config.seed, side)),
    )


def preferred_to(document: Document, config: UnlearnConfig) -> Document:
    """The document's prompt with the answer that the method prefers to its own."""
    if METHODS[config.method].preferred == "unknown":
        return with_answer(document, unknown_answer(document, config.seed))
    assert document.preferred is not None  # as `require_answers` has seen to
    return with_answer(document, document.preferred)


def sample_documents(
    documents: Sequence[Document], limit: int, seed: tuple[int, int]
) -> tuple[Document, ...]:
    """At most `limit` documents, drawn with the seed, in the set's order."""
    if len(documents) <= limit:
        return tuple(documents)
    chosen = np.random.default_rng([*seed, 1]).permutation(len(documents))[:limit]
    return tuple(documents[index] for index in sorted(chosen.tolist()))


def read_chosen_questions(config: EvaluationConfig, seed: int) -> dict[int, Question] | None:
    """The questions to ask by their number in the file, at most `max_questions` a category, drawn
    with the seed; None without a file.

    Raises InputError when no question has the forget category.
    """
    if config.questions is None:
        return None
    questions = load_questions(config.questions)
    groups = {question.category for question in questions}
    if config.forget_category not in groups:
        raise InputError(
            f"{config.questions}: no question has the forget category {config.forget_category!r}. "
            f"The file has: {', '.join(sorted(groups))}."
        )
    chosen = draw_questions(questions, config.max_questions, seed)
    return {index: questions[index] for index in chosen}


def check_profile(
    before: Profile, opened: OpenModel, forget: DocumentSet, retain: DocumentSet
) -> None:
    """Refuse a profile of another model or other sets, naming what differs (InputError)."""
    again = "Profile these sets with this model, or leave the profile out."
    sites = tuple(site.layer for site in opened.sites)
    weights = before.meta.get("model", {}).get("fingerprint", opened.info.fingerprint)
    if before.layers != sites or weights != opened.info.fingerprint:
        raise InputError(
            f"The profile was made on another model than {opened.info.source}: weights "
            f"{weights[:12]} against {opened.info.fingerprint[:12]}, MoE layers "
            f"{list(before.layers)} against {list(sites)}. {again}"
        )
    for name, documents, counts in (
        ("forget", forget, before.forget),
        ("retain", retain, before.retain),
    ):
        made_of = before.meta.get("sets", {}).get(name, {}).get("fingerprint")
        # Blocks of documents have no ids to compare; their set's fingerprint covers the ids.
        by_block = counts.unit == "block"
        same_ids = counts.document_ids == tuple(item.id for item in documents.documents)
        same = made_of == documents.fingerprint if by_block else same_ids
        if not same or made_of not in (None, documents.fingerprint):
            raise InputError(
                f"The profile was made on another {name} set: it covers "
                f"{counts.documents if by_block else len(counts.document_ids)} documents, "
                f"{documents.name} has "
                f"{len(documents.documents)}, and they are not the same. {again}"
            )
