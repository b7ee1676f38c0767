"""A job of causal evidence on the page: launch it, watch it, stop it, go on with it.

The page only reads the job's folder; another process computes. The fragment ticks once a second
and stops when the job ends. Accepted trade-off: the end is noticed up to a second late.
"""

from typing import Any

import streamlit as st

from app import doors, state, ticks, wording
from trace_engine.causal.settings import CausalConfig
from trace_engine.errors import TraceError
from trace_engine.runs.evidence import (
    EvidenceState,
    evidence_state,
)

TICK_SECONDS = 1.0


def show(config: CausalConfig, *, key: str, label: str, cost: str) -> dict[str, Any] | None:
    """The job of these settings; its result when it is done, else None.

    `label` is what the button says, `cost` how long it takes.
    """
    try:
        found = evidence_state(config)
    except TraceError as error:
        st.warning(wording.plain(str(error)), icon=":material/info:")
        return None
    if found.state == "done":
        if found.bundled:
            st.caption("Computed beforehand, and part of TRACE. Other settings are computed here.")
        return found.result
    with st.container(border=True):
        if found.state == "running":
            st.fragment(_ticking, run_every=TICK_SECONDS)(config, key)
            return None
        if found.state == "failed":
            st.error(wording.plain(found.message), icon=":material/error:")
        elif found.state in ("stopped", "interrupted"):
            st.warning(wording.plain(found.message), icon=":material/pause_circle:")
        else:
            st.caption(cost)
        st.button(
            label if found.state == "none" else "Go on",
            type="primary",
            icon=":material/play_arrow:",
            key=f"{key}_launch",
            on_click=_start,
            args=(config,),
        )
    return None


def _start(config: CausalConfig) -> None:
    try:
        doors.start_evidence(config)
    except TraceError as error:
        state.notice(str(error))


def _ticking(config: CausalConfig, key: str) -> None:
    found = ticks.look(lambda: evidence_state(config))
    if found.state != "running":
        st.rerun(scope="app")
    done, text = progress_words(found)
    st.progress(done, text=text)
    if st.button("Stop", icon=":material/stop:", key=f"{key}_stop"):
        try:
            doors.stop_evidence(config)
        except TraceError as error:
            st.warning(wording.plain(str(error)))


def progress_words(found: EvidenceState) -> tuple[float, str]:
    """How far a job is, as a share and in words."""
    progress = found.progress
    if progress is None:
        return 0.0, "Starting the worker …"
    done, total = int(progress["done"]), max(1, int(progress["total"]))
    if total == 1:
        return 0.0, f"{progress['phase']} …"
    return min(1.0, done / total), (
        f"{progress['phase']}: {wording.count(done)} of {wording.count(total)} "
        f"{progress['unit']} · {wording.duration(progress.get('eta_seconds'))} to go"
    )
