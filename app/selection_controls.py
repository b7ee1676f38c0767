"""The settings of Selection & weights: widgets that write the shared settings, and picks by hand.

The shared settings (app/state.py) are the truth; each widget is set from them before it is drawn
and writes them in its callback, so that the URL, the map's clicks and the widgets can never
disagree. Accepted trade-off: a refused combination is named and the last valid settings stay.
"""

from typing import Any

import streamlit as st
from pydantic import BaseModel

from app import charts, forms, navigation, state
from app.selection_view import RULES, SCOPES, SIMPLE_RULES
from trace_engine.config import Cell, SelectionConfig, WeightsConfig
from trace_engine.errors import TraceError

SCORES = {
    "difference": "difference: forget − retain",
    "ratio": "ratio: forget / retain",
    "log_ratio": "log2 of the ratio",
    "z": "z: difference over its standard error",
}
STATISTICS = {"frequency": "share of tokens routed", "gate_mass": "mean gate weight"}
NORMALISE = {
    "set": "whole retain set",
    "batch": "each batch",
    "sequence": "each sequence (erases the signal between sequences)",
    "none": "not at all",
}


def draw(view: state.ProfileView) -> None:
    """All widgets, selection first."""
    st.subheader("Which experts")
    _selection(view, state.selection_config())
    st.subheader("How hard")
    _weights(state.weights_config())
    st.button(
        "Back to the defaults",
        icon=":material/undo:",
        type="tertiary",
        on_click=_defaults,
        key="sel_defaults",
    )


def _defaults() -> None:
    state.set_selection_config(SelectionConfig())
    state.set_weights_config(WeightsConfig())


def _key(settings: type[BaseModel], field: str) -> str:
    return f"{'sel' if settings is SelectionConfig else 'wts'}_{field}"


def _prepare(config: BaseModel, field: str, value: Any = None) -> dict[str, Any]:
    """Arguments every widget of a field has: its key, its help, its callback; its value is put
    in place.
    """
    key = _key(type(config), field)
    st.session_state[key] = getattr(config, field) if value is None else value
    return {
        "key": key,
        "help": forms.help_of(type(config), field),
        "on_change": _apply,
        "args": (type(config), field),
    }


def _apply(settings: type[BaseModel], field: str) -> None:
    value = st.session_state[_key(settings, field)]
    if field == "layers":
        value = tuple(value) or None
    elif field == "refresh_every":
        value = value or None
    current = state.selection_config() if settings is SelectionConfig else state.weights_config()
    store(settings, {**current.model_dump(), field: value})


def store(settings: type[BaseModel], values: dict[str, Any]) -> None:
    """Validate and keep; a refused combination becomes a notice and changes nothing."""
    config, refusal = forms.build(settings, values)
    if config is None:
        state.notice(f"{refusal} The settings stay as they were.")
    elif isinstance(config, SelectionConfig):
        state.set_selection_config(config)
    elif isinstance(config, WeightsConfig):
        state.set_weights_config(config)


def _selection(view: state.ProfileView, config: SelectionConfig) -> None:
    forms.option("Scope", SCOPES, **_prepare(config, "scope"))
    if config.scope in ("per_layer", "global"):
        experts = view.profile.num_experts_L
        most = max(experts) if config.scope == "per_layer" else sum(experts)
        # A number from the URL may be larger than this model allows: it is shown, and refused in
        # words.
        st.slider(
            "Top-k (selected experts)", 1, max(most, config.top_k), **_prepare(config, "top_k")
        )
    elif config.scope == "threshold":
        st.number_input("Least score", step=0.01, format="%.3f", **_prepare(config, "threshold"))
    else:
        st.slider("Share of the positive gap", 0.05, 1.0, step=0.05, **_prepare(config, "share"))
    forms.option("Score", SCORES, **_prepare(config, "score"))
    with st.expander("More", icon=":material/tune:"):
        forms.option(
            "Statistic",
            STATISTICS,
            **_prepare(config, "statistic"),
        )
        st.toggle("Floor", **_prepare(config, "floor"))
        st.multiselect(
            "Layers",
            list(view.profile.layers),
            placeholder="all MoE layers",
            **_prepare(config, "layers", list(config.layers or ())),
        )


def rule() -> None:
    """The weighting rule alone, for a page that leaves the rest to Selection & weights."""
    forms.option("Weighting rule", RULES, **_prepare(state.weights_config(), "rule"))


def _weights(config: WeightsConfig) -> None:
    rule()
    if config.rule == "uniform":
        st.caption("Every retain token weighs 1: the unweighted method, for comparison.")
        return
    automatic = config.hardness == "auto"
    key = "wts_auto"
    st.session_state[key] = automatic
    st.toggle(
        "Automatic hardness κ",
        key=key,
        on_change=_toggle_auto,
        help=forms.help_of(WeightsConfig, "hardness"),
    )
    if automatic:
        st.slider(
            "Least effective sample size", 0.05, 1.0, step=0.05, **_prepare(config, "ess_floor")
        )
    else:
        st.slider("Hardness κ", 0.0, 1.0, step=0.05, **_prepare(config, "hardness"))
    with st.expander("More", icon=":material/tune:"):
        if config.rule in SIMPLE_RULES:
            st.slider("Strength η", 0.0, 4.0, step=0.1, **_prepare(config, "strength"))
            low, high = st.columns(2)
            for column, name, position in ((low, "least", 0), (high, "largest", 1)):
                clip_key = f"wts_clip_{position}"
                st.session_state[clip_key] = config.clip[position]
                column.number_input(
                    f"Ratio, {name}",
                    min_value=0.001,
                    step=0.1,
                    key=clip_key,
                    on_change=_apply_clip,
                    help=forms.help_of(WeightsConfig, "clip"),
                )
        forms.option(
            "Mean weight 1 over",
            NORMALISE,
            **_prepare(config, "normalise"),
        )
        st.selectbox(
            "Routing that weighs a token",
            forms.choices_of(WeightsConfig, "routing"),
            **_prepare(config, "routing"),
        )
        st.number_input(
            "Fit again every (updates)",
            min_value=0,
            step=10,
            **_prepare(config, "refresh_every", config.refresh_every or 0),
        )


def _toggle_auto() -> None:
    hardness = "auto" if st.session_state["wts_auto"] else 0.5
    store(WeightsConfig, {**state.weights_config().model_dump(), "hardness": hardness})


def _apply_clip() -> None:
    clip = (st.session_state["wts_clip_0"], st.session_state["wts_clip_1"])
    store(WeightsConfig, {**state.weights_config().model_dump(), "clip": clip})


# --- picks by hand -------------------------------------------------------------------------------


def on_map_click() -> None:
    """Put the clicked cell in focus; an empty or foreign selection changes nothing."""
    cell = charts.clicked_cell(st.session_state.get("selection_map"))
    if cell is None:
        return
    try:
        state.set_cell(cell)
    except TraceError as error:
        state.notice(str(error))


def hand_picks(view: state.ProfileView, cells: tuple[Cell, ...]) -> None:
    """Add or leave out the cell in focus; the number inputs are the keyboard's way to a cell."""
    current = state.cell()
    if current is None:
        return
    config = state.selection_config()
    st.session_state["sel_layer"], st.session_state["sel_expert"] = current
    layer, expert, buttons = st.columns([1, 1, 3], vertical_alignment="bottom")
    layer.selectbox("Layer", list(view.profile.layers), key="sel_layer", on_change=_focus)
    experts = view.profile.num_experts_L[view.profile.site_of(current.layer)]
    expert.number_input("Expert", 0, experts - 1, key="sel_expert", on_change=_focus)
    name = state.cell_name(current)
    with buttons, st.container(horizontal=True, vertical_alignment="center"):
        if current in cells:
            st.button(
                f"Leave {name} out",
                icon=":material/remove_circle:",
                on_click=state.leave_out,
                args=(current,),
                key="sel_leave_out",
            )
        else:
            st.button(
                f"Add {name}",
                icon=":material/add_circle:",
                on_click=state.pin,
                args=(current,),
                key="sel_add",
            )
        if current in config.add or current in config.remove:
            st.button(
                "Undo the pick",
                icon=":material/undo:",
                on_click=state.unpick,
                args=(current,),
                key="sel_unpick",
            )
        navigation.link("expert", f"Tokens of {name}", icon=":material/search:")
    picked = [f"{state.cell_name(c)} added" for c in config.add]
    picked += [f"{state.cell_name(c)} left out" for c in config.remove]
    if picked:
        st.caption("By hand: " + ", ".join(picked) + ".")


def _focus() -> None:
    try:
        state.set_cell((st.session_state["sel_layer"], st.session_state["sel_expert"]))
    except TraceError as error:
        state.notice(str(error))
