"""A profiling job on the page: its progress while it runs, and what to do when it has ended.

The page only reads the run's directory. The fragment ticks once a second and stops when the job
ends. Accepted trade-off: the end is noticed up to a second late.
"""

import streamlit as st

from app import doors, navigation, runs_view, state, ticks, wording
from trace_engine.errors import TraceError
from trace_engine.runs import RunDirectory, RunStatus, open_run

TICK_SECONDS = 1.0


def show(job: str) -> None:
    """The job with this id; a sentence when there is none."""
    try:
        run = open_run(job)
        status = run.status()
    except TraceError as error:
        st.warning(wording.plain(str(error)), icon=":material/info:")
        st.button("Forget this job", on_click=state.set_job_id, args=(None,))
        return
    with st.container(border=True):
        st.markdown("**Profiling**")
        if status.active:
            st.fragment(_ticking, run_every=TICK_SECONDS)(job)
        else:
            _ended(run, status)


def _ticking(job: str) -> None:
    run = ticks.look(lambda: open_run(job))
    status = ticks.look(run.status)
    if not status.active:
        # A rerun of the whole page leaves the fragment without its clock.
        st.rerun()
    with ticks.said():
        _progress(run, status)
    if st.button("Stop", icon=":material/stop:", key="stop_job"):
        try:
            doors.stop(job)
        except TraceError as error:
            st.warning(wording.plain(str(error)))


def _progress(run: RunDirectory, status: RunStatus) -> None:
    progress = run.progress()
    if status.state == "queued":
        st.progress(0.0, text=wording.plain(status.message))
    elif progress is None:
        st.progress(0.0, text="Starting the worker and opening the model …")
    else:
        done, total = int(progress["done"]), max(1, int(progress["total"]))
        rate = progress.get("per_second")
        speed = f"{wording.count(round(rate))} {progress['unit']}/s" if rate else "measuring speed"
        st.progress(
            min(1.0, done / total),
            text=f"{progress['phase']}: {wording.count(done)} of {wording.count(total)} "
            f"{progress['unit']} · {speed} · "
            f"{wording.duration(progress.get('eta_seconds'))} to go",
        )
    if status.stalled:
        st.caption(
            f"No word from the worker for {wording.duration(status.silent_seconds)}: "
            "slow or hanging. Stop it, or wait."
        )


def _ended(run: RunDirectory, status: RunStatus) -> None:
    if status.state == "done":
        facts = run.facts()
        key = str(facts.get("profile_key", ""))
        st.success(
            wording.plain(status.message or "The profile is ready."), icon=":material/check_circle:"
        )
        shared = runs_view.overlap_sentence(facts)
        if shared is not None and runs_view.overlaps(facts):
            st.warning(wording.plain(shared), icon=":material/warning:")
        elif shared is not None:
            st.caption(wording.plain(shared))
        with st.container(horizontal=True):
            opened = st.button(
                "Open the map", type="primary", icon=":material/grid_on:", key="open_map"
            )
            st.button(
                "Close",
                icon=":material/close:",
                on_click=state.set_job_id,
                args=(None,),
                key="close_job",
                help="The profile stays; only this box goes away.",
            )
        if opened:
            state.set_profile(key)
            navigation.go("routing_map")
        return
    st.error(
        wording.plain(f"{status.state}: {status.message.removeprefix(status.state).lstrip(': ')}"),
        icon=":material/error:",
    )
    left, right = st.columns(2)
    if left.button("Try again", key="resume_job", icon=":material/replay:"):
        try:
            doors.resume(run.id)
        except TraceError as error:
            st.warning(wording.plain(str(error)))
        else:
            st.rerun()
    right.button("Dismiss", on_click=state.set_job_id, args=(None,), key="dismiss_job")
