"""Figures: the clickable map of experts, small comparisons, and what goes under every figure.

Pure functions build `go.Figure`s from arrays; `show` puts one on the page with its alt text and
downloads. Accepted trade-off: the map is a heatmap under transparent markers (plotly's heatmap
itself reports no clicks), which costs half a second per click on the largest maps.

Dims: L MoE sites, E experts (largest over sites).
"""

import html
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import streamlit as st
from numpy.typing import NDArray

from app import tables, wording
from app.theme import Palette, palette
from trace_engine.config import Cell

Array = NDArray[Any]
Kind = Literal["share", "difference", "ratio", "effect"]
TITLE_WIDTH = 44
"""Characters of a figure title per line: what fits a 400 px wide screen."""
_RATIO_CAP = 4.0
_DOT_LINE = "#3A4451"
_MOST_SVG_CELLS = 4096
"""Larger maps draw their markers with WebGL: the browser keeps no element for each."""
_CLICKED_SIZE = 13
"""Pixels of the square that a large map puts on a clicked cell."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MapSpec:
    """What a map of experts shows; arrays are (L, E), NaN where a site has no such expert."""

    values_LE: Array
    layers: tuple[int, ...]
    kind: Kind
    """`share` is sequential from 0; `difference`, `ratio` (as log2) and `effect` (in the unit that
    the title names) diverge at 0."""
    title: str
    """The finding, not the axis names."""
    limit: float
    """Upper end of the colour scale; differences and ratios use it on both sides."""
    hover_LE: list[list[str]]
    """Hover text per cell, already escaped where it holds anyone's text."""
    significant_LE: Array | None = None
    """Cells that get a dot."""
    selected: tuple[Cell, ...] = ()
    """Cells that get an outline."""
    current: Cell | None = None
    """The cell that gets a bold outline."""
    order_LE: Array | None = None
    """Per row, the experts in the order in which they are drawn; None is by index."""
    order_name: str = "expert (index in its layer)"


def is_large(sites: int, experts: int) -> bool:
    """Whether a map has too many cells to be drawn anew on every click."""
    return sites * experts > _MOST_SVG_CELLS


def expert_map(spec: MapSpec, colours: Palette | None = None) -> go.Figure:
    """The map of experts; each marker's customdata is (layer, expert), see `clicked_cell`."""
    colours = colours or palette()
    sites, experts = spec.values_LE.shape
    order_LE = spec.order_LE
    if order_LE is None:
        order_LE = np.tile(np.arange(experts), (sites, 1))
    drawn_LE = np.take_along_axis(spec.values_LE, order_LE, axis=1)
    figure = go.Figure()
    figure.add_trace(_heat(spec, drawn_LE, colours))
    rows, columns = np.nonzero(np.isfinite(drawn_LE))
    large = is_large(sites, experts)
    markers: Any = go.Scattergl if large else go.Scatter
    figure.add_trace(
        markers(
            x=columns,
            y=rows,
            mode="markers",
            marker={
                "symbol": "square",
                "size": _marker_size(sites, experts),
                "color": "rgba(0,0,0,0)",
            },
            # Arrays of objects: plotly checks a list of 15,000 texts one by one, on every click.
            customdata=np.array(
                [
                    [spec.layers[row], int(order_LE[row, column])]
                    for row, column in zip(rows, columns, strict=True)
                ],
                dtype=object,
            ),
            hovertext=np.array(
                [
                    spec.hover_LE[row][order_LE[row, column]]
                    for row, column in zip(rows, columns, strict=True)
                ],
                dtype=object,
            ),
            hovertemplate="%{hovertext}<extra></extra>",
            # Plotly fades what is not selected; the markers are invisible either way. On a large
            # map the browser marks the clicked cell by itself, because drawing it anew is slow.
            selected={
                "marker": {"opacity": 1, "color": colours.text, "size": _CLICKED_SIZE}
                if large
                else {"opacity": 0}
            },
            unselected={"marker": {"opacity": 0}},
            showlegend=False,
        )
    )
    if spec.significant_LE is not None:
        figure.add_trace(_dots(spec, np.take_along_axis(spec.significant_LE, order_LE, axis=1)))
    place = {
        Cell(spec.layers[row], int(order_LE[row, column])): (column, row)
        for row in range(sites)
        for column in range(experts)
    }
    outlines = []
    if selected := [place[cell] for cell in spec.selected if cell in place]:
        outlines.append(_outline(selected, colours.text, 1.6))
    if spec.current is not None and spec.current in place:
        outlines.append(_outline([place[spec.current]], colours.background, 5.5))
        outlines.append(_outline([place[spec.current]], colours.text, 3.2))
    row_height = _row_height(sites)
    figure.update_layout(
        title=title(spec.title),
        shapes=outlines,
        height=int(sites * row_height) + 160,
        margin={"l": 52, "r": 8, "t": _title_height(spec.title), "b": 88},
        hoverdistance=40,
        dragmode=False,
        modebar=modebar(colours),
        clickmode="event+select",
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        xaxis={
            "title": {"text": spec.order_name, "standoff": 6},
            "range": [-0.55, experts - 0.45],
            "showgrid": False,
            "zeroline": False,
            "tickformat": "d",
            "fixedrange": True,
        },
        yaxis={
            "title": {"text": "decoder layer", "standoff": 9},
            "range": [sites - 0.45, -0.55],
            "tickvals": list(range(sites)),
            "ticktext": [str(layer) for layer in spec.layers],
            "nticks": min(sites, 16),
            "showgrid": False,
            "zeroline": False,
            "fixedrange": True,
        },
    )
    return figure


def _row_height(sites: int) -> float:
    return max(13.0, min(40.0, 560 / sites))


def _marker_size(sites: int, experts: int) -> float:
    """Pixels of the invisible marker that catches a cell's clicks, on a map 700 wide.

    Markers of neighbours must not overlap: inside several, plotly takes whichever comes first.
    """
    return max(4.0, min(16.0, _row_height(sites), 700 / experts))


def _heat(spec: MapSpec, drawn_LE: Array, colours: Palette) -> go.Heatmap:
    bar: dict[str, Any] = {
        "orientation": "h",
        "thickness": 10,
        "yref": "container",
        "y": 0.0,
        "yanchor": "bottom",
        "len": 1.0,
        "nticks": 7,
        "outlinewidth": 0,
    }
    if spec.kind == "ratio":
        limit = min(spec.limit, _RATIO_CAP)
        drawn_LE = np.clip(drawn_LE, -limit, limit)
        ticks = np.arange(-int(limit), int(limit) + 1)
        bar |= {"tickvals": ticks.tolist(), "ticktext": [_power(int(tick)) for tick in ticks]}
        low, high, scale = -limit, limit, colours.diverging
    elif spec.kind == "difference":
        low, high, scale = -spec.limit, spec.limit, colours.diverging
        bar["ticksuffix"] = f"{wording.NBSP}pp"
    elif spec.kind == "effect":
        low, high, scale = -spec.limit, spec.limit, colours.diverging
    else:
        low, high, scale = 0.0, spec.limit, colours.sequential
        bar["ticksuffix"] = f"{wording.NBSP}%"
    return go.Heatmap(
        z=drawn_LE,
        zmin=low,
        zmax=high,
        zmid=None if spec.kind == "share" else 0,
        colorscale=scale,
        colorbar=bar,
        hoverinfo="skip",
        xgap=1,
        ygap=1,
    )


def _power(tick: int) -> str:
    return f"{2**tick}×" if tick >= 0 else f"1/{2**-tick}×"


def _dots(spec: MapSpec, significant_LE: Array) -> Any:
    rows, columns = np.nonzero(significant_LE)
    large = is_large(*significant_LE.shape)
    marker: dict[str, Any] = {"symbol": "circle", "size": 2, "color": _DOT_LINE}
    if not large:
        size = 4 if significant_LE.shape[1] <= 32 else 3
        marker |= {"size": size, "color": "#FFFFFF", "line": _dot_line()}
    markers: Any = go.Scattergl if large else go.Scatter
    return markers(
        x=columns,
        y=rows,
        mode="markers",
        marker=marker,
        hoverinfo="skip",
        # Plotly fades what is not selected.
        unselected={"marker": {"opacity": 1}},
        showlegend=False,
    )


def _dot_line() -> dict[str, Any]:
    return {"width": 0.8, "color": _DOT_LINE}


def _outline(cells: Sequence[tuple[int, int]], colour: str, width: float) -> dict[str, Any]:
    """A frame around each (column, row), all in one path: plotly checks every shape by itself."""
    frames = (
        f"M{column - 0.5},{row - 0.5}H{column + 0.5}V{row + 0.5}H{column - 0.5}Z"
        for column, row in cells
    )
    return {
        "type": "path",
        "path": "".join(frames),
        "line": {"color": colour, "width": width},
        "fillcolor": "rgba(0,0,0,0)",
    }


def title(text: str) -> dict[str, Any]:
    """A figure title that fits a narrow screen: wrapped, escaped, left-aligned."""
    lines = [html.escape(line, quote=False) for line in textwrap.wrap(text, TITLE_WIDTH)]
    return {"text": "<br>".join(lines), "x": 0, "xanchor": "left", "font": {"size": 15}}


def unbroken(part: str) -> str:
    """A part of a title that stays on one line."""
    return part.replace(" ", "\N{NO-BREAK SPACE}")


def _title_height(text: str) -> int:
    return 26 + 20 * len(textwrap.wrap(text, TITLE_WIDTH))


def modebar(colours: Palette) -> dict[str, Any]:
    """The figure's own toolbar without a box behind it, which would lie over the title."""
    return {"bgcolor": "rgba(0,0,0,0)", "color": colours.muted, "activecolor": colours.text}


def _legend() -> dict[str, Any]:
    """Under the axis, where a narrow screen has room for it."""
    return {"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom", "x": 0}


def symmetric_limit(values_LE: Array) -> float:
    """The largest absolute finite value, so that a diverging scale is honest; 1 when all are 0."""
    finite = np.abs(values_LE[np.isfinite(values_LE)])
    largest = float(finite.max()) if finite.size else 0.0
    return largest or 1.0


def locked_limit(*values_LE: Array) -> float:
    """One upper end for several maps, so that their colours can be compared; 1 when all are 0."""
    return max(
        (float(np.nanmax(values)) for values in values_LE if np.isfinite(values).any()),
        default=1.0,
    ) or 1.0  # fmt: skip


def clicked_cell(selection: Any) -> Cell | None:
    """The cell of a chart's selection state, or None when it is empty or not one of ours.

    What the browser sends is not trusted: anything but two whole numbers is ignored, and the
    caller still checks the cell against the profile (`state.set_cell`).
    """
    try:
        points = selection["selection"]["points"]
        data = points[0]["customdata"]
        layer, expert = (data["0"], data["1"]) if isinstance(data, dict) else data[:2]
        return Cell(int(layer), int(expert))
    except (KeyError, IndexError, TypeError, ValueError):
        return None


def share_bars(
    table: pd.DataFrame,
    *,
    label: str,
    series: dict[str, tuple[str, str]],
    heading: str,
    unit: str,
    axis: str,
    colours: Palette | None = None,
) -> go.Figure:
    """Horizontal bars with 95 % intervals, one group per row of `table`.

    `label` is the column of group names; `series` maps a legend name to (column, colour); columns
    `<column>_low` and `<column>_high` are drawn as intervals when they are there. `unit`
    follows a number, `axis` names what is drawn.
    """
    colours = colours or palette()
    figure = go.Figure()
    names = [html.escape(str(name), quote=False) for name in table[label]]
    for name, (column, colour) in series.items():
        values = table[column].to_numpy(dtype=float)
        bars: dict[str, Any] = {}
        if f"{column}_low" in table and f"{column}_high" in table:
            bars["error_x"] = {
                "type": "data",
                "symmetric": False,
                "array": table[f"{column}_high"].to_numpy(dtype=float) - values,
                "arrayminus": values - table[f"{column}_low"].to_numpy(dtype=float),
                "color": colours.text,
                "thickness": 1.2,
                "width": 3,
            }
        figure.add_trace(
            go.Bar(
                y=names,
                x=values,
                name=html.escape(name, quote=False),
                orientation="h",
                marker={"color": colour},
                hovertemplate=f"%{{y}}: %{{x:.1f}}{wording.NBSP}{unit}"
                + "<extra>%{fullData.name}</extra>",
                **bars,
            )
        )
    figure.update_layout(
        title=title(heading),
        barmode="group",
        bargap=0.3,
        height=150 + (len(series) * 13 + 10) * len(table),
        margin={"l": 8, "r": 8, "t": _title_height(heading), "b": 100},
        legend=_legend() | {"traceorder": "normal"},
        xaxis={"title": {"text": axis}, "zeroline": True, "fixedrange": True},
        yaxis={"autorange": "reversed", "fixedrange": True, "automargin": True},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        dragmode=False,
        modebar=modebar(colours),
    )
    return figure


def layer_bars(
    forget_E: Array,
    retain_E: Array,
    current: int,
    heading: str,
    colours: Palette | None = None,
) -> go.Figure:
    """All experts of one layer: forget and retain shares side by side, the current one marked.

    Shares in percent, shape (E,).
    """
    colours = colours or palette()
    experts = np.arange(len(forget_E))
    figure = go.Figure()
    for name, values, colour, symbol in (
        ("forget", forget_E, colours.forget, "circle"),
        ("retain", retain_E, colours.retain, "diamond"),
    ):
        figure.add_trace(
            go.Scatter(
                x=experts,
                y=values,
                name=name,
                mode="markers",
                marker={"color": colour, "symbol": symbol, "size": 8},
                hovertemplate=f"expert %{{x}}: %{{y:.1f}}{wording.NBSP}%<extra>"
                + name
                + "</extra>",
            )
        )
    figure.add_vrect(
        x0=current - 0.5, x1=current + 0.5, fillcolor=colours.neutral, opacity=0.25, line_width=0
    )
    figure.update_layout(
        title=title(heading),
        height=300,
        margin={"l": 46, "r": 8, "t": _title_height(heading), "b": 84},
        legend=_legend(),
        xaxis={"title": {"text": "expert (index in its layer)"}, "fixedrange": True},
        yaxis={
            "title": {"text": "tokens routed (%)"},
            "rangemode": "tozero",
            "fixedrange": True,
        },
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        dragmode=False,
        modebar=modebar(colours),
    )
    return figure


def to_html(figure: go.Figure) -> bytes:
    """The figure as one file that opens without a network."""
    return str(figure.to_html(include_plotlyjs=True, full_html=True)).encode()


def show(
    figure: go.Figure,
    *,
    name: str,
    alt: str,
    table: pd.DataFrame | None = None,
    on_click: Callable[[], None] | None = None,
    caption: str | None = None,
) -> None:
    """A figure with alt text and downloads under it. `name` is its key and its file name.

    `on_click` runs before the rerun that a click causes; it finds the click with
    `clicked_cell(st.session_state[name])`.
    """
    config = {
        "displaylogo": False,
        "modeBarButtonsToRemove": ["select2d", "lasso2d", "zoom2d", "pan2d", "autoScale2d"],
        "toImageButtonOptions": {"format": "png", "filename": name, "scale": 2},
    }
    if on_click is None:
        st.plotly_chart(figure, key=name, config=config, alt=alt)
    else:
        st.plotly_chart(
            figure,
            key=name,
            config=config,
            alt=alt,
            on_select=on_click,
            selection_mode=("points",),
        )
    st.caption(wording.plain(caption or alt))
    with st.popover("Download", icon=":material/download:", type="tertiary"):
        st.download_button(
            f"{name}.html",
            data=lambda: to_html(figure),
            file_name=f"{name}.html",
            mime="text/html",
            key=f"{name}-html",
            on_click="ignore",
            type="tertiary",
        )
        if table is not None:
            tables.buttons(table, name, key=f"{name}-figure")
        st.caption("PNG: the camera in the figure's own toolbar.")
