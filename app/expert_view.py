"""What is known about one expert, laid out: shares, top tokens, partners, words in context.

Start shows the short form under its map, the Expert page the long one; both read the same card.
Accepted trade-off: cards and contexts are kept in a small cache keyed by the profile, because a
click should answer within half a second.
"""

from collections.abc import Sequence
from typing import Literal

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from app import charts, findings, state, tables, wording, words
from app.theme import palette
from trace_engine.config import Cell
from trace_engine.routing import Context, ExpertCard, TopToken, contexts, expert_card

Order = Literal["random", "gate"]


@st.cache_resource(max_entries=256, show_spinner=False)
def _card(path: str, identity: int, cell: Cell, _view: state.ProfileView) -> ExpertCard:
    return expert_card(_view.profile, cell)


@st.cache_resource(max_entries=512, show_spinner=False)
def _contexts(
    path: str,
    identity: int,
    cell: Cell,
    side: str,
    n: int,
    window: int,
    order: Order,
    _view: state.ProfileView,
) -> list[Context]:
    return contexts(_view.profile, cell, side, n=n, window=window, order=order)


def card(view: state.ProfileView, cell: Cell) -> ExpertCard:
    """The expert's card, cached."""
    return _card(str(view.path), id(view.profile), cell, view)


def contexts_of(
    view: state.ProfileView,
    cell: Cell,
    side: str,
    n: int,
    window: int = 10,
    order: Order = "random",
) -> list[Context]:
    """Tokens in context for one side, cached."""
    return _contexts(str(view.path), id(view.profile), cell, side, n, window, order, view)


def metrics(view: state.ProfileView, facts: findings.CellFacts) -> None:
    """Forget share, retain share, gap and ratio, each with its n or its interval."""
    name = state.cell_name(facts.cell)
    with st.container(horizontal=True, gap="small"):
        for label, value, under, more in (
            (
                f"Forget tokens to {name}",
                wording.percent(facts.forget),
                f"n = {wording.count(facts.forget_tokens)} tokens",
                f"{wording.count(facts.forget_count)} of {wording.count(facts.forget_tokens)} "
                f"tokens in {facts.forget_documents} documents of {view.forget_name}.",
            ),
            (
                f"Retain tokens to {name}",
                wording.percent(facts.retain),
                f"n = {wording.count(facts.retain_tokens)} tokens",
                f"{wording.count(facts.retain_count)} of {wording.count(facts.retain_tokens)} "
                f"tokens in {facts.retain_documents} documents of {view.retain_name}.",
            ),
            (
                "Gap",
                wording.points(facts.difference),
                wording.interval(facts.low, facts.high),
                "Forget share minus retain share, in percentage points; documents are resampled.",
            ),
            (
                "Ratio",
                wording.ratio(facts.ratio),
                wording.interval(facts.ratio_low, facts.ratio_high, scale=1),
                "Forget share over retain share, with half a token added to both.",
            ),
        ):
            with st.container(width=165, gap=None):
                st.metric(label, value, help=wording.plain(more))
                st.caption(under)


def both_sides(
    view: state.ProfileView,
    cell: Cell,
    n: int,
    key: str,
    window: int = 10,
    order: Order = "random",
) -> None:
    """Forget and retain contexts side by side, behind the reveal where it applies."""
    if not words.revealed(view, key):
        return
    left, right = st.columns(2, gap="large")
    for column, side, name in (
        (left, "forget", view.forget_name),
        (right, "retain", view.retain_name),
    ):
        with column:
            st.markdown(f"**{side.capitalize()} tokens**")
            words.show_contexts(contexts_of(view, cell, side, n, window, order), side, name)
            words.legend(side)


def step_buttons(view: state.ProfileView, cell: Cell) -> None:
    """Previous and next expert, and the strongest; the order is by layer, then index."""
    cells = all_cells(view)
    place = cells.index(cell)
    row = st.container(horizontal=True)
    row.button(
        "Previous",
        icon=":material/chevron_left:",
        disabled=place == 0,
        on_click=state.set_cell,
        args=(cells[max(0, place - 1)],),
    )
    row.button(
        "Next",
        icon=":material/chevron_right:",
        icon_position="right",
        disabled=place == len(cells) - 1,
        on_click=state.set_cell,
        args=(cells[min(len(cells) - 1, place + 1)],),
    )
    row.button(
        "Strongest",
        icon=":material/north_east:",
        on_click=state.set_cell,
        args=(state.strongest_cell(view),),
    )


def all_cells(view: state.ProfileView) -> list[Cell]:
    """Every expert of the model by layer, then index; a layer with several sites counts once."""
    cells = {
        Cell(layer, expert)
        for layer, experts in zip(view.profile.layers, view.profile.num_experts_L, strict=True)
        for expert in range(experts)
    }
    return sorted(cells)


def selection_buttons(view: state.ProfileView, cell: Cell) -> None:
    """Pin the expert to the selection or leave it out, by hand."""
    config = state.selection_config()
    selected = cell in findings.selected_cells(view)
    by_hand = cell in config.add or cell in config.remove
    why = "by hand" if by_hand else "by the rule"
    with st.container(horizontal=True, vertical_alignment="center"):
        st.badge(
            f"{'Selected' if selected else 'Not selected'} {why}",
            icon=":material/check:" if selected else ":material/remove:",
            color="green" if selected else "gray",
        )
        if cell not in config.add:
            st.button(
                "Pin to selection",
                icon=":material/push_pin:",
                on_click=state.pin,
                args=(cell,),
                key="pin",
            )
        if cell not in config.remove:
            st.button(
                "Leave out",
                icon=":material/block:",
                on_click=state.leave_out,
                args=(cell,),
                key="leave_out",
            )
        if by_hand:
            st.button(
                "Back to the rule",
                icon=":material/undo:",
                on_click=state.unpick,
                args=(cell,),
                key="unpick",
            )


def top_tokens(view: state.ProfileView, cell: Cell) -> None:
    """Tokens that the expert receives beyond expectation, per side."""
    st.subheader("Tokens beyond expectation")
    if not words.may_show(view):
        st.caption("Hidden like the words above, until you reveal the text.")
        return
    facts = card(view, cell)
    for column, side, tokens in zip(
        st.columns(2, gap="large"),
        ("forget", "retain"),
        (facts.top_forget, facts.top_retain),
        strict=True,
    ):
        with column:
            st.markdown(f"**{side.capitalize()} side**")
            if not tokens:
                st.caption("No token goes here more often than its share explains.")
                continue
            tables.show(
                token_table(tokens),
                f"top_tokens_{side}",
                alt=f"{side} tokens routed to {state.cell_name(cell)} beyond expectation: token, "
                "how often routed here, how often seen, expected, z.",
                column_config={
                    "token": "Token",
                    "routed": st.column_config.NumberColumn("Routed here", format="%d"),
                    "seen": st.column_config.NumberColumn("Seen", format="%d"),
                    "expected": st.column_config.NumberColumn("Expected", format="%.1f"),
                    "z": st.column_config.NumberColumn("z", format="%.1f"),
                },
            )
    st.caption(
        "Expected: how often the token would come here if it were routed like all tokens of its "
        "side. z is for ranking, not a test. ␣ is a leading space."
    )


def token_table(tokens: Sequence[TopToken]) -> pd.DataFrame:
    """Top tokens as a table; spaces and line ends made visible."""
    return pd.DataFrame(
        {
            "token": [t.text.replace(" ", "␣").replace("\n", "⏎") for t in tokens],
            "routed": [t.routed for t in tokens],
            "seen": [t.total for t in tokens],
            "expected": [t.expected for t in tokens],
            "z": [t.z for t in tokens],
        }
    )


def partners(view: state.ProfileView, cell: Cell) -> None:
    """Experts of the same layer that the same tokens use."""
    st.subheader("Experts used together with it")
    others = card(view, cell).coactivated[:8]
    if not others:
        st.caption("Its tokens use no other expert of this layer.")
        return
    table = pd.DataFrame(
        {
            "name": [f"expert {other.expert}" for other in others],
            "expert": [other.expert for other in others],
            "forget": [100 * other.forget for other in others],
            "retain": [100 * other.retain for other in others],
        }
    )
    first = others[0]
    sentence = (
        f"Of the forget tokens that go to {state.cell_name(cell)}, "
        f"{wording.percent(first.forget, 0)} also go to expert {first.expert} of this layer; of "
        f"the retain tokens, {wording.percent(first.retain, 0)}."
    )
    colours = palette()
    charts.show(
        charts.share_bars(
            table,
            label="name",
            series={
                "forget tokens": ("forget", colours.forget),
                "retain tokens": ("retain", colours.retain),
            },
            heading=f"Expert {first.expert} is its closest partner on forget text",
            unit="%",
            axis=f"share of {state.cell_name(cell)}'s tokens (%)",
        ),
        name="partners",
        alt=sentence,
        table=table,
    )


def layer_figure(view: state.ProfileView, cell: Cell) -> tuple[go.Figure, pd.DataFrame, str]:
    """All experts of the cell's layer: figure, table in percent, and the finding in words."""
    row = view.profile.site_of(cell.layer)
    experts = view.profile.num_experts_L[row]
    forget_E = 100 * view.mismatch.forget[row, :experts]
    retain_E = 100 * view.mismatch.retain[row, :experts]
    rank = (
        int(
            (
                view.mismatch.difference[row, :experts] > view.mismatch.difference[row, cell.expert]
            ).sum()
        )
        + 1
    )
    table = pd.DataFrame({"expert": range(experts), "forget": forget_E, "retain": retain_E})
    uniform = wording.percent(view.profile.experts_per_token_L[row] / experts)
    sentence = (
        f"Expert {cell.expert} has gap number {rank} of {experts} in layer {cell.layer}. An even "
        f"router would give every expert {uniform}."
    )
    heading = f"{state.cell_name(cell)}: gap {rank} of {experts} in its layer"
    return charts.layer_bars(forget_E, retain_E, cell.expert, heading), table, sentence
