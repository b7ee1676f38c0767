"""Compare: which setting won, and why?"""

import dataclasses

import streamlit as st

from app import (
    charts,
    compare_view,
    navigation,
    pareto,
    prompts_view,
    tables,
    teaching,
    traps,
    wording,
)
from trace_engine.errors import TraceError

navigation.shell()
st.title("Which setting won, and why?")
teaching.panel("compare")

found, skipped = compare_view.stored_runs()
for sentence in skipped:
    st.warning(wording.plain(sentence), icon=":material/warning:")
if not found:
    st.info(
        "There is nothing to compare yet: no run on this machine has been evaluated, and this "
        "checkout has no bundled run. Launch one on Unlearn.",
        icon=":material/info:",
    )
    st.stop()

names = pareto.distinct({run.id: run.label for run in found})
found = [dataclasses.replace(run, label=names[run.id]) for run in found]
if not set(st.session_state.get("compare_runs", ())) <= set(names):
    del st.session_state["compare_runs"]
st.session_state.setdefault("compare_runs", list(names)[:6])
picked = st.multiselect("Runs", list(names), format_func=lambda key: names[key], key="compare_runs")
chosen = [run for run in found if run.id in picked]
if not chosen:
    st.info("Choose at least one run.")
    st.stop()

points = compare_view.points(chosen)
labels = [point.label for point in points]
reference, sentence = compare_view.reference_point(chosen, compare_view.read_scores())
shown = points if reference is None else [*points, reference]

st.markdown(f"**{wording.plain(pareto.finding(points))}**")
if any(point.forget.known and point.utility.known for point in points):
    paths = st.toggle("Show each run's path", key="compare_paths")
    charts.show(
        pareto.pareto_figure(
            shown,
            chance=compare_view.chance_of(chosen),
            paths=paths,
            heading=f"Forgotten against kept, with {wording.NINETY_FIVE} intervals",
        ),
        name="pareto",
        alt="Forget accuracy against utility accuracy, one point per run, with "
        f"{wording.NINETY_FIVE} intervals.",
        table=compare_view.table(chosen, points),
        caption=f"{sentence} A ring marks the Pareto front.",
    )
else:
    st.caption("No chosen run has question groups; their held-out losses are in the final figures.")
tables.show(
    compare_view.table(chosen, points),
    "runs_compared",
    alt="One line per run: settings, final forget and utility accuracy with intervals and n.",
    column_config=tables.numbers("forget", "utility"),
    missing="not measured",
)

st.subheader("What differs in the settings")
if len(chosen) < 2:
    st.caption("One run differs from nothing: choose a second one.")
else:
    differing = compare_view.differences(chosen, labels)
    if differing.empty:
        st.caption("Nothing but their labels: these runs answer the same question.")
    else:
        tables.show(differing, "settings_differ", alt="Settings that are not the same in all runs.")

st.subheader("Final figures by group")
final = pareto.final_frame(
    {
        label: (run.rows, run.config.evaluation.forget_category)
        for run, label in zip(chosen, labels, strict=True)
    }
)
tables.show(
    final,
    "final_figures",
    alt="Final accuracy, or loss, per run and group with interval and n.",
    column_config=tables.numbers("value", "low", "high"),
    missing="not measured",
)

st.subheader("Erased, or re-routed?")
drift = compare_view.final_drift(chosen, labels)
if drift.empty:
    st.caption("No chosen run has measured its routing drift.")
else:
    charts.show(
        compare_view.drift_bars(drift),
        name="drift_per_layer",
        alt="Share of experts unchanged at the last evaluation, per layer and run.",
        table=drift,
    )
focus = st.selectbox(
    "Routing maps of",
    compare_view.with_maps_first(chosen),
    format_func=lambda key: names[key],
    key="compare_focus",
)
run = next(run for run in chosen if run.id == focus)
try:
    pair = compare_view.routing_profiles(run)
except TraceError as error:
    pair = None
    st.warning(wording.plain(str(error)), icon=":material/warning:")
if pair is None:
    st.caption("Not recorded: only a finished run has a profile of the changed model.")
else:
    maps_LE = [compare_view.difference_LE(profile) for profile in pair]
    limit = 100 * max(charts.symmetric_limit(values) for values in maps_LE)
    charts.show(
        traps.small_maps(maps_LE, ["Before", "After (same scale)"], pair[0].layers, [limit, limit]),
        name="routing_before_after",
        alt="Difference maps of the start model and of the unlearned model on one scale.",
        caption=compare_view.map_change(*pair),
    )

st.subheader("The same questions, side by side")
prompts_view.draw(chosen, labels)
