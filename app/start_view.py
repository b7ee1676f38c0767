"""The parts of the Start page: the words behind a cell, the style control, the 60-second path.

The page tells one story in the order in which a person reads it. Accepted trade-off: everything is
on one page, so the parts after the map are kept short.
"""

import pandas as pd
import streamlit as st

from app import charts, expert_view, findings, maps, navigation, state, wording
from app.theme import palette
from trace_engine.config import Cell
from trace_engine.routing import gap_kept, same_style_gaps

STEPS = (
    ("Look at the map.", "Forget text uses orange cells more, retain text blue ones.", ""),
    ("Click the strongest cell.", "The words that go to that expert appear under the map.", ""),
    ("Read them.", "See what the tokens have in common, and what they don't.", "expert"),
    ("Move top-k.", "Watch which experts are selected, and how retain tokens get weighted.",
     "selection"),
    ("Unlearn.", "Forgetting should fall to chance while utility holds.", "unlearn"),
    ("Compare.", "Which setting won, and was the knowledge erased or only re-routed?", "compare"),
)  # fmt: skip


def label(view: state.ProfileView) -> None:
    """Which model and sets these numbers are about, and the way to one's own."""
    left, right = st.columns([3, 1], vertical_alignment="center")
    with left:
        if view.key == state.BUNDLED:
            st.badge("Bundled example, precomputed", icon=":material/inventory_2:", color="gray")
        st.text(
            f"{findings.model_name(view.profile.meta)} · forget: {view.forget_name} · "
            f"retain: {view.retain_name}"
        )
    own = view.key not in (state.BUNDLED, state.SAME_STYLE)
    if right.button(
        "Use other data" if own else "Use my own data",
        type="primary",
        icon=":material/upload:",
        width="stretch",
    ):
        navigation.go("data_model")


def words_behind(view: state.ProfileView, cell: Cell) -> None:
    """Tokens in context of the cell in focus, with number fields as the keyboard's path."""
    st.subheader(f"The words behind layer {cell.layer}, expert {cell.expert}")
    left, right = st.columns([2, 1], vertical_alignment="bottom")
    with left:
        maps.cell_fields(view, cell)
    if right.button("Open this expert", icon=":material/search:", width="stretch"):
        navigation.go("expert")
    st.markdown(findings.sentence(findings.cell_facts(view, cell)))
    expert_view.both_sides(view, cell, n=5, key="start", window=8)


def same_style(view: state.ProfileView) -> None:
    """How much of the gap remains when retain text has the forget text's style."""
    if view.key != state.BUNDLED:
        return
    other = state.open_profile(state.SAME_STYLE)
    if other is None or other.profile.layers != view.profile.layers:
        return
    st.subheader("Style or subject?")
    table = style_table(view, other)
    kept = gap_kept(table)
    colours = palette()
    sentence = (
        f"Against {other.retain_name}, text of the forget set's own style, the {len(table)} "
        f"strongest cells keep {wording.percent(kept, 0)} of their summed gap. The rest goes away "
        "when both sides are written alike."
    )
    charts.show(
        charts.share_bars(
            table,
            label="name",
            series={
                f"against {view.retain_name}": ("gap", colours.forget),
                f"against {other.retain_name}": ("same_style", colours.neutral),
            },
            heading=f"In the same style, {wording.percent(kept, 0)} of the gap remains",
            unit="pp",
            axis="gap, forget minus retain (pp)",
        ),
        name="same_style",
        alt=sentence,
        table=table,
        caption=f"{sentence} Bars: {wording.NINETY_FIVE} intervals over documents. n = "
        f"{wording.count(view.profile.forget.tokens)} forget, "
        f"{wording.count(view.profile.retain.tokens)} and "
        f"{wording.count(other.profile.retain.tokens)} retain tokens.",
    )


def style_table(view: state.ProfileView, other: state.ProfileView) -> pd.DataFrame:
    """The engine's style control in points, with the cells' names."""
    table = same_style_gaps(view.mismatch, other.mismatch)
    gaps = [name for name in table.columns if name not in ("layer", "expert")]
    table[gaps] *= 100
    names = [state.cell_name(at) for at in zip(table["layer"], table["expert"], strict=True)]
    table.insert(0, "name", names)
    return table


def steps() -> None:
    """The 60-second path."""
    st.subheader("The 60-second path")
    for number, (what, why, page) in enumerate(STEPS, start=1):
        left, right = st.columns([4, 1], vertical_alignment="center")
        left.markdown(f"{number}. **{what}** {why}")
        with right:
            if page:
                navigation.link(page, "Go there", icon=":material/arrow_forward:")
            else:
                st.caption("above, on this page")
