"""A sweep on the page: points as they arrive, stop and resume for all of it, each run one click
away.

State and table tick in fragments; the figure is drawn anew when a point has arrived, because a
ticking plotly chart would lose a click. Accepted trade-off: a point that arrives redraws the page.
"""

from collections.abc import Callable
from typing import Any

import streamlit as st

from app import (
    charts,
    curves,
    doors,
    house,
    navigation,
    runs_view,
    state,
    sweep_figure,
    tables,
    ticks,
    wording,
)
from app.sweep_figure import clicked_point, sweep_frame
from trace_engine import runs, sweeps
from trace_engine.errors import TraceError
from trace_engine.runs import RunDirectory
from trace_engine.sweeps import Outcome, SweepDirectory
from trace_engine.sweeps.results import measure_of

TICK_SECONDS = 2.0
CHART = "sweep_plane"
SHOWN = ["point", "state", "forget", "utility", "front", "run"]
_ENDED = ("done", "stopped", "failed", "interrupted", "damaged")


def show(found: SweepDirectory) -> None:
    """The sweep's head, its plane, its points, and the way to each run."""
    points = sweeps.outcomes(found)
    status = found.status()
    every = TICK_SECONDS if status.active else None
    seen = _signature(status.state, points)
    # Once a page: it reads every run of this machine.
    each = sweeps.seconds_per_run(found.base(), found.home) if every is not None else None
    st.fragment(_head, run_every=every)(found, seen, None if each is None else each[0])
    _plane(found, points)
    st.fragment(_table, run_every=every)(found)
    _open_a_run(points)
    for left_out, kept in found.repeats():
        st.caption(wording.plain(f"{left_out} is the same run as {kept}, and was made once."))


def offer(run: RunDirectory) -> None:
    """The way back from a run to the sweep that asked for it, where that is on this machine."""
    belongs = run.sweep()
    if belongs is not None and belongs in {found.id for found in sweeps.list_sweeps()}:
        st.button(
            "Open its sweep",
            icon=":material/scatter_plot:",
            on_click=state.set_sweep_id,
            args=(belongs,),
            key="run_sweep",
        )


def _signature(now: str, points: list[Outcome]) -> tuple[Any, ...]:
    """What the page outside the fragments depends on: the sweep's state, what has begun and what
    has ended."""
    ended = tuple(point.state if point.state in _ENDED else "" for point in points)
    return now, tuple(point.run for point in points), ended


def _head(found: SweepDirectory, seen: tuple[Any, ...], seconds: float | None) -> None:
    status, points = ticks.look(lambda: (found.status(), sweeps.outcomes(found)))
    if _signature(status.state, points) != seen:
        st.rerun(scope="app")
    name, buttons = st.columns([3, 2], vertical_alignment="center")
    with name:
        st.subheader(wording.plain(f"Sweep: {label_of(found)}"))
        st.badge(
            runs_view.WORDS.get(status.state, status.state),
            icon=runs_view.ICONS.get(status.state),
            color=runs_view.COLOURS.get(status.state, "gray"),
        )
    with buttons, st.container(horizontal=True, horizontal_alignment="right"):
        _buttons(found)
    if status.message:
        st.text(house.shown(status.message))
    if status.active:
        _progress(points, seconds)


def label_of(found: SweepDirectory) -> str:
    """The sweep's name, or its id where it has none."""
    return found.name or found.id


def _progress(points: list[Outcome], seconds: float | None) -> None:
    done = sum(point.state in _ENDED for point in points)
    text = f"{done} of {len(points)} points"
    at_work = [point for point in points if point.state in runs_view.WORDS and not _over(point)]
    for point in at_work[:2]:
        text += f"; {point.label}: {point.state}"
        text += f", step {point.step}" if point.state == "running" and point.step else ""
    if seconds is not None and done < len(points):
        text += f"; about {wording.duration(seconds * (len(points) - done))} left"
    st.progress(done / len(points), wording.plain(text))


def _over(point: Outcome) -> bool:
    return point.state in (*_ENDED, "waiting")


def _buttons(found: SweepDirectory) -> None:
    status = found.status()
    if status.active:
        st.button(
            "Stop the sweep",
            icon=":material/stop_circle:",
            key="sweep_stop",
            on_click=_act,
            args=(doors.stop_sweep, found.id),
            help="Its runs finish their step and save; nothing new begins. It can be resumed.",
        )
    if status.resumable:
        st.button(
            "Resume the sweep",
            icon=":material/play_circle:",
            type="primary",
            key="sweep_resume",
            on_click=_act,
            args=(doors.resume_sweep, found.id),
            help="Makes what is missing; runs that were stopped go on from their last checkpoint.",
        )
    st.button(
        "Close",
        icon=":material/close:",
        key="sweep_close",
        on_click=state.set_sweep_id,
        args=(None,),
    )


def _act(action: Callable[[str], object], sweep_id: str) -> None:
    try:
        action(sweep_id)
    except TraceError as error:
        state.notice(str(error))


def _plane(found: SweepDirectory, points: list[Outcome]) -> None:
    if not any(point.known for point in points):
        st.caption("The first point appears here when its run has finished.")
        return
    measure = measure_of(found.base())
    charts.show(
        sweep_figure.sweep_figure(
            points,
            measure,
            chance=_chance(points, found) if measure == "accuracy" else None,
            heading=sweep_figure.finding(points),
        ),
        name=CHART,
        alt=f"Forgetting against utility, one point per finished run, with {wording.NINETY_FIVE} "
        "intervals; the Pareto front is joined and named.",
        on_click=lambda: _clicked(points),
        table=sweep_frame(points),
        caption=f"The front: {sweep_figure.key_of(points)}. Click a point to open its run. "
        "Where intervals overlap far, these questions do not tell the points apart. "
        f"{sweeps.OPTIMISM}",
    )


def _chance(points: list[Outcome], found: SweepDirectory) -> float | None:
    """What guessing scores, as the first finished run recorded it."""
    run = next((point.run for point in points if point.known and point.run), None)
    if run is None:
        return None
    try:
        rows = runs.open_run(run).rows("eval")
    except TraceError:
        return None
    return curves.chance_of(rows, found.base().evaluation.forget_category)


def _clicked(points: list[Outcome]) -> None:
    number = clicked_point(st.session_state.get(CHART))
    run = next((point.run for point in points if point.number == number), None)
    if run is not None:
        state.set_run_id(run)


def _table(found: SweepDirectory) -> None:
    frame = sweep_frame(ticks.look(lambda: sweeps.outcomes(found)))
    loss = measure_of(found.base()) == "loss"
    named = {"forget": "forget loss", "utility": "retain loss"} if loss else {}
    tables.show(
        frame[SHOWN].rename(columns=named),
        "sweep_points",
        alt="One line per point of the sweep: settings, state, figures, front, run.",
        column_config=tables.numbers(*(named.values() or ("forget", "utility"))),
        download=frame,
        missing="not yet",
    )


def _open_a_run(points: list[Outcome]) -> None:
    """The keyboard's way to a point's run."""
    begun = {str(point.run): point for point in points if point.run is not None}
    if not begun:
        return
    picked = st.selectbox(
        "Run of the point", list(begun), format_func=lambda run: begun[run].label, key="sweep_pick"
    )
    with st.container(horizontal=True, vertical_alignment="center"):
        st.button(
            "Open the run",
            icon=":material/open_in_full:",
            on_click=state.set_run_id,
            args=(picked,),
            key="sweep_open",
        )
        navigation.link("compare", "Compare runs", icon=":material/compare:")
