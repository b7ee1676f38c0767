"""The sweep half of the Unlearn form: what varies, how many runs, how long, launch.

Each rule varies by its own dial (strength for the simple rules, hardness for `exact`), so a sweep
is one small grid per dial. Accepted trade-off: only top-k, rule and dial are offered here; a file
may vary any field.
"""

import secrets
from typing import Any

import streamlit as st

from app import doors, forms, house, state, wording
from trace_engine import sweeps
from trace_engine.config import SelectionConfig, UnlearnConfig, WeightsConfig
from trace_engine.errors import TraceError
from trace_engine.methods import METHODS
from trace_engine.runs.queue import capacity
from trace_engine.sweeps import Grid, Plan
from trace_engine.sweeps.file import sweep_yaml

ONE, MANY = "one run", "a sweep"
MODES = (ONE, MANY)
TOP_K = ("1", "2", "3", "4", "6", "8", "12", "16")
STRENGTHS = ("0.25", "0.5", "0.75", "1", "1.5", "2")
HARDNESSES = ("auto", "0.1", "0.25", "0.5", "0.75", "1")
RULES = ("uniform", "mean", "exact")
FILE = "sweep.yaml"
_LISTED = 3
"""Left-out combinations, and damaged sweeps, that are named one by one."""


def mode() -> str:
    """Draw the choice between one run and a sweep."""
    state.bound("u_mode", ONE, MODES)
    chosen = st.segmented_control(
        "Launch", MODES, key="u_mode", help="A sweep makes a run for every combination of values.",
        required=True,
    )  # fmt: skip
    return str(chosen)


def rules_on_offer(base: UnlearnConfig | None) -> tuple[str, list[str]]:
    """Rules that the rest of the settings allows, with the widget's key: each case has its own
    choice.

    `odds` is for one coverable expert, and a sweep's top-k is for each layer; a file may have it.
    """
    known = [rule for rule in forms.choices_of(WeightsConfig, "rule") if rule != "odds"]
    if base is None:
        return "sw_rules", known
    if not METHODS[base.method].retains:
        return "sw_rules_plain", ["uniform"]
    trained = base.control == "random_experts" and base.trainable.kind == "selected_experts"
    if base.control != "none" and not trained:
        return "sw_rules_control", [rule for rule in known if rule != "uniform"]
    return "sw_rules", known


def draw(experts: int, base: UnlearnConfig | None = None) -> tuple[list[Grid], str]:
    """The values that vary, and the sweep's name; `experts` is the smallest layer's number."""
    offered = [value for value in TOP_K if int(value) <= experts]
    first, second = st.columns(2)
    with first:
        top_k = _several(
            "Top-k", "sw_top_k", ["1", "2", "4"], offered, forms.help_of(SelectionConfig, "top_k")
        )
    with second:
        key, known = rules_on_offer(base)
        rules = _several(
            "Weighting rules", key, list(RULES), known, forms.help_of(WeightsConfig, "rule")
        )
    simple = [rule for rule in rules if rule not in ("uniform", "exact")]
    strengths, hardnesses = ["1"], ["auto"]
    with first:
        if simple:
            strengths = _several(
                f"Strength η of {', '.join(simple)}", "sw_strength", ["1"], list(STRENGTHS),
                forms.help_of(WeightsConfig, "strength"),
            )  # fmt: skip
    with second:
        if "exact" in rules:
            hardnesses = _several(
                "Hardness κ of exact", "sw_hardness", ["auto", "0.5"], list(HARDNESSES),
                forms.help_of(WeightsConfig, "hardness"),
            )  # fmt: skip
    name = st.text_input(
        "Name of the sweep (optional)",
        key="sw_name",
        max_chars=60,
        help="A label for lists, in front of its runs' names; not part of what is computed.",
        persist_state="session",
    )
    return grids_of(top_k, rules, strengths, hardnesses), name


def grids_of(
    top_k: list[str], rules: list[str], strengths: list[str], hardnesses: list[str]
) -> list[Grid]:
    """One grid per dial, in the order of the rules' kinds: none, strength, hardness."""
    chosen = [int(value) for value in top_k]
    simple = [rule for rule in rules if rule not in ("uniform", "exact")]
    found: list[Grid] = []
    if "uniform" in rules:
        found.append({"selection.top_k": chosen, "weights.rule": ["uniform"]})
    if simple:
        dial = [float(value) for value in strengths]
        found.append({"selection.top_k": chosen, "weights.rule": simple, "weights.strength": dial})
    if "exact" in rules:
        kappas: list[Any] = [value if value == "auto" else float(value) for value in hardnesses]
        found.append(
            {"selection.top_k": chosen, "weights.rule": ["exact"], "weights.hardness": kappas}
        )
    return found


def _several(
    label: str, key: str, default: list[str], options: list[str], text: str | None
) -> list[str]:
    state.bound_many(key, [value for value in default if value in options], options)
    return st.multiselect(label, options, key=key, help=text)


def plan(base: UnlearnConfig, grids: list[Grid], name: str) -> tuple[Plan | None, str | None]:
    """The runs, or why there are none."""
    try:
        return sweeps.plan_sweep(base, grids, name), None
    except TraceError as error:
        return None, str(error)


def describe(base: UnlearnConfig, found: Plan) -> None:
    """How many runs, how long, and which combinations are the same."""
    count = len(found.points)
    st.markdown(f"**{count} run{'s' if count > 1 else ''}.** {_time(base, count)}")
    told = found.sentences()
    if len(told) <= _LISTED:
        for sentence in told:
            st.caption(wording.plain(sentence))
    else:
        with st.expander(f"{len(told)} combinations are the same run as another: made once"):
            st.text("\n".join(told))
    st.caption(sweeps.OPTIMISM)


def _time(base: UnlearnConfig, count: int) -> str:
    try:
        at_once, estimate = capacity("unlearn"), sweeps.seconds_per_run(base)
    except TraceError:
        at_once, estimate = 1, None
    order = "One after another" if at_once == 1 else f"{at_once} at a time"
    if estimate is None:
        return (
            f"{order}. No run like these has finished on this machine yet, so nothing tells how "
            "long they take; the first point will."
        )
    seconds, like = estimate
    total = wording.duration(seconds * -(-count // at_once))
    runs = "run like these" if like == 1 else "runs like these"
    return (
        f"{order}: about {total}, at {wording.duration(seconds)} a run, as the last {like} {runs} "
        "took."
    )


def launch(base: UnlearnConfig, grids: list[Grid], name: str) -> None:
    """Start it and put it in focus; one press of the button is one sweep."""
    token = st.session_state.setdefault("_sweep_token", secrets.token_hex(8))
    try:
        state.set_sweep_id(doors.launch_sweep(base, grids, name, token=token))
        del st.session_state["_sweep_token"]
    except TraceError as error:
        state.notice(str(error))


def the_same(base: UnlearnConfig, grids: list[Grid], name: str) -> None:
    """The file, the command and the Python lines that make the same sweep."""
    text = house.shown(sweep_yaml(base, grids, name))
    with st.expander("The same from a file, a shell, Python", icon=":material/terminal:"):
        st.code(f"trace-moe sweep {FILE}", language="bash")
        st.code(
            "from trace_engine.sweeps import outcomes, read_sweep, sweep\n\n"
            f'found = sweep(*read_sweep("{FILE}"))\n'
            "print([point.label for point in outcomes(found) if point.front])\n",
            language="python",
        )
        st.code(text, language="yaml", height=360)
        st.download_button(FILE, text, file_name=FILE, on_click="ignore", key="sw_yaml")


def past() -> None:
    """The sweeps of this machine, and a way to each."""
    found = {one.id: one for one in sweeps.list_sweeps()}
    damaged = sweeps.damaged_sweeps()
    labels = {key: _option(one) for key, one in found.items()}
    labels |= {key: f"damaged · {key}" for key in damaged}
    if not labels:
        return
    st.subheader("Past sweeps")
    for reason in list(damaged.values())[:_LISTED]:
        st.warning(wording.plain(reason), icon=":material/warning:")
    picked = st.selectbox("Sweep", list(labels), format_func=labels.__getitem__, key="sw_pick")
    with st.container(horizontal=True):
        st.button(
            "Open",
            icon=":material/open_in_full:",
            on_click=state.set_sweep_id,
            args=(picked,),
            key="sw_open",
            disabled=picked in damaged,
        )
        active = picked in found and _active(found[picked])
        with st.popover("Forget", icon=":material/delete:", disabled=active):
            st.text(f"Forget {labels[picked]}? Its runs stay.")
            st.button("Yes, forget", on_click=_forget, args=(picked,), key="sw_delete")


def _forget(sweep_id: str) -> None:
    try:
        doors.delete_sweep(sweep_id)
    except TraceError as error:
        state.notice(str(error))
        return
    if state.sweep_id() == sweep_id:
        state.set_sweep_id(None)


def _option(one: sweeps.SweepDirectory) -> str:
    try:
        return f"{one.name} · {one.id}" if one.name else one.id
    except TraceError:  # deleted just now
        return one.id


def _active(one: sweeps.SweepDirectory) -> bool:
    try:
        return one.status().active
    except TraceError:
        return False
