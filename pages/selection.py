"""Selection & weights: what will be calibrated, and how hard?"""

import streamlit as st

from app import (
    charts,
    forms,
    house,
    navigation,
    selection_controls,
    selection_summary,
    selection_view,
    state,
    tables,
    teaching,
    weights_view,
    wording,
)
from trace_engine.errors import TraceError

navigation.shell()
st.title("What will be calibrated, and how hard?")
st.markdown(
    "Choose the experts and the weights of retain tokens. Nothing runs here: it is a preview."
)
teaching.panel("selection")

view = state.current_profile()
if view is None:
    st.warning(wording.NO_PROFILE)
    st.stop()

selection, weights = state.selection_config(), state.weights_config()
refusal = None
try:
    chosen, weighed = selection_view.fitted(view, selection, weights)
except TraceError as error:
    refusal = str(error)
else:
    selection_summary.draw(view, chosen, weighed)

controls, preview = st.columns([1, 2], gap="large")
with controls:
    selection_controls.draw(view)
with preview:
    if refusal is not None:
        st.error(wording.plain(refusal), icon=":material/error:")
        st.caption("Nothing is previewed until the settings can be met; they are kept as they are.")
        st.stop()
    cells, fit = tuple(chosen.cells), weighed.fitted
    charts.show(
        charts.expert_map(selection_view.map_spec(view, cells, state.cell())),
        name="selection_map",
        alt=f"Difference map with {len(cells)} selected experts outlined. Click a cell to look at "
        "it.",
        table=selection_view.selection_table(chosen),
        on_click=selection_controls.on_map_click,
    )
    selection_controls.hand_picks(view, cells)

    if cells:
        charts.show(
            weights_view.dumbbell_figure(fit.table, weights_view.dumbbell_heading(fit)),
            name="retain_frequency",
            alt="Per selected expert, the share of retain tokens that use it before and after the "
            "weights, with the target and the forget side.",
            table=selection_view.weights_table(weighed),
        )
    charts.show(
        weights_view.histogram_figure(
            weights_view.histogram_frame(fit.histogram.edges_B, fit.histogram.counts_B),
            weights_view.histogram_heading(fit),
        ),
        name="weight_histogram",
        alt="Retain tokens by weight, both axes logarithmic.",
        table=weights_view.histogram_frame(fit.histogram.edges_B, fit.histogram.counts_B),
    )
    with st.expander("Selected experts in numbers", icon=":material/table:"):
        tables.show(
            selection_view.weights_table(weighed),
            "selected_experts",
            alt="One line per selected expert: forget, retain before and after, target, residual.",
            column_config={
                name: st.column_config.NumberColumn(format="%.2f")
                for name in selection_view.weights_table(weighed).columns
                if "%" in name or "pp" in name
            },
        )
    with st.expander(
        "The same in a file, on the command line, in Python", icon=":material/terminal:"
    ):
        folder = house.shown(str(view.path))
        place = folder if view.key in (state.BUNDLED, state.SAME_STYLE) else view.key
        text = forms.settings_yaml(("selection", selection), ("weights", weights))
        st.code(text, language="yaml")
        st.download_button(
            "settings.yaml", text, file_name="selection-and-weights.yaml", on_click="ignore"
        )
        st.code(
            forms.select_command(place, selection)
            + "\n"
            + forms.weights_command(place, selection, weights),
            language="bash",
        )
        st.code(forms.weights_python(folder, selection, weights), language="python")
