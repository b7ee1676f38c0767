"""The machine beneath the list of runs: who computes, who waits, disk and memory; a run's log.

It ticks while something is at work and stands still otherwise. Accepted trade-off: standing still,
disk and memory are those of the page's last run.
"""

from typing import Any

import pandas as pd
import streamlit as st

from app import runs_view, tables, wording
from trace_engine import health
from trace_engine.errors import TraceError
from trace_engine.health import ActiveJob, ActiveRun
from trace_engine.runs import RunDirectory
from trace_engine.runs.events import line_of

TICK_SECONDS = 5.0
COLUMNS = ["run", "kind", "state", "step", "for", "last report", "id"]
JOB_COLUMNS = ["job", "kind", "state", "progress", "for", "id"]
KINDS = {"unlearn": "unlearning", "profile": "profile", "evidence": "causal evidence"}


def show() -> None:
    """Queue, workers, disk and memory, folded away under the list of runs."""
    try:
        found = health.status()
    except TraceError as error:
        st.error(wording.plain(str(error)), icon=":material/error:")
        return
    busy = len(found.active) + len(found.jobs)
    title = "This machine: " + (f"{wording.count(busy)} at work or waiting" if busy else "idle")
    with st.expander(title, icon=":material/memory:"):
        st.fragment(_draw, run_every=TICK_SECONDS if busy else None)(busy > 0)


def _draw(ticking: bool) -> None:
    found = health.status()
    if ticking and not found.active and not found.jobs:
        # The whole page is drawn once more, without the clock.
        st.rerun(scope="app")
    for sentence in found.sentences():
        st.text(sentence)
    if found.active:
        tables.show(frame(found.active), "machine", alt="Runs that compute or wait, oldest first.")
    if found.jobs:
        tables.show(
            jobs_frame(found.jobs),
            "jobs",
            alt="Audits, causal evidence, exports and sweeps at work.",
        )
    st.caption(
        "`trace-moe status` prints the same; `trace-moe doctor` examines the installation and "
        "says what to repair."
    )


def frame(active: tuple[ActiveRun, ...]) -> pd.DataFrame:
    """The runs at work, a line each."""
    lines = [
        {
            "run": runs_view.label_of(run.id, run.name),
            "kind": KINDS.get(run.kind, run.kind),
            "state": runs_view.WORDS.get(run.state, run.state),
            "step": f"{run.step} / {run.max_steps}" if run.max_steps else "",
            "for": wording.duration(run.age_seconds),
            "last report": f"{wording.duration(run.silent_seconds)} ago",
            "id": run.id,
        }
        for run in active
    ]
    return pd.DataFrame(lines, columns=COLUMNS)


def jobs_frame(jobs: tuple[ActiveJob, ...]) -> pd.DataFrame:
    """What is at work besides runs, a line each."""
    lines = [
        {
            "job": job.name or job.id,
            "kind": KINDS.get(job.kind, job.kind),
            "state": runs_view.WORDS.get(job.state, job.state),
            "progress": runs_view.progress_sentence(job.progress) or "",
            "for": wording.duration(job.age_seconds),
            "id": job.id,
        }
        for job in jobs
    ]
    return pd.DataFrame(lines, columns=JOB_COLUMNS)


def events_frame(events: list[dict[str, Any]]) -> pd.DataFrame:
    """A run's events, a line each."""
    return pd.DataFrame(map(line_of, events), columns=["time", "attempt", "event", "what"])


def log(run: RunDirectory) -> None:
    """A run's events as a table."""
    events = run.events()
    if not events:
        st.caption("No events: this run was made before they were recorded.")
        return
    table = events_frame(events)
    tables.show(table, f"run_{run.id}_log", alt="What happened to the run, oldest first, in UTC.")
    st.caption("Times are UTC. `trace-moe runs log` prints the same.")
