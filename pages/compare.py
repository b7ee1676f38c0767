"""Compare: which setting won, and why?"""

import streamlit as st

from app import (
    bench_view,
    charts,
    compare_view,
    judged,
    navigation,
    pareto,
    prompts_view,
    state,
    tables,
    teaching,
    traps,
    wording,
)
from trace_engine.errors import TraceError

navigation.shell()
st.title("Which setting won, and why?")
teaching.panel("compare")


def compare_runs() -> None:
    """Runs of this machine and the bundled ones, side by side."""
    offered, skipped = compare_view.offered()
    names = pareto.distinct(offered)
    picked = []
    if names:
        compare_view.pick(list(names))
        picked = st.multiselect(
            "Runs", list(names), format_func=lambda key: names[key], key="compare_runs"
        )
    chosen, unread = compare_view.read({key: name for key, name in names.items() if key in picked})
    for sentence in [*skipped, *unread]:
        st.warning(wording.plain(sentence), icon=":material/warning:")
    if not names:
        st.info(
            "There is nothing to compare yet: no run on this machine has been evaluated, and this "
            "checkout has no bundled run. Launch one on Unlearn.",
            icon=":material/info:",
        )
        return
    if not chosen:
        st.info("Choose at least one run.")
        return

    points = compare_view.points(chosen)
    labels = [point.label for point in points]
    group = compare_view.choose_group(chosen)
    like = {run.id for run in group}
    on_front = [point for point in points if point.key in like]
    reference, sentence = compare_view.reference_point(group, compare_view.read_scores())
    shown = on_front if reference is None else [*on_front, reference]
    compared = compare_view.table(chosen, points, group)

    st.markdown(f"**{wording.plain(pareto.finding(on_front))}**")
    missing = compare_view.left_out(group, chosen, {point.key: point.label for point in points})
    if missing:
        st.info(missing, icon=":material/info:")
    if any(point.forget.known and point.utility.known for point in on_front):
        state.bound("compare_paths", False, (False, True))
        paths = st.toggle("Show each run's path", key="compare_paths")
        samples = (
            " These runs were asked different samples of the same questions, equally many per "
            "group."
            if judged.other_samples(group)
            else ""
        )
        charts.show(
            pareto.pareto_figure(
                shown,
                chance=compare_view.chance_of(group),
                paths=paths,
                heading=f"Forgotten against kept, with {wording.NINETY_FIVE} intervals",
            ),
            name="pareto",
            alt="Forget accuracy against utility accuracy, one point per run, with "
            f"{wording.NINETY_FIVE} intervals.",
            table=compared[compared["front"] != "left out"],
            caption=f"{sentence} A ring marks the Pareto front.{samples}",
        )
    else:
        st.caption(
            "No chosen run has question groups; their held-out losses are in the final figures."
        )
    tables.show(
        compared,
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
            tables.show(
                differing, "settings_differ", alt="Settings that are not the same in all runs."
            )

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
    with_maps = compare_view.with_maps_first(chosen)
    state.bound("compare_focus", with_maps[0], with_maps)
    focus = st.selectbox(
        "Routing maps of",
        with_maps,
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
            traps.small_maps(
                maps_LE, ["Before", "After (same scale)"], pair[0].layers, [limit, limit]
            ),
            name="routing_before_after",
            alt="Difference maps of the start model and of the unlearned model on one scale.",
            caption=compare_view.map_change(*pair),
        )

    st.subheader("The same questions, side by side")
    prompts_view.draw(chosen, labels)


compare_runs()
bench_view.draw()
