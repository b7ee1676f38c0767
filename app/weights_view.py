"""What token weights would do, before anyone runs them: histogram, dumbbell chart, and the limits
in words.

Pure functions of `FittedWeights.table`, `.diagnostics` and `.weights_N` (plain pandas and numpy).
Accepted trade-off: everything here is about the profile's token sample; during a run the realised
values are logged.
"""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray

from app import wording
from app.curves import lay_out
from app.state import cell_name
from app.theme import Palette, palette
from trace_engine.calibration import FittedWeights

GAP_TOLERANCE = 0.005
"""Half a percentage point: below it a residual gap is not worth a sentence."""
MOST_SENTENCES = 4


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
    # One line with gaps: a trace for each of a hundred experts takes longer than all the rest.
    figure.add_scatter(
        x=[
            end
            for before, after in zip(ordered["retain"], ordered["achieved"], strict=True)
            for end in (100 * before, 100 * after, None)
        ],
        y=[end for label in labels for end in (label, label, None)],
        mode="lines",
        connectgaps=False,
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
            x=100 * ordered[column],
            y=labels,
            mode="markers",
            name=name,
            marker={**marker, "size": size, "line": {"width": width}},
            # An expert that no retain token uses stands at 0, on the axis.
            cliponaxis=False,
            hovertemplate=f"%{{y}}, {name}: %{{x:.2f}}{wording.NBSP}% of tokens",
        )
    figure.update_xaxes(rangemode="tozero", ticksuffix=f"{wording.NBSP}%")
    figure.update_yaxes(type="category")
    height = min(1400, 130 + 24 * max(3, len(labels)))
    return lay_out(figure, heading, "share of tokens routed to the expert", "", height)


def histogram_frame(edges_B: NDArray[np.float64], counts_B: NDArray[np.int64]) -> pd.DataFrame:
    """Tokens per weight bin: columns low, high, tokens. Edges are positive and ascending."""
    return pd.DataFrame({"low": edges_B[:-1], "high": edges_B[1:], "tokens": counts_B})


def histogram_figure(
    frame: pd.DataFrame, heading: str = "", colours: Palette | None = None
) -> go.Figure:
    """Tokens by weight, both axes logarithmic, the mean weight 1 marked."""
    colours = colours or palette()
    low, high = np.log10(frame["low"]), np.log10(frame["high"])
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


def troubles(fit: FittedWeights) -> list[str]:
    """Experts the weights cannot help, in words: the engine's notes, and gaps a simple rule leaves.

    At most `MOST_SENTENCES`; the table holds the rest.
    """
    sentences = [note for note in fit.notes if "uncoverable" in note or "cannot reach" in note]
    table = fit.table[~fit.table["uncoverable"] & ~fit.table["relaxed"]]
    missed = table[table["residual"].abs() > GAP_TOLERANCE].sort_values(
        "residual", key=lambda gap: gap.abs(), ascending=False
    )
    if len(missed):
        worst = missed.iloc[0]
        name = cell_name((int(worst["layer"]), int(worst["expert"])))
        sentences.append(
            f"This rule misses the target of {len(missed)} of {len(fit.table)} experts, most for "
            f"{name}: {wording.percent(worst['achieved'])} instead of "
            f"{wording.percent(worst['target'])}. The rule exact meets all targets together where "
            "that is possible."
        )
    if len(sentences) > MOST_SENTENCES:
        hidden = len(sentences) - MOST_SENTENCES
        sentences = [
            *sentences[:MOST_SENTENCES],
            f"{hidden} more experts have a target that cannot be met; see the table below.",
        ]
    return sentences


def remarks(fit: FittedWeights) -> list[str]:
    """The engine's other notes: what limits the hardness, what was clipped, what the figures are
    of.
    """
    return [n for n in fit.notes if "uncoverable" not in n and "cannot reach" not in n]


def headline(fit: FittedWeights) -> str:
    """One sentence: what the weights do to the selected experts, and what that costs."""
    table, diagnostics = fit.table, fit.diagnostics
    if table.empty:
        return "Every token weighs 1, which is the unweighted method."
    before = float((table["forget"] - table["retain"]).abs().mean())
    after = float((table["forget"] - table["achieved"]).abs().mean())
    closed = 0.0 if before == 0 else 1 - after / before
    moved = (
        f"close {wording.percent(closed, 0)} of"
        if closed >= 0
        else f"widen by {wording.percent(-closed, 0)}"
    )
    return (
        f"With κ = {fit.hardness:.2f} the weights {moved} the mean gap of the selected experts "
        f"({wording.percent(before)} → {wording.percent(after)}) and keep "
        f"{wording.percent(diagnostics['ess_share'], 0)} of the retain data's effective size; the "
        f"largest weight is {diagnostics['max_weight']:.1f}."
    )


def dumbbell_heading(fit: FittedWeights) -> str:
    """The finding of the dumbbell chart."""
    table = fit.table[~fit.table["uncoverable"]]
    met = int((table["residual"].abs() <= GAP_TOLERANCE).sum())
    return f"Retain use of {met} of {len(fit.table)} selected experts reaches its target"


def histogram_heading(fit: FittedWeights) -> str:
    """The finding of the weight histogram."""
    low, high = fit.diagnostics["min_weight"], fit.diagnostics["max_weight"]
    if high - low < 1e-9:
        return "Every retain token weighs the same"
    return f"Retain tokens weigh from {low:.2g} to {high:.2g}"
