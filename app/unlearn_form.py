"""The form of the Unlearn page: widgets in the URL, one validated `UnlearnConfig` out of them.

Model and sets are those of the open profile, experts and weights those of Selection & weights, so a
page never holds a second copy of them. Accepted trade-off: a profile without recorded settings
(made by hand) cannot be unlearned from here, and the page says so.
"""

import os
from collections.abc import Callable
from typing import Any, NamedTuple

import streamlit as st
from pydantic import ValidationError

from app import forms, house, schedule_form, state
from trace_engine.bundled import PACK, is_bundled
from trace_engine.config import (
    EvaluationConfig,
    ProfileConfig,
    SetConfig,
    TrainableConfig,
    UnlearnConfig,
)
from trace_engine.demo.settings import (
    QUESTIONS_PER_GROUP,
    TUNED,
    UNTUNED_NOTE,
    defaults_for,
)
from trace_engine.errors import TraceError
from trace_engine.methods import METHODS, RETAIN_TERMS, MethodName, needs_start_model
from trace_engine.runs import home
from trace_engine.sets import (
    Overlap,
    bytes_to_read,
    check_answers,
    check_pair,
    load_questions,
    load_set,
)
from trace_engine.sets.load import HUB_PREFIX
from trace_engine.trackers import TRACKERS

METHOD_TITLES: dict[str, str] = {name: method.title for name, method in METHODS.items()}
SYMBOLS = {"beta": "β", "beta1": "β₁", "beta2": "β₂", "delta": "δ", "steering": "c steering"}
RETAINED = {str(name): title for name, title in RETAIN_TERMS.items()}
SHARED_KEYS = ("npo", "graddiff")
"""Methods whose fields share their names in the address, as links from before the others have."""
TRAINS = {
    "all": "every parameter",
    "selected_experts": "only the selected experts",
    "layers": "the layers of the selected experts",
    "lora": "LoRA adapters",
    "top_experts": "the expert that forget text uses most, with its router (SEUF)",
}
CONTROLS = {
    "none": "none: the run itself",
    "uniform_matched_norm": "uniform weights at the matched retain-gradient norm",
    "random_experts": "as many random experts",
    "shuffled_weights": "the weights shuffled over the batch",
}
ROUTERS = {"train": "train with the rest", "freeze": "stay frozen"}
NO_QUESTIONS = "none: loss on held-out documents"
OTHER_FILE = "a file of my own"
TEST_QUESTIONS = "demo:questions/test"
QUESTION_NAMES = {
    "demo:questions/validation": "bundled, validation: to choose settings by",
    TEST_QUESTIONS: "bundled, test: for the last word",
}
TEST_WARNING = (
    "Settings that are chosen by looking at test questions make their score too good. Choose on "
    "validation questions, and ask these once."
)
START_COPY = (
    "Holds a second, frozen copy of the start model: twice the memory of the weights, and one more "
    "forward a step."
)
STEERED = (
    "While hidden states are held, nothing after the layer changes, whatever may train; RMU's "
    "authors train a few layers up to it."
)
_DEFAULTS = "_u_defaults"
MOST_COMPARED = 16 * 2**20
"""Bytes of both sets together up to which the page compares them itself: a second or two."""
_MOST = 2**53 - 1
"""The largest whole number that a browser keeps exactly."""
NO_PATH = (
    "A question file of your own is chosen and no path is given. Give its path, or choose other "
    "questions."
)


def base_settings(view: state.ProfileView) -> tuple[ProfileConfig | None, str | None]:
    """Model, sets and profile settings behind the open profile, or None and why not."""
    recorded = view.profile.meta.get("settings")
    if not isinstance(recorded, dict):
        return None, "This profile does not record its settings, so a run cannot be built on it."
    try:
        return ProfileConfig.model_validate(recorded), None
    except ValidationError:
        return None, "This profile's settings are of another version. Profile the sets again."


def question_sources(base: ProfileConfig) -> list[str]:
    """Question files on offer: the bundled ones for the bundled sets, then none, then one's own."""
    bundled = base.forget.source.startswith("demo:")
    offered = [
        name
        for name in QUESTION_NAMES
        if bundled and (PACK / f"{name.removeprefix('demo:')}.jsonl").is_file()
    ]
    return [*offered, NO_QUESTIONS, OTHER_FILE]


def build(base: ProfileConfig, values: dict[str, Any]) -> tuple[UnlearnConfig | None, str | None]:
    """The run's settings from the profile's question, the shared settings and the form's values."""
    return forms.build(
        UnlearnConfig,
        {
            "model": base.model,
            "forget": base.forget,
            "retain": base.retain,
            "count_bos": base.count_bos,
            "profile_max_length": base.max_length,
            "sample_tokens": base.sample_tokens,
            "selection": state.selection_config(),
            "weights": state.weights_config(),
            **values,
        },
    )


@st.cache_data(max_entries=16, show_spinner="Comparing the two sets …")
def _overlap(
    forget: str, retain: str, stamps: tuple[int, ...]
) -> tuple[Overlap | None, str | None]:
    base = ProfileConfig.model_validate_json(forget), ProfileConfig.model_validate_json(retain)
    try:
        return check_pair(load_set(base[0].forget), load_set(base[1].retain)), None
    except TraceError as error:
        return None, str(error)


def _number(
    label: str,
    field: str,
    read: Callable[[str], Any],
    settings: type[Any] = UnlearnConfig,
    default: Any = None,
    prefix: str = "u",
    **kwargs: Any,
) -> Any:
    key = f"{prefix}_{field}"
    if default is None:
        fields = settings.model_fields
        default = _defaults().get(field, fields[field].default)
    within = _within(read, kwargs.get("min_value", -_MOST), kwargs.get("max_value", _MOST))
    state.bound(key, default, read=within)
    return st.number_input(label, key=key, help=forms.help_of(settings, field), **kwargs)


def _within(read: Callable[[str], Any], low: float, high: float) -> Callable[[str], Any]:
    """`read` that refuses what the field itself would, as ValueError."""

    def inner(text: str) -> Any:
        value = read(text)
        if not low <= value <= high:
            raise ValueError(f"{value} is not from {low} to {high}.")
        return value

    return inner


@st.cache_data(max_entries=16, show_spinner="Reading the questions …")
def _question_file(path: str, stamp: tuple[int, int]) -> tuple[tuple[str, ...], str | None]:
    try:
        questions = load_questions(path)
    except TraceError as error:
        return (), str(error)
    return tuple(sorted({question.category for question in questions})), None


def question_trouble(path: str, category: str) -> str | None:
    """Why a question file of one's own cannot be asked, or None; the worker would say the same."""
    if not path:
        return NO_PATH
    # os.path says no to what Path raises for; a device or a pipe would never end.
    if path.startswith(HUB_PREFIX) or os.path.isdir(path):
        return None  # may be large, or must be fetched: read by the run, which refuses it likewise
    if not os.path.isfile(path):
        return f"{path[:200]}: there is no such question file on this machine."
    status = os.stat(path)
    categories, refusal = _question_file(path, (status.st_mtime_ns, status.st_size))
    if refusal is not None:
        return refusal
    if category not in categories:
        shown = ", ".join(categories[:12]) + (" …" if len(categories) > 12 else "")
        return (
            f"{os.path.basename(path)}: no question has the category {category!r}, which should be "
            f"forgotten. The file has: {shown}."
        )
    return None


def _take_defaults(model: str, method: MethodName) -> None:
    """Start from the settings that suit model and method.

    Another model's are not carried over; another method's are where a person has changed them.
    """
    defaults = defaults_for(model, method)
    known, before = st.session_state.get(_DEFAULTS, (model, defaults))
    for field in defaults:
        key = f"u_{field}"
        untouched = st.session_state.get(key, before[field]) == before[field]
        if known != model or (before != defaults and untouched):
            state.unbind(key)
    st.session_state[_DEFAULTS] = (model, defaults)


def _defaults() -> dict[str, Any]:
    found: tuple[str, dict[str, Any]] = st.session_state.get(_DEFAULTS, ("", {}))
    return found[1]


def draw(base: ProfileConfig, *, labelled: bool = True) -> tuple[dict[str, Any], str | None]:
    """All widgets; returns values for `build`, and why the questions cannot be asked.

    A sweep names its runs itself: not `labelled`.
    """
    left, right = st.columns(2, gap="large")
    with left:
        values = _method(base.model.source)
    with right:
        trainable = _trainable()
        anchor = _anchor() if trainable.kind == "top_experts" else {}
        control = _control()
        evaluation, trouble = _evaluation(base)
    more = schedule_form.draw(evaluation.questions is not None)
    name = _label() if labelled else ""
    trackers = _trackers()
    values = {
        "name": name,
        "trackers": trackers,
        **values,
        **more,
        "trainable": trainable,
        **anchor,
        "control": control,
        "evaluation": evaluation,
    }
    return values, trouble


def _label() -> str:
    return st.text_input(
        "Label of the run (optional)",
        key="u_name",
        max_chars=100,
        help=forms.help_of(UnlearnConfig, "name"),
        persist_state="session",
    )


def _trackers() -> list[str]:
    names = {str(name): title for name, title in TRACKERS.items()}
    state.bound_many("u_trackers", [], names)
    return st.multiselect(
        "Mirror the curve to (optional)",
        list(names),
        key="u_trackers",
        format_func=lambda name: names[name],
        placeholder="nowhere: nothing leaves this machine",
        help=forms.help_of(UnlearnConfig, "trackers"),
    )


def _method(model: str) -> dict[str, Any]:
    state.bound("u_method", "npo", list(METHODS))
    chosen = forms.option(
        "Method",
        METHOD_TITLES,
        key="u_method",
        help=forms.help_of(UnlearnConfig, "method"),
    )
    name = next(name for name in METHODS if name == chosen)
    method = METHODS[name]
    _take_defaults(model, name)
    st.caption(f"{method.line} Source: {method.source}.")
    values: dict[str, Any] = {"method": name}
    prefix = "u" if name in SHARED_KEYS else f"u_{name}"
    more = len(method.parameters) > 1 or method.steers
    columns = [*st.columns(3), *(st.columns(3) if more else ())]
    with columns[0]:
        values["gamma"] = _number(
            "γ forget",
            "gamma",
            float,
            default=method.gamma,
            prefix=prefix,
            min_value=0.0,
            step=0.1,
            format="%.3f",
        )
    if method.retains:
        with columns[1]:
            values["alpha"] = _number("α retain", "alpha", float, min_value=0.0, step=0.1)
    for number, (field, default) in enumerate(method.parameters.items()):
        with columns[2 + number]:
            values[field] = _parameter(field, _defaults().get(field) or default, prefix)
    if method.steers:
        with columns[3]:
            values["steering_layer"] = _steering_layer()
    if method.retains:
        # Each default has a widget of its own, so that choosing a method brings what it keeps by.
        key = "u_retain_term" if method.retain_term == "nll" else f"u_{name}_retain_term"
        state.bound(key, str(method.retain_term), list(RETAINED))
        term = forms.option(
            "Retain term",
            RETAINED,
            key=key,
            help=forms.help_of(UnlearnConfig, "retain_term"),
        )
        values["retain_term"] = term
        if needs_start_model(name, next(known for known in RETAIN_TERMS if known == term)):
            st.caption(START_COPY)
        if method.steers and term == "hidden":
            st.caption(STEERED)
    if is_bundled(model) and name not in TUNED:
        st.caption(UNTUNED_NOTE)
    first, second, third = st.columns(3)
    with first:
        values["max_steps"] = _number("Steps", "max_steps", int, min_value=1, step=10)
    with second:
        values["learning_rate"] = _number(
            "Learning rate",
            "learning_rate",
            float,
            min_value=1e-7,
            max_value=0.9,
            step=1e-4,
            format="%.1e",
        )
    with third:
        values["batch_size"] = _number("Batch size", "batch_size", int, min_value=1, step=4)
    values["seed"] = _number("Seed", "seed", int, min_value=0, step=1)
    return values


def _steering_layer() -> int | None:
    """The decoder layer whose hidden states are driven; empty is by depth."""
    key = "u_steering_layer"
    state.bound(key, None, read=_within(int, 0, _MOST))
    found = st.number_input(
        "Layer",
        min_value=0,
        value=None,
        step=1,
        key=key,
        placeholder="by depth",
        help=forms.help_of(UnlearnConfig, "steering_layer"),
    )
    return None if found is None else int(found)


def _parameter(field: str, default: float, prefix: str) -> float:
    """A field that only some methods have; β and c must be above 0, δ may be of either sign."""
    above: dict[str, Any] = {"min_value": 0.001}
    bounds: dict[str, Any] = {"beta": above, "steering": above, "delta": {}}
    within = bounds.get(field, {"min_value": 0.0})
    label = SYMBOLS[field]
    step = 1.0 if field == "steering" else 0.05
    found = _number(
        label, field, float, default=default, prefix=prefix, step=step, format="%.3f", **within
    )
    return float(found)


def _trainable() -> TrainableConfig:
    state.bound("u_trains", "all", list(TRAINS))
    kind = forms.option(
        "What may train",
        TRAINS,
        key="u_trains",
        help=forms.help_of(TrainableConfig, "kind"),
    )
    if kind in ("all", "layers"):
        state.bound("u_routers", "train", list(ROUTERS))
        routers = forms.option(
            "Routers",
            ROUTERS,
            key="u_routers",
            help=forms.help_of(TrainableConfig, "freeze_routers"),
        )
        return TrainableConfig.model_validate({"kind": kind, "freeze_routers": routers == "freeze"})
    if kind == "top_experts":
        number = _number("Experts", "number", int, TrainableConfig, min_value=1)
        return TrainableConfig(kind="top_experts", number=number)
    if kind != "lora":
        return TrainableConfig.model_validate({"kind": kind})
    rank = _number("LoRA rank", "lora_rank", int, TrainableConfig, min_value=1, max_value=256)
    return TrainableConfig(kind="lora", lora_rank=rank)


def _anchor() -> dict[str, float]:
    """The router anchor that belongs to the experts that forget text uses most."""
    found = _number("Router anchor", "anchor", float, default=1.0, min_value=0.0, step=0.1)
    return {"anchor": float(found)}


def _control() -> str:
    state.bound("u_control", "none", list(CONTROLS))
    return forms.option(
        "Control",
        CONTROLS,
        key="u_control",
        help=forms.help_of(UnlearnConfig, "control"),
    )


def _evaluation(base: ProfileConfig) -> tuple[EvaluationConfig, str | None]:
    offered = question_sources(base)
    asked = st.session_state.get("u_questions", st.session_state.get("_u_questions"))
    # Set anew in every run: what was off the screen for a while is else drawn empty.
    st.session_state["u_questions"] = asked if asked in offered else offered[0]
    chosen = st.selectbox(
        "Questions",
        offered,
        key="u_questions",
        help=forms.help_of(EvaluationConfig, "questions"),
        format_func=lambda name: QUESTION_NAMES.get(name, name),
    )
    if chosen == TEST_QUESTIONS:
        st.caption(TEST_WARNING)
    st.session_state["_u_questions"] = chosen
    questions: str | None = chosen
    trouble = None
    category = EvaluationConfig().forget_category
    if chosen == NO_QUESTIONS:
        questions = None
    elif chosen == OTHER_FILE:
        questions = st.text_input(
            "Question file (.jsonl), or a published set's folder",
            key="u_question_file",
            max_chars=1000,
            disabled=house.rules().read_only,
            placeholder="question, choices, answer, category in every row",
            persist_state="session",
        ).strip()
        category = st.text_input(
            "Category that should be forgotten",
            category,
            key="u_category",
            max_chars=200,
            help=forms.help_of(EvaluationConfig, "forget_category"),
            persist_state="session",
        )
        trouble = question_trouble(questions, category)
    every, limit = st.columns(2)
    with every:
        steps = _number("Evaluate every", "every", int, EvaluationConfig, min_value=1, step=5)
    most = None
    if questions is not None:
        with limit:
            bundled = chosen.startswith("demo:")
            most_asked = QUESTIONS_PER_GROUP if bundled else 0
            state.bound("u_most", most_asked, read=_within(int, 0, _MOST))
            most = st.number_input(
                "Questions per group",
                0,
                step=50,
                key="u_most",
                help="0 asks all. Fewer is faster, and the intervals get wider.",
            )
    settings = EvaluationConfig(
        every=steps, questions=questions, forget_category=category, max_questions=most or None
    )
    return settings, trouble


class Pair(NamedTuple):
    """What the page knows of the two sets together: at most one of the three is there."""

    common: Overlap | None = None
    """Documents that both hold."""
    refusal: str | None = None
    """Why the pair cannot be used."""
    later: str | None = None
    """Why the page does not compare them, and where the answer will be."""


def overlap(base: ProfileConfig) -> Pair:
    """Compare the two sets, unless that takes the network or long: a page does neither."""
    sides = {"forget": base.forget, "retain": base.retain}
    try:
        sizes = {side: bytes_to_read(settings) for side, settings in sides.items()}
    except TraceError as error:
        return Pair(refusal=str(error))
    remote = [side for side, size in sizes.items() if size is None]
    if remote:
        why = f"The {' and the '.join(remote)} set come{'s' * (len(remote) == 1)} from the hub"
    elif sum(size or 0 for size in sizes.values()) > MOST_COMPARED:
        why = "The two sets are large"
    else:
        text = base.model_dump_json()
        return Pair(*_overlap(text, text, stamps(base)))
    return Pair(
        later=f"{why}, so this page does not compare the two. The run does before its first step: "
        "it refuses equal sets, and its page says how many documents both hold."
    )


def answer_troubles(config: UnlearnConfig) -> list[str]:
    """Why the method cannot work on the forget set's documents, where the page may look at them."""
    if not METHODS[config.method].pairs:
        return []
    size = bytes_to_read(config.forget)
    if size is None or size > MOST_COMPARED:
        return []
    refusal = _answers(config.method, config.forget.model_dump_json(), stamps(config))
    return [] if refusal is None else [refusal]


@st.cache_data(max_entries=16, show_spinner="Reading the forget set …")
def _answers(method: str, forget: str, stamps: tuple[int, ...]) -> str | None:
    source = SetConfig.model_validate_json(forget)
    try:
        # The retain set and the weights play no part in this.
        check_answers(
            UnlearnConfig.model_validate({"method": method, "forget": source, "retain": source})
        )
    except TraceError as error:
        return str(error)
    return None


def stamps(base: ProfileConfig | UnlearnConfig) -> tuple[int, ...]:
    """Modification times of the sets' files, so that an edited file is read again."""
    from pathlib import Path

    from trace_engine.bundled import resolve_source

    found = []
    for source in (base.forget.source, base.retain.source):
        path = Path(resolve_source(source))
        found.append(path.stat().st_mtime_ns if path.exists() else 0)
    return tuple(found)


def file_name(config: UnlearnConfig) -> str:
    """What the shown settings file is called in commands and downloads."""
    control = "" if config.control == "none" else f"-{config.control.replace('_', '-')}"
    return f"{config.method}-{config.weights.rule}{control}.yaml"


def runs_home() -> str:
    """Where runs are kept, for the page's footnote."""
    return str(home())
