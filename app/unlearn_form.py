"""The form of the Unlearn page: widgets in the URL, one validated `UnlearnConfig` out of them.

Model and sets are those of the open profile, experts and weights those of Selection & weights, so a
page never holds a second copy of them. Accepted trade-off: a profile without recorded settings
(made by hand) cannot be unlearned from here, and the page says so.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import streamlit as st
from pydantic import ValidationError

from app import fields, forms, question_form, schedule_form, selection_controls, state
from trace_engine.bundled import is_bundled
from trace_engine.config import (
    ProfileConfig,
    SetConfig,
    TrainableConfig,
    UnlearnConfig,
)
from trace_engine.demo.settings import (
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
    load_set,
)
from trace_engine.trackers import TRACKERS

METHOD_TITLES: dict[str, str] = {name: method.title for name, method in METHODS.items()}
SYMBOLS = {"beta": "β", "beta1": "β₁", "beta2": "β₂", "delta": "δ", "steering": "c steering"}
RETAINED = {str(name): title for name, title in RETAIN_TERMS.items()}
SHARED_KEYS = ("npo", "graddiff")
"""Methods whose fields share their names in the address, as links from before the others have."""
TRAINS = {
    "all": "every parameter",
    "selected_experts": "only the selected experts",
    "layers": "whole layers",
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


def base_settings(view: state.ProfileView) -> tuple[ProfileConfig | None, str | None]:
    """Model, sets and profile settings behind the open profile, or None and why not."""
    recorded = view.profile.meta.get("settings")
    if not isinstance(recorded, dict):
        return None, "This profile does not record its settings, so a run cannot be built on it."
    try:
        return ProfileConfig.model_validate(recorded), None
    except ValidationError:
        return None, "This profile's settings are of another version. Profile the sets again."


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
    label: str, field: str, read: Callable[[str], Any], default: Any = None, **kwargs: Any
) -> Any:
    """A number of the run's, at what suits model and method before anything else."""
    if default is None:
        default = _defaults().get(field)
    return fields.number(label, field, read, UnlearnConfig, default=default, **kwargs)


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


def draw(
    base: ProfileConfig, *, layers: Sequence[int] = (), labelled: bool = True
) -> tuple[dict[str, Any], str | None]:
    """All widgets; returns values for `build`, and why the questions cannot be asked.

    `layers` are the model's that have experts. A sweep names its runs itself: not `labelled`.
    """
    left, right = st.columns(2, gap="large")
    with left:
        values = _method(base.model.source)
    with right:
        trainable = _trainable(layers)
        anchor = _anchor() if trainable.kind == "top_experts" else {}
        if METHODS[values["method"]].retains:
            selection_controls.rule()
        else:  # nothing to weight, whatever Selection & weights has chosen for other methods
            uniform = state.weights_config().model_copy(update={"rule": "uniform"})
            values["weights"] = uniform
        control = _control()
        evaluation, trouble = question_form.draw(base)
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
    state.bound(key, None, read=fields.within(int, 0, fields.MOST))
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


def _trainable(layers: Sequence[int]) -> TrainableConfig:
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
        named = _layers(layers) if kind == "layers" else None
        return TrainableConfig.model_validate(
            {"kind": kind, "layers": named, "freeze_routers": routers == "freeze"}
        )
    if kind == "top_experts":
        number = fields.number("Experts", "number", int, TrainableConfig, min_value=1)
        return TrainableConfig(kind="top_experts", number=number)
    if kind != "lora":
        return TrainableConfig.model_validate({"kind": kind})
    rank = fields.number("LoRA rank", "lora_rank", int, TrainableConfig, min_value=1, max_value=256)
    alpha = fields.number(
        "LoRA α", "lora_alpha", float, TrainableConfig, min_value=0.1, step=1.0, format="%.1f"
    )
    return TrainableConfig(kind="lora", lora_rank=rank, lora_alpha=float(alpha))


def _layers(layers: Sequence[int]) -> tuple[int, ...] | None:
    """Layers that train; None: those of the selected experts."""
    options = [str(layer) for layer in layers]
    state.bound_many("u_layers", [], options)
    chosen = st.multiselect(
        "Layers",
        options,
        key="u_layers",
        placeholder="those of the selected experts",
        help=forms.help_of(TrainableConfig, "layers"),
    )
    return tuple(sorted(int(layer) for layer in chosen)) or None


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
