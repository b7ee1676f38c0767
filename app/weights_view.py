"""What token weights would do, before anyone runs them: histogram, dumbbell chart, and the limits
in words.

Pure functions of `FittedWeights.table`, `.diagnostics` and `.weights_N` (plain pandas and numpy).
Accepted trade-off: everything here is about the profile's token sample; during a run the realised
values are logged.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray

from app.curves import lay_out
from app.state import cell_name
from app.theme import Palette, palette

GAP_TOLERANCE = 0.005
"""Half a percentage point: below it a residual gap is not worth a sentence."""


def dumbbell_figure(
    table: pd.DataFrame, heading: str = "", colours: Palette | None = None
) -> go.Figure:
    """Per selected expert: retain frequency before → after the weights, against target and forget
    side.

    `table` has layer, expert, forget, retain, target, achieved, uncoverable; one line per cell.
    """
    colours = colours or palette()
    ordered = table.sort_values(["layer", "expert"], ascending=False)
    labels = [
        cell_name((int(layer), int(expert)))
        for layer, expert in zip(ordered["layer"], ordered["expert"], strict=True)
    ]
    figure = go.Figure()
    for label, before, after in zip(labels, ordered["retain"], ordered["achieved"], strict=True):
        figure.add_scatter(
            x=[before, after],
            y=[label, label],
            mode="lines",
            line={"color": colours.retain, "width": 4},
            opacity=0.45,
            hoverinfo="skip",
            showlegend=False,
        )
    for column, name, marker in (
        ("retain", "retain before", {"symbol": "circle-open", "color": colours.retain}),
        ("achieved", "retain after", {"symbol": "circle", "color": colours.retain}),
        ("target", "target", {"symbol": "line-ns-open", "color": colours.good}),
        ("forget", "forget side", {"symbol": "diamond", "color": colours.forget}),
    ):
        width = 3 if column == "target" else 2
        size = 18 if column == "target" else 11
        figure.add_scatter(
            x=ordered[column],
            y=labels,
            mode="markers",
            name=name,
            marker={**marker, "size": size, "line": {"width": width}},
            hovertemplate=f"%{{y}}, {name}: %{{x:.2%}} of tokens",
        )
    figure.update_xaxes(rangemode="tozero", tickformat=".0%")
    figure.update_yaxes(type="category")
    height = min(1400, 130 + 24 * max(3, len(labels)))
    return lay_out(figure, heading, "share of tokens routed to the expert", "", height)


def histogram_frame(weights_N: NDArray[np.float64], bins: int = 40) -> pd.DataFrame:
    """Tokens per weight bin, bins equal in log weight: columns low, high, tokens.

    Weights are positive (property 2 of the method), so the logarithm is defined. All weights equal
    is one bin.
    """
    low, high = float(weights_N.min()), float(weights_N.max())
    if np.isclose(low, high, rtol=1e-9):
        return pd.DataFrame({"low": [low], "high": [high], "tokens": [len(weights_N)]})
    edges = np.geomspace(low, high, bins + 1)
    edges[0], edges[-1] = low, high
    counts, _ = np.histogram(weights_N, bins=edges)
    return pd.DataFrame({"low": edges[:-1], "high": edges[1:], "tokens": counts})


def histogram_figure(
    frame: pd.DataFrame, heading: str = "", colours: Palette | None = None
) -> go.Figure:
    """Tokens by weight, both axes logarithmic, the mean weight 1 marked."""
    colours = colours or palette()
    low, high = np.log10(frame["low"]), np.log10(frame["high"])
    if len(frame) == 1:
        # One value has no width of its own; a hair to either side makes it visible.
        low, high = low - 0.02, high + 0.02
    edges = [
        f"{left:.3g} to {right:.3g}"
        for left, right in zip(frame["low"], frame["high"], strict=True)
    ]
    figure = go.Figure(
        go.Bar(
            x=(low + high) / 2,
            width=high - low,
            y=frame["tokens"],
            customdata=edges,
            marker={"color": colours.retain, "line": {"width": 0}},
            hovertemplate="weight %{customdata}: %{y:,} tokens<extra></extra>",
        )
    )
    # Bars in log10 units on a linear axis: plotly's own log axis cannot hold bars of equal log
    # width.
    ticks = [
        digit * 10.0**power
        for power in range(-4, 5)
        for digit in (1, 2, 5)
        if 10.0 ** low.min() * 0.8 <= digit * 10.0**power <= 10.0 ** high.max() * 1.25
    ]
    figure.add_vline(
        x=0, line_dash="dot", line_color=colours.neutral, annotation_text="1 = unweighted"
    )
    figure.update_xaxes(tickvals=np.log10(ticks), ticktext=[f"{tick:g}" for tick in ticks])
    figure.update_yaxes(type="log", dtick=1)
    figure.update_layout(bargap=0)
    return lay_out(figure, heading, "token weight (log scale)", "retain tokens (log scale)", 280)


def troubles(table: pd.DataFrame, diagnostics: Mapping[str, Any]) -> list[str]:
    """Experts the weights cannot help, in words: uncoverable, and targets that were not met."""
    sentences = []
    if table.empty:
        return sentences
    uncoverable = table[table["uncoverable"].astype(bool)]
    if len(uncoverable):
        names = ", ".join(_names(uncoverable))
        verb = "is" if len(uncoverable) == 1 else "are"
        sentences.append(
            f"{names} {verb} uncoverable: no retain token uses "
            f"{'it' if len(uncoverable) == 1 else 'them'}, so no weighting can raise the frequency. "
            "Add retain documents that use it, or take it out of the selection."
        )
    open_gap = table[
        ~table["uncoverable"].astype(bool)
        & ((table["target"] - table["achieved"]).abs() > GAP_TOLERANCE)
    ]
    if len(open_gap):
        parts = [
            f"{name} reaches {row.achieved:.1%} of a target of {row.target:.1%}"
            for name, row in zip(_names(open_gap), open_gap.itertuples(), strict=True)
        ]
        shown = "; ".join(parts[:4]) + ("" if len(parts) <= 4 else f"; and {len(parts) - 4} more")
        sentences.append(f"Target not met with these settings: {shown}.")
    if diagnostics.get("sample_complete") is False:
        sentences.append(
            "Fitted on the profile's token sample, not on the whole retain set: "
            "frequencies over the whole set differ a little."
        )
    return sentences


def _names(table: pd.DataFrame) -> list[str]:
    return [
        cell_name((int(layer), int(expert)))
        for layer, expert in zip(table["layer"], table["expert"], strict=True)
    ]


def headline(table: pd.DataFrame, diagnostics: Mapping[str, Any]) -> str:
    """One sentence: what the weights do to the selected experts, and what that costs."""
    if table.empty:
        return "No expert is selected: every token weighs 1, which is the unweighted method."
    gap_before = float((table["forget"] - table["retain"]).abs().mean())
    gap_after = float((table["forget"] - table["achieved"]).abs().mean())
    closed = 0.0 if gap_before == 0 else 1 - gap_after / gap_before
    return (
        f"The weights close {closed:.0%} of the mean forget-retain gap of {len(table)} selected "
        f"experts ({gap_before:.1%} → {gap_after:.1%}), at {float(diagnostics['ess_share']):.0%} "
        f"effective sample size and a largest weight of {float(diagnostics['max_weight']):.1f}."
    )
