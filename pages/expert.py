"""What goes to this expert? Its numbers, its tokens, its partners, and words in context."""

import streamlit as st

from app import charts, expert_view, findings, maps, navigation, state, teaching, wording

EXAMPLES = (5, 10, 20, 40)
ORDERS: dict[expert_view.Order, str] = {"random": "At random", "gate": "Largest gate weight"}

navigation.shell()
st.title("What goes to this expert?")
teaching.panel("expert")
view = navigation.profile()

cell = state.cell() or state.strongest_cell(view)
facts = findings.cell_facts(view, cell)

fields, buttons = st.columns([2, 3], vertical_alignment="bottom")
with fields:
    maps.cell_fields(view, cell)
with buttons:
    expert_view.step_buttons(view, cell)

st.subheader(f"Layer {cell.layer}, expert {cell.expert}")
expert_view.metrics(view, facts)
st.caption(
    f"{wording.p_value(facts.p, facts.permutations)} over all cells. "
    f"{maps.controls_sentence(view, cell)} {wording.ONLY_ACTIVATION}"
)
expert_view.selection_buttons(view, cell)

st.subheader("Tokens in context")
left, right = st.columns(2)
with left:
    state.bound("examples", 10, EXAMPLES)
    shown = st.segmented_control("Examples per side", EXAMPLES, key="examples", required=True)
with right:
    state.bound("picked", "random", ORDERS)
    order = st.segmented_control(
        "Picked",
        list(ORDERS),
        format_func=ORDERS.get,
        key="picked",
        required=True,
        help="At random shows what the expert usually gets; the largest gate weights show where "
        "the router is surest. One token of every document comes before a second of any.",
    )
expert_view.both_sides(view, cell, n=shown, key="expert", window=12, order=order)

expert_view.top_tokens(view, cell)
expert_view.partners(view, cell)

st.subheader("The rest of its layer")
figure, table, sentence = expert_view.layer_figure(view, cell)
charts.show(figure, name="layer_shares", alt=sentence, table=table)
