"""The list of past runs, and what can be done with one: open, resume, delete.

The table keeps up with runs that are at work; buttons and choice are drawn once a page. Accepted
trade-off: labels carry the run's id, which is ugly, because Streamlit tells options apart by what
they show: two runs of one label would be one, and a state in the label would go stale.
"""

from collections.abc import Collection

import streamlit as st

from app import live, runs_view, state, tables, wording
from trace_engine import runs
from trace_engine.runs import RunSummary

TICK_SECONDS = 2.0
_FOLLOWED = "_runs_followed"
"""The run in focus when the choice last followed it."""


def show() -> None:
    """Table, choice, buttons; a sentence where there is no run yet."""
    found = _unlearning_runs()
    if not found:
        st.caption("No run yet on this machine. Compare shows the one that ships with the project.")
        return
    ticking = any(run.status.active for run in found)
    st.fragment(_table, run_every=TICK_SECONDS if ticking else None)(ticking)
    labels = {run.id: runs_view.option_of(run.id, run.name) for run in found}
    _follow_focus(labels)
    picked = st.selectbox("Run", list(labels), format_func=lambda key: labels[key], key="runs_pick")
    status = next(run.status for run in found if run.id == picked)
    with st.container(horizontal=True):
        st.button(
            "Open",
            icon=":material/open_in_full:",
            on_click=state.set_run_id,
            args=(picked,),
            key="runs_open",
        )
        st.button(
            "Resume",
            icon=":material/play_circle:",
            disabled=not status.resumable,
            on_click=live.resume_and_open,
            args=(picked,),
            key="runs_resume",
        )
        with st.popover("Delete", icon=":material/delete:", disabled=status.active):
            st.text(f"Delete {labels[picked]} with its checkpoints and its model? No way back.")
            st.button(
                "Yes, delete", on_click=live.delete_and_close, args=(picked,), key="runs_delete"
            )
    if status.message:
        st.caption(wording.plain(runs_view.state_sentence(status)))


def _follow_focus(offered: Collection[str]) -> None:
    """Choose the run that has just come into focus (launched, opened, resumed); any other choice
    stays until the focus moves again.
    """
    focus = state.run_id()
    if focus in offered and focus != st.session_state.get(_FOLLOWED):
        st.session_state["runs_pick"] = focus
    st.session_state[_FOLLOWED] = focus


def _unlearning_runs() -> list[RunSummary]:
    return [run for run in runs.list_runs() if run.kind != "profile"]


def _table(ticking: bool) -> None:
    found = _unlearning_runs()
    if ticking and not any(run.status.active for run in found):
        # The whole page is drawn once more, without the clock.
        st.rerun(scope="app")
    lines = [runs_view.run_line(run) for run in found]
    tables.show(runs_view.runs_frame(lines), "runs", alt="All runs on this machine, newest first.")
