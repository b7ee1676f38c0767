"""Where do they differ? Every expert of every layer, forget against retain, with its controls."""

import streamlit as st

from app import charts, findings, maps, navigation, state, tables, teaching, wording

VIEWS: dict[maps.View, str] = {
    "difference": "Difference",
    "ratio": "Ratio",
    "forget": "Forget",
    "retain": "Retain",
}
ORDERS: dict[maps.Order, str] = {"index": "Index", "gap": "Gap", "cluster": "Cluster"}
CONTROLS: dict[maps.Control, str] = {
    "measured": "Measured",
    "null": "Random split",
    "matched": "Token-matched",
}
CONTROL_HELP = {
    "measured": "The two sets as they are.",
    "null": "Documents of both sets shuffled into two random sets of the same sizes: what no "
    "difference looks like, on the measured map's colour scale.",
    "matched": "Retain tokens re-drawn so that both sides have the same words: what is left of the "
    "gap when word identity can't explain it, on the measured map's colour scale.",
}

navigation.shell()
st.title("Where do they differ?")
teaching.panel("routing_map")
view = navigation.profile()

row = st.container(horizontal=True, gap="medium", vertical_alignment="bottom")
with row.container(width="content"):
    state.bound("view", "difference", VIEWS)
    what = st.segmented_control(
        "Show", list(VIEWS), format_func=VIEWS.get, key="view", required=True
    )
with row.container(width="content"):
    state.bound("order", "index", ORDERS)
    order = st.segmented_control(
        "Sort experts in their layer by",
        list(ORDERS),
        format_func=ORDERS.get,
        key="order",
        required=True,
        help="Cluster puts experts side by side that the same tokens use together.",
    )
with row.container(width="content"):
    allowed = [name for name in CONTROLS if maps.has_control(what, name)]
    state.bound("control", "measured", allowed)
    control = st.segmented_control(
        "Control",
        allowed,
        format_func=CONTROLS.get,
        key="control",
        required=True,
        help="A gap that also shows up in the random split is noise; one that vanishes when words "
        "are matched follows the words.",
        disabled=len(allowed) == 1,
    )
state.bound("marks", True, (True, False))
marks = row.toggle("Mark significance", key="marks", help=f"A dot: {findings.DOTS}.")

cell = state.cell() or state.strongest_cell(view)
facts = findings.cell_facts(view, cell)
spec = maps.map_spec(
    view,
    what=what,
    control=control,
    order=order,
    current=maps.outlined(view, cell),
    selected=findings.selected_cells(view),
    marks=marks,
)
charts.show(
    charts.expert_map(spec),
    name="routing_map",
    alt=maps.describe(view, what, control),
    table=maps.table(view),
    on_click=lambda: maps.on_click("routing_map"),
    caption=" ".join(
        [
            maps.describe(view, what, control),
            CONTROL_HELP[control],
            maps.colours(what),
            maps.legend(view),
        ]
    ),
)
for note in view.mismatch.notes:
    st.caption(f":material/info: {wording.plain(note)}")

left, right = st.columns([2, 3], gap="large")
with left:
    st.subheader("The cell in focus")
    maps.cell_fields(view, cell)
    st.markdown(findings.sentence(facts))
    st.caption(maps.controls_sentence(view, cell))
    if st.button("Read its words", icon=":material/search:"):
        navigation.go("expert")
    st.caption(wording.ONLY_ACTIVATION)
with right:
    st.subheader("All cells")
    tables.show(
        maps.screen_table(view),
        "cells",
        alt="One row per expert: layer, expert, forget and retain share, gap with interval, ratio, "
        "p, q, and the two controls.",
        column_config=maps.columns(),
        height=360,
        download=maps.table(view),
    )
