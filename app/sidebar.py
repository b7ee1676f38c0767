"""The sidebar: what is being compared, what is selected, teaching mode, reset.

It repeats on every page what a number on the page is about. Accepted trade-off: it opens the profile on every
page, which the cache makes cheap after the first.
"""

import importlib.util

import streamlit as st

from app import state, wording


def draw() -> None:
    """Fill the sidebar; call inside `with st.sidebar`."""
    _teaching()
    view = state.current_profile()
    if view is None:
        st.caption(wording.NO_PROFILE)
        return
    profile = view.profile
    with st.container(border=True):
        st.caption("Being compared")
        st.text(f"Model   {model_name(profile.meta)}")
        st.text(
            f"Forget  {view.forget_name} ({wording.count(len(profile.forget.document_ids))} documents)"
        )
        st.text(
            f"Retain  {view.retain_name} ({wording.count(len(profile.retain.document_ids))} documents)"
        )
    _selection()
    st.button(
        "Reset to the first screen",
        on_click=state.reset,
        icon=":material/restart_alt:",
        type="tertiary",
    )


def model_name(meta: dict[str, object]) -> str:
    """The model's source as the profile recorded it."""
    model = meta.get("model")
    source = model.get("source") if isinstance(model, dict) else model
    return str(source) if source else "not recorded"


def _selection() -> None:
    config = state.selection_config()
    what = {
        "per_layer": f"top {config.top_k} per layer",
        "global": f"top {config.top_k} of the model",
        "threshold": f"score ≥ {config.threshold:g}",
        "cumulative": f"{config.share:.0%} of the positive gap",
    }[config.scope]
    by_hand = f", {len(config.add)} added" if config.add else ""
    by_hand += f", {len(config.remove)} left out" if config.remove else ""
    with st.container(border=True):
        st.caption("Selection")
        st.text(f"{what} by {config.score}{by_hand}")


def _teaching() -> None:
    """Teaching mode's switch is its own module's business; without that module there is no switch."""
    if importlib.util.find_spec("app.teaching") is None:
        return
    from app import teaching

    teaching.switch()
