"""What is routing mismatch? The bundled model's difference map, and the words behind its cells."""

import streamlit as st

from app import (
    charts,
    expert_view,
    findings,
    maps,
    navigation,
    start_view,
    state,
    teaching,
    wording,
)

navigation.shell()
st.title("Which experts does the forget text use?")
st.markdown(
    "**Routing mismatch:** forget text sends its tokens to a few experts far more often than "
    "retain text does. During unlearning these experts get much pressure to forget and little "
    "that holds them in place."
)
teaching.panel("start")
view = navigation.profile()

cell = state.cell() or state.strongest_cell(view)
strongest = findings.cell_facts(view, state.strongest_cell(view))
start_view.label(view)
expert_view.metrics(view, strongest)
charts.show(
    charts.expert_map(
        maps.map_spec(
            view, current=maps.outlined(view, cell), selected=findings.selected_cells(view)
        )
    ),
    name="start_map",
    alt=findings.sentence(strongest),
    table=maps.table(view),
    on_click=lambda: maps.on_click("start_map"),
    caption=f"{findings.sentence(strongest)} {maps.COLOURS} {maps.legend(view)} "
    f"{wording.ONLY_ACTIVATION}",
)
for note in view.mismatch.notes:
    st.caption(f":material/info: {wording.plain(note)}")

start_view.words_behind(view, cell)
start_view.same_style(view)
start_view.steps()
