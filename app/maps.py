"""The maps that pages show, from a profile: which values, which scale, which words.

Here the choice of what a view means is made once, for Start and Routing map alike. Accepted
trade-off: within a layer experts may be reordered, so with sorted views a column is a rank, not an
expert; the hover and the table always name the expert.

Dims: L MoE sites, E experts.
"""

import zlib
from typing import Any, Literal

import numpy as np
import pandas as pd
import streamlit as st
from numpy.typing import NDArray

from app import charts, findings, state, wording
from trace_engine.config import Cell
from trace_engine.errors import InputError
from trace_engine.routing import Profile

View = Literal["difference", "ratio", "forget", "retain"]
Order = Literal["index", "gap", "cluster"]
Control = Literal["measured", "null", "matched"]
ORDER_NAMES: dict[Order, str] = {
    "index": "expert (index in its layer)",
    "gap": "rank in its layer, largest gap first",
    "cluster": "position in its layer, experts used together side by side",
}
SHARES: tuple[View, ...] = ("forget", "retain")
COLOURS = "Orange: forget text uses the expert more; blue: retain text does."
_CLICKED = "map_clicked"
"""Where a session keeps the last cell that was clicked."""


def values_LE(view: state.ProfileView, what: View, control: Control) -> NDArray[Any]:
    """The numbers of one view, NaN where there is no such expert; shares and gaps in percent.

    `ratio` is log2(forget / retain), from the measured shares or the control's gap.
    """
    numbers = view.mismatch
    if what == "forget":
        values = 100 * numbers.forget
    elif what == "retain":
        values = 100 * numbers.retain
    elif what == "difference":
        gaps = {
            "measured": numbers.difference,
            "null": numbers.null_difference,
            "matched": numbers.matched_difference,
        }
        values = 100 * gaps[control]
    else:
        ratios = {"measured": numbers.ratio, "matched": numbers.matched_ratio}
        if control == "null":
            raise InputError("The random split has no ratio map; choose the difference.")
        with np.errstate(divide="ignore", invalid="ignore"):
            values = np.log2(ratios[control])
        values = np.clip(values, -16, 16)
    masked: NDArray[Any] = np.where(view.profile.cell_mask_LE(), values, np.nan)
    return masked


def limit(view: state.ProfileView, what: View, control: Control) -> float:
    """The scale's end: one for forget and retain; one for the measured gap and its controls."""
    if what in ("forget", "retain"):
        return charts.locked_limit(
            values_LE(view, "forget", "measured"), values_LE(view, "retain", "measured")
        )
    # The controls keep the measured map's scale: a changed scale would make noise look like signal.
    return charts.symmetric_limit(values_LE(view, what, "measured"))


def order_LE(profile: Profile, order: Order, difference_LE: NDArray[Any]) -> NDArray[Any] | None:
    """Per layer, the experts in drawing order; None for the plain index."""
    if order == "index":
        return None
    if order == "gap":
        ranked: NDArray[Any] = np.argsort(
            np.where(profile.cell_mask_LE(), -difference_LE, np.inf), axis=1, kind="stable"
        )
        return ranked
    pairs_LEE = profile.forget.coactivation_LEE + profile.retain.coactivation_LEE
    return _clustered_LE(zlib.crc32(pairs_LEE.tobytes()), profile.num_experts_L, pairs_LEE)


@st.cache_resource(max_entries=8, show_spinner=False)
def _clustered_LE(
    digest: int, experts_L: tuple[int, ...], _pairs_LEE: NDArray[Any]
) -> NDArray[Any]:
    """Kept, because a large model's takes longer than all the rest of a page."""
    return np.stack([_clustered_E(*layer) for layer in zip(_pairs_LEE, experts_L, strict=True)])


def _clustered_E(pairs_EE: NDArray[Any], experts: int) -> NDArray[Any]:
    """Leaves of average linkage on 1 - Jaccard overlap of the tokens of each pair of experts."""
    # Imported late: half a second that only this order needs.
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    pairs_EE = pairs_EE.astype(float)
    rest_E = np.arange(experts, pairs_EE.shape[0])
    if experts < 3:
        return np.concatenate([np.arange(experts), rest_E])
    pairs_EE = pairs_EE[:experts, :experts]
    own_E = np.diag(pairs_EE)
    either_EE = own_E[:, None] + own_E[None, :] - pairs_EE
    apart_EE = 1 - np.divide(pairs_EE, either_EE, out=np.zeros_like(pairs_EE), where=either_EE > 0)
    np.fill_diagonal(apart_EE, 0.0)
    tree = linkage(squareform(apart_EE, checks=False), method="average", optimal_ordering=True)
    return np.concatenate([leaves_list(tree), rest_E])


def heading(view: state.ProfileView, what: View, control: Control) -> str:
    """The finding of a view as a title."""
    if what in ("forget", "retain"):
        name = view.forget_name if what == "forget" else view.retain_name
        shares_LE = values_LE(view, what, "measured")
        row, expert = np.unravel_index(int(np.nanargmax(shares_LE)), shares_LE.shape)
        cell = Cell(view.profile.layers[int(row)], int(expert))
        share = float(shares_LE[row, expert]) / 100
        return f"{state.cell_name(cell)} gets {wording.percent(share, 0)} of {name} tokens"
    if control == "null":
        return "Random halves: this much is sampling noise"
    facts = findings.cell_facts(view, state.strongest_cell(view))
    if what == "ratio":
        # By the lower end: a rare expert's ratio is large by chance alone.
        sure_LE = np.where(view.profile.cell_mask_LE(), view.mismatch.ratio_low, -np.inf)
        row, expert = np.unravel_index(int(np.argmax(sure_LE)), sure_LE.shape)
        facts = findings.cell_facts(view, Cell(view.profile.layers[int(row)], int(expert)))
        if control == "measured":
            return findings.headline(facts)
        matched_ratio = float(view.mismatch.matched_ratio[row, expert])
        return (
            f"Same words on both sides: {state.cell_name(facts.cell)} "
            f"{wording.ratio(matched_ratio)} instead of {wording.ratio(facts.ratio)}"
        )
    if control == "matched":
        matched = values_LE(view, "difference", "matched")
        site = view.profile.site_of(facts.cell.layer)
        return (
            f"Same words on both sides: {state.cell_name(facts.cell)} keeps "
            f"{wording.number(float(matched[site, facts.cell.expert]), '+z.1f')} of "
            f"{wording.points(facts.difference)}"
        )
    return findings.headline(facts)


def map_spec(
    view: state.ProfileView,
    *,
    what: View = "difference",
    control: Control = "measured",
    order: Order = "index",
    current: Cell | None = None,
    selected: tuple[Cell, ...] = (),
    marks: bool = True,
) -> charts.MapSpec:
    """Everything a map needs. Dots belong to the measured gap only, never to a control."""
    kinds: dict[View, charts.Kind] = {
        "difference": "difference",
        "ratio": "ratio",
        "forget": "share",
        "retain": "share",
    }
    dots = findings.significant_LE(view) if marks and control == "measured" else None
    return charts.MapSpec(
        values_LE=values_LE(view, what, control),
        layers=view.profile.layers,
        kind=kinds[what],
        title=heading(view, what, control),
        limit=limit(view, what, control),
        hover_LE=hover(view),
        significant_LE=dots,
        selected=selected,
        current=current,
        order_LE=order_LE(view.profile, order, view.mismatch.difference),
        order_name=ORDER_NAMES[order],
    )


def legend(view: state.ProfileView) -> str:
    """What a map's marks mean."""
    clicked = " A dark square: the clicked cell." if _is_large(view) else ""
    return (
        f"Dot: {findings.DOTS}. Thin outline: selected. Bold outline: the cell in focus.{clicked} "
        "Click a cell, or use the number fields."
    )


def _is_large(view: state.ProfileView) -> bool:
    return charts.is_large(*view.profile.cell_mask_LE().shape)


def outlined(view: state.ProfileView, cell: Cell) -> Cell | None:
    """The cell that a map's figure outlines as the one in focus; None where it leaves that out.

    A large map's figure stays the same from click to click, so that nothing is drawn anew: the
    browser marks the clicked cell, and the strongest one stands in the title.
    """
    if not _is_large(view):
        return cell
    known = (st.session_state.get(_CLICKED), state.strongest_cell(view))
    return None if cell in known else cell


def hover(view: state.ProfileView) -> list[list[str]]:
    """Hover texts, kept per profile for the session's server."""
    return _hover(str(view.path), id(view.profile), view)


@st.cache_resource(max_entries=8, show_spinner=False)
def _hover(path: str, identity: int, _view: state.ProfileView) -> list[list[str]]:
    return findings.hover_LE(_view)


def table(view: state.ProfileView) -> pd.DataFrame:
    """One row per cell, shares as numbers in [0, 1]: what every map download holds."""
    return view.mismatch.table()


def on_click(key: str) -> None:
    """Callback of a map: put the clicked cell in focus; an empty selection changes nothing."""
    cell = charts.clicked_cell(st.session_state.get(key))
    if cell is None:
        return
    try:
        state.set_cell(cell)
        st.session_state[_CLICKED] = cell
    except InputError as error:
        state.notice(str(error))


def cell_fields(view: state.ProfileView, current: Cell) -> None:
    """Number fields for layer and expert: the keyboard's path to what a click does."""
    row = view.profile.site_of(current.layer)
    st.session_state["cell_layer"] = current.layer
    st.session_state["cell_expert"] = current.expert
    layers = view.profile.layers
    left, right = st.columns(2, wrap=False)
    left.number_input(
        "Layer",
        min_value=min(layers),
        max_value=max(layers),
        step=1,
        key="cell_layer",
        on_change=_fields_changed,
    )
    right.number_input(
        "Expert",
        min_value=0,
        max_value=view.profile.num_experts_L[row] - 1,
        step=1,
        key="cell_expert",
        on_change=_fields_changed,
    )


def _fields_changed() -> None:
    view = state.current_profile()
    if view is None:
        return
    layer = int(st.session_state["cell_layer"])
    expert = int(st.session_state["cell_expert"])
    try:
        # Another layer may have fewer experts than the one in focus.
        last = view.profile.num_experts_L[view.profile.site_of(layer)] - 1
        state.set_cell((layer, min(expert, last)))
    except InputError as error:
        state.notice(str(error))


def has_control(what: View, control: Control) -> bool:
    """Which views a control has: shares are measured only, the random split has no ratio map."""
    if control == "measured":
        return True
    return what == "difference" or (what == "ratio" and control == "matched")


def describe(view: state.ProfileView, what: View, control: Control) -> str:
    """A view in words: its alt text, with how many cells stand out."""
    numbers = view.mismatch
    cells = int(view.profile.cell_mask_LE().sum())
    dots = int(findings.significant_LE(view).sum())
    over = f"{len(view.profile.layers)} layers, {cells} experts in all"
    if what in ("forget", "retain"):
        name = view.forget_name if what == "forget" else view.retain_name
        return f"Share of {name} tokens routed to each expert; {over}. One scale for both sides."
    if control == "null":
        largest = float(np.abs(numbers.null_difference[view.profile.cell_mask_LE()]).max())
        return f"Gap between two random halves; {over}. Largest {wording.points(largest)}."
    if control == "matched":
        return (
            f"Gap when both sides have the same words; {over}. Covers "
            f"{wording.percent(numbers.matched_coverage, 0)} of forget tokens."
        )
    return (
        f"Forget against retain routing; {over}. {dots} of them differ beyond sampling error "
        f"({wording.count(numbers.permutations)} permutations{_units(view)})."
    )


def _units(view: state.ProfileView) -> str:
    """What was permuted, where that is not the document."""
    numbers = view.mismatch
    blocks = numbers.blocks_forget + numbers.blocks_retain
    return f" of {wording.count(blocks)} blocks of documents" if blocks else ""


def controls_sentence(view: state.ProfileView, cell: Cell) -> str:
    """The two controls of one cell, in words."""
    at = (view.profile.site_of(cell.layer), cell.expert)
    numbers = view.mismatch
    return (
        f"Controls: {wording.points(float(numbers.null_difference[at]))} in a random split; "
        f"{wording.points(float(numbers.matched_difference[at]))} "
        f"({wording.ratio(float(numbers.matched_ratio[at]))}) when both sides have the same words "
        f"(covers {wording.percent(numbers.matched_coverage, 0)} of forget tokens)."
    )


def screen_table(view: state.ProfileView) -> pd.DataFrame:
    """The table beside the map: shares and gaps in percent, largest gap first."""
    numbers = table(view).sort_values("difference", ascending=False)
    shares = [
        "forget",
        "retain",
        "difference",
        "low",
        "high",
        "null_difference",
        "matched_difference",
    ]
    numbers = numbers.assign(**{name: 100 * numbers[name] for name in shares})
    kept = ["layer", "expert", *shares[:5], "ratio", "ratio_low", "ratio_high", "p_max", "q_bh"]
    screen: pd.DataFrame = numbers[[*kept, *shares[5:], "matched_ratio"]].reset_index(drop=True)
    return screen


def columns() -> dict[str, Any]:
    """Column titles and formats of `screen_table`."""
    number = st.column_config.NumberColumn
    return {
        "layer": number("Layer", format="%d"),
        "expert": number("Expert", format="%d"),
        "forget": number("Forget %", format="%.2f"),
        "retain": number("Retain %", format="%.2f"),
        "difference": number("Gap (pp)", format="%+.2f"),
        "low": number("CI low", format="%+.2f"),
        "high": number("CI high", format="%+.2f"),
        "ratio": number("Ratio", format="%.2f"),
        "ratio_low": number("Ratio CI low", format="%.2f"),
        "ratio_high": number("Ratio CI high", format="%.2f"),
        "p_max": number("p (all cells)", format="%.4f"),
        "q_bh": number("q (BH)", format="%.4f"),
        "null_difference": number("Gap, random split", format="%+.2f"),
        "matched_difference": number("Gap, token-matched", format="%+.2f"),
        "matched_ratio": number("Ratio, token-matched", format="%.2f"),
    }


def colours(what: View) -> str:
    """What the colours of a view mean, in words."""
    return "Darker in light mode, brighter in dark: more." if what in SHARES else COLOURS
