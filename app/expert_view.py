"""What is known about one expert, laid out: shares, top tokens, partners, words in context.

Start shows the short form under its map, the Expert page the long one; both read the same card.
Accepted trade-off: cards and contexts are kept in a small cache keyed by the profile, because a
click should answer within half a second.
"""

import pandas as pd
import streamlit as st

from app import findings, state, wording, words
from trace_engine.config import Cell
from trace_engine.routing import Context, ExpertCard, contexts, expert_card


@st.cache_resource(max_entries=256, show_spinner=False)
def _card(path: str, identity: int, cell: tuple[int, int], _view: state.ProfileView) -> ExpertCard:
    return expert_card(_view.profile, Cell(*cell))


@st.cache_resource(max_entries=512, show_spinner=False)
def _contexts(
    path: str,
    identity: int,
    cell: tuple[int, int],
    side: str,
    n: int,
    window: int,
    _view: state.ProfileView,
) -> list[Context]:
    return contexts(_view.profile, Cell(*cell), side, n=n, window=window)


def card(view: state.ProfileView, cell: Cell) -> ExpertCard:
    """The expert's card, cached."""
    return _card(str(view.path), id(view.profile), tuple(cell), view)


def contexts_of(
    view: state.ProfileView, cell: Cell, side: str, n: int, window: int = 10
) -> list[Context]:
    """Tokens in context for one side, cached."""
    return _contexts(str(view.path), id(view.profile), tuple(cell), side, n, window, view)


def metrics(facts: findings.CellFacts, forget_name: str, retain_name: str) -> None:
    """Forget share, retain share, gap and ratio, each with its counts or interval."""
    columns = st.columns(4)
    columns[0].metric(
        "Forget tokens routed here",
        wording.percent(facts.forget),
        help=f"{wording.count(facts.forget_count)} of {wording.count(facts.forget_tokens)} tokens "
        f"in {facts.forget_documents} documents of {forget_name}.",
    )
    columns[1].metric(
        "Retain tokens routed here",
        wording.percent(facts.retain),
        help=f"{wording.count(facts.retain_count)} of {wording.count(facts.retain_tokens)} tokens "
        f"in {facts.retain_documents} documents of {retain_name}.",
    )
    columns[2].metric("Gap", wording.points(facts.difference))
    columns[2].caption(wording.interval(facts.low, facts.high))
    columns[3].metric("Ratio", wording.ratio(facts.ratio))
    columns[3].caption(wording.interval(facts.ratio_low, facts.ratio_high, scale=1))
    columns[0].caption(f"n = {wording.count(facts.forget_tokens)} tokens")
    columns[1].caption(f"n = {wording.count(facts.retain_tokens)} tokens")


def both_sides(view: state.ProfileView, cell: Cell, n: int, key: str, window: int = 10) -> None:
    """Forget and retain contexts side by side, behind the reveal where it applies."""
    if not words.revealed(view, key):
        return
    words.legend()
    left, right = st.columns(2, gap="large")
    for column, side, name in (
        (left, "forget", view.forget_name),
        (right, "retain", view.retain_name),
    ):
        with column:
            st.markdown(f"**{side.capitalize()} tokens**")
            words.show_contexts(contexts_of(view, cell, side, n, window), side, name)


def token_table(rows: pd.DataFrame) -> None:
    """Tokens that go to the expert beyond expectation."""
    st.dataframe(rows, hide_index=True)
