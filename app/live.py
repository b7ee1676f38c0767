"""One run on the page: live while its worker is active, finished curves with intervals afterwards.

The live part is a fragment that ticks around a Vega-Lite chart, which does not remount; when the
run ends the page is drawn once more and nothing ticks. Accepted trade-off: a tick reads the run's
small files anew, so that there is no second copy of the truth; of its rows, which can be 100,000,
it reads those that are new, and curves of more steps than a screen has pixels are thinned.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import pandas as pd
import streamlit as st

from app import (
    charts,
    curves,
    doors,
    export_view,
    house,
    machine_view,
    replay,
    runs_view,
    state,
    ticks,
    wording,
)
from app.curves import Row
from trace_engine.config import UnlearnConfig, to_yaml
from trace_engine.errors import TraceError
from trace_engine.runs import RunDirectory, RunStatus

TICK_SECONDS = 1.0
LOSS_HEIGHT = 170
"""Pixels of one live loss panel: two beside the accuracy curve."""
MOST_LIVE, MOST_DRAWN = 600, 3000
"""Steps that are drawn at most: at every tick, and once the run has ended."""
WEIGHT_COLUMNS = {"ess_share": "effective sample share", "weighted_gap": "mean gap left"}


def show(run: RunDirectory, config: UnlearnConfig) -> None:
    """The run's head, then its live or its finished view."""
    if run.status().active:
        st.fragment(_tick, run_every=TICK_SECONDS)(run, config)
    else:
        _head(run, config, run.status())
        _finished(run, config)


def _tick(run: RunDirectory, config: UnlearnConfig) -> None:
    status = ticks.look(run.status)
    if not status.active:
        # The whole page is drawn once more, without this fragment: that is what ends the ticking.
        st.rerun(scope="app")
    with ticks.said():
        _live(run, config, status)


def _live(run: RunDirectory, config: UnlearnConfig, status: RunStatus) -> None:
    _head(run, config, status)
    seen = replay.followed(run).look()
    left, right = st.columns(2, gap="large")
    with left:
        judged = _judged(seen.evaluations, config)
        dotted = "" if judged.chance is None else f" (dotted: chance, {judged.chance:.3g})"
        st.markdown(f"**{judged.what}**{dotted}")
        waiting = "The first evaluation is on its way."
        if judged.frame["step"].nunique() == 1:
            sofar = curves.verdict(judged.frame, None)
            waiting = f"{sofar} The curve begins with the second evaluation."
        table = curves.wide(judged.frame)
        if len(table) < 2:
            st.caption(wording.plain(waiting))
        else:
            height = 290 + 20 * table.shape[1]
            _live_chart(table, judged.unit, judged.chance, height=height)
    with right:
        st.markdown("**Loss terms of the batch**")
        train = pd.DataFrame(seen.train)
        if len(train) < 2:
            st.caption("The first step is on its way.")
            return
        drawn, note = curves.thinned(train, MOST_LIVE)
        losses = drawn.set_index("step").rename(columns=curves.LOSS_COLUMNS)
        for name in curves.LOSS_COLUMNS.values():
            if name in losses:
                # A chart each: on one axis the larger loss would flatten the other.
                _live_chart(losses[[name]], name, height=LOSS_HEIGHT)
        if note:
            st.caption(note)


def _live_chart(
    table: pd.DataFrame, unit: str, chance: float | None = None, *, height: int
) -> None:
    st.vega_lite_chart(
        curves.live_data(table),
        curves.live_spec(table.columns, unit, chance),
        height=height,
        alt=f"{unit} over optimizer steps, live.",
    )


class _Judged(NamedTuple):
    """What a run is judged on."""

    frame: pd.DataFrame
    what: str
    unit: str
    """Short enough for an axis of the live chart."""
    chance: float | None
    """What guessing scores on the questions to be forgotten; None where it is not recorded."""


def _judged(rows: Sequence[Row], config: UnlearnConfig) -> _Judged:
    """Accuracies where the run has questions, else loss on documents."""
    frame = curves.accuracy_frame(rows, config.evaluation.forget_category)
    if not frame.empty or config.evaluation.questions is not None:
        chance = curves.chance_of(rows, config.evaluation.forget_category)
        return _Judged(frame, "Accuracy", curves.ACCURACY, chance)
    frame = curves.held_out_frame(rows)
    kind = "held-out" if frame.empty or curves.is_held_out(rows) else "training"
    return _Judged(frame, f"Loss on {kind} documents", "nats per token", None)


def _head(run: RunDirectory, config: UnlearnConfig, status: RunStatus) -> None:
    """State, progress, buttons, and what is known about the run before its first step."""
    name, buttons = st.columns([3, 2], vertical_alignment="center")
    with name:
        st.subheader(wording.plain(runs_view.label_of(run.id, config.name)))
        st.badge(
            runs_view.WORDS.get(status.state, status.state),
            icon=runs_view.ICONS.get(status.state),
            color=runs_view.COLOURS.get(status.state, "gray"),
        )
    with buttons, st.container(horizontal=True, horizontal_alignment="right"):
        _buttons(run, status)
    # The sentence may quote a file name or a label, so it is never read as Markdown.
    st.text(runs_view.state_sentence(status))
    if status.repeats:
        st.caption(runs_view.SAME_AGAIN)
    if status.active:
        progress = runs_view.progress_sentence(run.progress())
        share = status.step / status.max_steps if status.max_steps else 0.0
        st.progress(min(1.0, share), wording.plain(progress or "waiting for the worker"))
    for note in status.notes[-3:]:
        st.caption(wording.plain(note))
    found = runs_view.fact_sentences(run.facts())
    if found:
        st.markdown("\n".join(f"- {wording.plain(sentence)}" for sentence in found))
    elif status.active:
        st.caption(
            "Before the first step the worker checks whether the model knows the forget set at "
            "all; its answer appears here."
        )


def _buttons(run: RunDirectory, status: RunStatus) -> None:
    if status.active:
        st.button(
            "Stop the run",
            icon=":material/stop_circle:",
            key="run_stop",
            on_click=act,
            args=(doors.stop, run.id),
            help="Finishes the step, saves a checkpoint, and can be resumed.",
        )
    if status.resumable:
        st.button(
            "Resume the run",
            icon=":material/play_circle:",
            key="run_resume",
            type="secondary" if status.repeats else "primary",
            on_click=act,
            args=(doors.resume, run.id),
            help="Continues from the last complete checkpoint, as a new attempt with the same "
            "settings.",
        )
    st.button(
        "Close", icon=":material/close:", key="run_close", on_click=state.set_run_id, args=(None,)
    )


def act(action: Callable[[str], object], run_id: str) -> None:
    """Do something to a run; a refusal becomes a sentence above the page."""
    try:
        action(run_id)
    except TraceError as error:
        state.notice(str(error))


def resume_and_open(run_id: str) -> None:
    """Continue a run and put it in focus."""
    act(doors.resume, run_id)
    state.set_run_id(run_id)


def delete_and_close(run_id: str) -> None:
    """Delete a run, and take it out of focus if it was there."""
    act(doors.delete, run_id)
    if state.run_id() == run_id:
        state.set_run_id(None)


def _finished(run: RunDirectory, config: UnlearnConfig) -> None:
    seen = replay.followed(run).look()
    frame, what, unit, chance = _judged(seen.evaluations, config)
    if frame.empty:
        st.caption("No evaluation was recorded, so there is no curve.")
    elif frame["step"].nunique() == 1:
        sofar = curves.verdict(frame, chance)
        st.caption(wording.plain(f"{sofar} There is no second evaluation, so there is no curve."))
    else:
        measure = curves.ACCURACY if unit == curves.ACCURACY else "loss"
        saved = (run.facts().get("kept") or {}).get("step") if _keeps_best(config) else None
        told = frame if saved is None else frame[frame["step"] <= saved]
        charts.show(
            curves.curve_figure(
                frame,
                y_title=unit,
                chance=chance,
                saved=saved,
                heading=curves.finding(told, measure),
                y_range=(0.0, 1.02) if unit == curves.ACCURACY else None,
            ),
            name=f"run_{run.id}_{measure}",
            alt=f"{what} over optimizer steps with {wording.NINETY_FIVE} intervals. "
            f"{curves.verdict(told, chance)}",
            table=frame,
        )
    train = pd.DataFrame(seen.train)
    if train.empty:
        st.caption("No optimizer step was recorded, so there are no losses.")
    else:
        _steps(run, config, seen.evaluations, train)
    if run.status().state == "done" and run.model_folder() is not None:
        export_view.show(run, config)
    with st.expander("Settings of this run", icon=":material/description:"):
        text = house.shown(to_yaml(config))
        st.code(text, language="yaml")
        st.download_button(
            "config.yaml", text, file_name=f"{run.id}.yaml", on_click="ignore", key="run_config"
        )
    with st.expander("What happened and when", icon=":material/history:"):
        machine_view.log(run)
    if not house.rules().shared:
        # It may hold tracebacks with paths of this machine: for its owner, not for visitors.
        with st.expander("The worker's log", icon=":material/article:"):
            st.code("\n".join(run.log_tail()) or "The log is empty.", language=None)
    if seen.rows:
        recorded = f"{wording.count(seen.rows)} row{'s' if seen.rows > 1 else ''}"
        st.caption(f"{recorded} in metrics.jsonl; attempt {run.status().attempt}.")


def _keeps_best(config: UnlearnConfig) -> bool:
    return config.keep.which == "best"


def _steps(
    run: RunDirectory, config: UnlearnConfig, rows: Sequence[Row], train: pd.DataFrame
) -> None:
    """What the steps did: losses, routing drift, weights."""
    drawn, note = curves.thinned(train, MOST_DRAWN)
    left, right = st.columns(2, gap="large")
    with left:
        charts.show(
            curves.panel_figure(drawn, curves.LOSS_COLUMNS, "Loss terms of each batch"),
            name=f"run_{run.id}_training",
            alt="Forget and retain loss of each batch, each on an axis of its own; a gap is a step "
            f"without a finite value. {note}".strip(),
            table=train,
        )
    with right:
        drift = curves.drift_frame(rows)
        if drift["step"].nunique() > 1:
            charts.show(
                curves.drift_figure(drift, curves.drift_finding(drift)),
                name=f"run_{run.id}_drift",
                alt="Share of experts that are still chosen as in the start model, per layer.",
                table=drift,
            )
        else:
            st.caption("Routing drift was not measured after the start.")
    with st.expander("Weights during the run", icon=":material/balance:"):
        if config.weights.rule == "uniform":
            st.caption("This run was unweighted.")
        else:
            charts.show(
                curves.panel_figure(drawn, WEIGHT_COLUMNS, "Realised weights under live routing"),
                name=f"run_{run.id}_weights",
                alt="Effective sample share and mean gap left, per step, under the current "
                f"routing. {note}".strip(),
            )
