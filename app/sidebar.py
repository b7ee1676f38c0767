"""The sidebar: what is being compared, what is selected, teaching mode, reset.

It repeats on every page what a number on the page is about. Accepted trade-off: it opens the
profile on every page, which the cache makes cheap after the first.
"""

import importlib
import importlib.util

import streamlit as st

from app import findings, house, state, wording


def draw() -> None:
    """Fill the sidebar; call inside `with st.sidebar`."""
    _house()
    _teaching()
    view = state.current_profile()
    if view is None:
        st.caption(wording.NO_PROFILE)
        return
    with st.container(border=True, gap="xsmall"):
        st.caption("Being compared")
        _fact("Model", findings.model_name(view.profile.meta))
        for side, name in (("Forget", view.forget_name), ("Retain", view.retain_name)):
            counts = view.profile.counts(side.lower())
            documents = wording.count(counts.documents)
            _fact(side, name, f"{documents} documents, {wording.count(counts.tokens)} tokens")
    with st.container(border=True, gap="xsmall"):
        st.caption("Selection")
        st.text(_selection())
    st.button(
        "Reset to the first screen",
        on_click=state.reset,
        icon=":material/restart_alt:",
        type="tertiary",
    )


def _house() -> None:
    found = house.rules()
    if found.read_only:
        st.caption(":material/visibility: A server for looking: nothing is started here.")
    if found.login:
        st.button("Log out", on_click=st.logout, icon=":material/logout:", type="tertiary")


def _fact(label: str, value: str, more: str = "") -> None:
    st.text(f"{label}: {value}" + (f"\n{more}" if more else ""))


def _selection() -> str:
    config = state.selection_config()
    what = {
        "per_layer": f"top {config.top_k} per layer",
        "global": f"top {config.top_k} of the model",
        "threshold": f"score ≥ {wording.number(config.threshold)}",
        "cumulative": f"{wording.percent(config.share, 0)} of the positive gap",
    }[config.scope]
    by_hand = f", {len(config.add)} added" if config.add else ""
    by_hand += f", {len(config.remove)} left out" if config.remove else ""
    return f"{what}, by {config.score.replace('_', ' ')}{by_hand}"


def _teaching() -> None:
    """Teaching mode owns its switch; without that module there is no switch."""
    if importlib.util.find_spec("app.teaching") is None:
        return
    importlib.import_module("app.teaching").switch()
