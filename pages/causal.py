"""What hangs on an expert? Ablations beside activation, and erased or re-routed."""

import streamlit as st

from app import (
    causal_forms,
    causal_job,
    causal_view,
    charts,
    forms,
    maps,
    navigation,
    state,
    tables,
    teaching,
    unlearn_form,
    wording,
)
from app.theme import palette
from trace_engine.causal.agreement import agreement
from trace_engine.causal.rerouted_results import Rerouted
from trace_engine.causal.results import Ablation, Scan

navigation.shell()
st.title("What hangs on an expert?")
st.markdown(
    "Activation shows which experts forget text uses. Here experts are **taken out** and the same "
    "questions asked again: what then gets worse hung on them."
)
teaching.panel("causal")
view = navigation.profile()
base, why_not = unlearn_form.base_settings(view)
if base is None:
    st.info(wording.plain(why_not or ""), icon=":material/info:")
    st.stop()
asked = causal_forms.questions(base)
if asked is None:
    st.info("Name a file of questions first.", icon=":material/info:")
    st.stop()
cell = state.cell() or state.strongest_cell(view)

st.subheader("Every expert by itself")
scanned = causal_forms.config(view, base, asked, "scan")
result = causal_job.show(
    scanned,
    key="scan",
    label="Take out every expert, one at a time",
    cost="About two minutes for the bundled model; it can be stopped and goes on where it was.",
)
if result is not None:
    scan = Scan.from_dict(result)
    state.bound("causal_measure", "specific", causal_view.MEASURES)
    measure = st.segmented_control(
        "Harm to",
        list(causal_view.MEASURES),
        format_func=causal_view.MEASURES.get,
        key="causal_measure",
        required=True,
        help="Forget beyond utility is what an expert of the forget set's knowledge would show.",
    )
    shown = maps.outlined(view, cell)
    spec = causal_view.effect_map(view, scan, measure, shown)
    charts.show(
        charts.expert_map(spec),
        name="attribution_map",
        alt="Rise of the right answers' loss without each expert: "
        f"{causal_view.MEASURES[measure].lower()}.",
        table=scan.table(),
        on_click=lambda: maps.on_click("attribution_map"),
        caption=f"{causal_view.GROUP_NOTE} n = {scan.cells[0].forget.n} forget, "
        f"{scan.cells[0].utility.n} utility questions. Dot: corrected p < 0.05. Click a cell.",
    )
    charts.show(
        charts.expert_map(maps.map_spec(view, current=shown)),
        name="activation_map",
        alt=maps.describe(view, "difference", "measured"),
        table=maps.table(view),
        on_click=lambda: maps.on_click("activation_map"),
        caption=f"Activation, for comparison. {maps.COLOURS}",
    )
    maps.cell_fields(view, cell)
    measured = [found for found in scan.cells if found.cell == cell]
    if measured:
        st.markdown(wording.plain(causal_view.cell_sentence(measured[0], scan)))
    compared = agreement(scan, view.mismatch)
    left, right = st.columns(2, gap="large")
    with left:
        charts.show(
            causal_view.agreement_figure(compared),
            name="agreement",
            alt=compared.sentence,
        )
    with right:
        st.markdown("**Where the two disagree most**")
        tables.show(
            causal_view.disagreement_table(compared),
            "disagreement",
            alt="Experts whose ranks by activation gap and by ablation effect differ most.",
            column_config=tables.numbers("gap (pp)", "effect (nats)"),
            download=causal_view.disagreement_table(compared, len(compared.cells)),
        )
    st.caption(
        "No effect of one expert does not show that nothing is in it: others may stand in. Take "
        "out several together below."
    )
forms.from_the_command_line(causal_forms.command(scanned))

st.subheader("Several experts together")
chosen = causal_forms.cells(view, cell)
state.bound("causal_order", "none", causal_forms.ORDERS)
order = st.segmented_control(
    "One after the other",
    list(causal_forms.ORDERS),
    format_func=causal_forms.ORDERS.get,
    key="causal_order",
    required=True,
)
together = causal_forms.config(view, base, asked, "ablate", cells=chosen, order=order)
result = causal_job.show(
    together,
    key="set",
    label="Take them out, and random ones",
    cost="The set and 20 random sets nearest in load: about a minute for the bundled model.",
)
if result is not None:
    ablated = Ablation.from_dict(result)
    st.markdown(wording.plain(ablated.sentence))
    tables.show(
        causal_view.effects_table(ablated.effects),
        "ablation",
        alt="One line a group of questions: accuracy and loss without the experts.",
    )
    st.caption(causal_view.TOGETHER_NOTE)
    if ablated.loads is not None:
        st.markdown("**Beside random experts**")
        tables.show(
            causal_view.band_table(ablated),
            "random_experts",
            alt="One line a figure: this set, and the range of random sets.",
            column_config=tables.numbers("this set", "random, 2.5 %", "random, 97.5 %", "p"),
        )
        st.caption(
            f"Random sets: {ablated.loads.sentence}. Load: {ablated.load_source}. Where too few "
            "carry as much, the nearest are taken; heavier sets do more harm."
        )
    if ablated.order is not None:
        tables.show(
            causal_view.order_table(ablated),
            "order",
            alt="One line a step: what is left once this expert is out too.",
            column_config=tables.numbers(
                "forget accuracy", "forget loss", "utility accuracy", "utility loss"
            ),
        )
forms.from_the_command_line(causal_forms.command(together, chosen))

st.subheader("Erased, or re-routed?")
two = causal_forms.pair(base)
if two is None:
    st.info("Name the new model.", icon=":material/info:")
    st.stop()
new, reference = two
pair = causal_forms.config(
    view, base, asked, "rerouted", before=base.model, model=new, reference=reference
)
result = causal_job.show(
    pair,
    key="pair",
    label="Compare the two models",
    cost="Four tests, two to three models opened: about two minutes for the bundled model.",
)
if result is not None:
    rerouted = Rerouted.from_dict(result)
    for name, sentence in rerouted.sentences.items():
        st.markdown(f"**{causal_view.TITLES[name]}** {wording.plain(sentence)}")
    overlap = causal_view.overlap_table(rerouted)
    colours = palette()
    charts.show(
        charts.share_bars(
            overlap,
            label="layer",
            series={
                "forget questions": ("forget", colours.forget),
                "other questions": ("utility", colours.retain),
            },
            heading="Share of their experts that the same tokens kept",
            unit="%",
            axis="experts kept (%)",
        ),
        name="overlap",
        alt=rerouted.overlap.sentence,
        table=overlap,
    )
    if rerouted.probing.layers:
        tables.show(
            causal_view.probe_table(rerouted),
            "probe",
            alt="One line a layer: accuracy of the probe on each model and on shuffled answers.",
            column_config=tables.numbers("shuffled answers", "shuffled, 95 %"),
        )
forms.from_the_command_line(causal_forms.command(pair))
