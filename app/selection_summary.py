"""The head of Selection & weights: one sentence, four figures, and what the settings cannot do.

Drawn above settings and charts, so that a moved slider is answered where the eye already is.
Accepted trade-off: the parameter count is for training only the selected experts; other choices are
on Unlearn.
"""

import streamlit as st

from app import selection_view, state, weights_view, wording
from trace_engine.calibration import Selection, WeightPreview
from trace_engine.config import TrainableConfig


def draw(view: state.ProfileView, chosen: Selection, weighed: WeightPreview) -> None:
    """Headline, figures, warnings, remarks."""
    fit, cells = weighed.fitted, tuple(chosen.cells)
    figure, sentence = selection_view.training_sentence(
        view.profile.meta, cells, TrainableConfig(kind="selected_experts")
    )
    st.markdown(
        f"**{wording.plain(selection_view.selection_headline(view, chosen))}** "
        f"{weights_view.headline(fit)}"
    )
    first, second, third, fourth = st.columns(4)
    first.metric(
        "Selected experts", f"{len(cells)} / {selection_view.total_cells(view)}", border=True
    )
    second.metric(
        "Their parameters",
        figure,
        border=True,
        help=f"If only the selected experts train: {sentence}",
    )
    third.metric(
        "Effective sample",
        wording.percent(fit.diagnostics["ess_share"], 0),
        border=True,
        help="(Σw)²/Σw² over the number of retain tokens: what the weights leave of the data.",
    )
    fourth.metric(
        "Largest weight",
        f"{fit.diagnostics['max_weight']:.2f}",
        border=True,
        help=f"Mean weight {fit.diagnostics['mean_weight']:.3f}; κ in use {fit.hardness:.2f}.",
    )
    for trouble in weights_view.troubles(fit):
        st.warning(wording.plain(trouble), icon=":material/warning:")
    notes = [*chosen.notes, *weights_view.remarks(fit), selection_view.side_effect(weighed)]
    st.caption(wording.plain(" ".join(notes)))
