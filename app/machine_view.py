"""The machine beneath the runs: who computes, who waits, disk and memory; a run's log.

It ticks while something is at work and stands still otherwise. Accepted trade-off: standing still,
disk and memory are those of the page's last run.
"""

from typing import Any

import pandas as pd
import streamlit as st

from app import house, navigation, runs_view, tables, wording
from trace_engine import health
from trace_engine.errors import TraceError
from trace_engine.health import ActiveJob, ActiveRun, MachineStatus, surroundings
from trace_engine.health.report import looked
from trace_engine.runs import RunDirectory
from trace_engine.runs.events import line_of
from trace_engine.spelling import size

TICK_SECONDS = 5.0
COLUMNS = ["run", "kind", "state", "step", "for", "last report", "id"]
WORKER_COLUMNS = ["for", "computing", "at most"]
JOB_COLUMNS = ["job", "kind", "state", "progress", "for", "id"]
ICONS = {
    "ok": ":material/check_circle:",
    "warning": ":material/warning:",
    "fault": ":material/error:",
}
KINDS = {"unlearn": "unlearning", "profile": "profile", "evidence": "causal evidence"}


def summary() -> None:
    """One line under the list of runs, and the way to the rest."""
    try:
        found = health.status()
    except TraceError as error:
        st.error(wording.plain(str(error)), icon=":material/error:")
        return
    busy = len(found.active) + len(found.jobs)
    said = f"{wording.count(busy)} at work or waiting" if busy else "idle"
    navigation.link("status", f"This machine: {said}", icon=":material/memory:")


def show() -> None:
    """Queue, workers, disk and memory."""
    try:
        found = health.status()
    except TraceError as error:
        # What the app runs on is drawn all the same: this page is where one looks for the reason.
        st.error(wording.plain(str(error)), icon=":material/error:")
        return
    busy = bool(found.active or found.jobs)
    st.fragment(_draw, run_every=TICK_SECONDS if busy else None)(busy)


def _draw(ticking: bool) -> None:
    found = health.status()
    if ticking and not found.active and not found.jobs:
        # The whole page is drawn once more, without the clock.
        st.rerun(scope="app")
    _figures(found)
    st.subheader("Workers")
    tables.show(workers_frame(found), "workers", alt="How many jobs of each kind may compute.")
    st.subheader("At work or waiting")
    if not found.active and not found.jobs:
        st.caption("Nothing is at work, and nothing waits.")
    if found.active:
        tables.show(frame(found.active), "machine", alt="Runs that compute or wait, oldest first.")
    if found.jobs:
        tables.show(
            jobs_frame(found.jobs),
            "jobs",
            alt="Audits, causal evidence, exports and sweeps at work.",
        )
    if found.ended:
        kept = ", ".join(
            f"{wording.count(number)} {runs_view.WORDS.get(state, state)}"
            for state, number in sorted(found.ended.items())
        )
        st.text(f"Runs that have ended: {kept}.")


def _figures(found: MachineStatus) -> None:
    queued = found.queued
    figures = {
        "At work": wording.count(len(found.active) + len(found.jobs) - queued),
        "Waiting": wording.count(queued),
        "Disk free": f"{size(found.disk_free)} of {size(found.disk_total)}",
        "Memory free": f"{size(found.memory_free)} of {size(found.memory_total)}",
    }
    with st.container(horizontal=True, gap="medium"):
        for label, value in figures.items():
            st.metric(label, value, width="content")


def workers_frame(found: MachineStatus) -> pd.DataFrame:
    """How many of each kind compute, and how many may."""
    lines = [(KINDS.get(kind, kind), at.busy, at.total) for kind, at in found.slots.items()]
    return pd.DataFrame(lines, columns=WORKER_COLUMNS)


def examination() -> None:
    """What the app runs on. Where things lie is for who runs the server, not for visitors."""
    st.subheader("What it runs on")
    looks = {
        "Python": surroundings.python,
        "Packages": surroundings.packages,
        "Processors": surroundings.processors,
    }
    if not house.rules().shared:
        looks |= {
            "Data folder": lambda: surroundings.data_folder(None),
            "Disk": lambda: surroundings.disk(None),
            "Memory": surroundings.memory,
        }
    for name, look in looks.items():
        check = looked(name, look)
        sentence = f"{ICONS[check.state]} **{name}:** {wording.plain(check.found)}"
        st.markdown(
            f"{sentence} To do: {wording.plain(check.advice)}" if check.advice else sentence
        )
    st.caption(
        "`trace-moe status` prints the queue; `trace-moe doctor` examines the rest too (other "
        "folders, torch, the GPU, a self-test) and says what to repair."
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
