"""A run's rows as tables and curves: forget accuracy against utility, losses, routing drift.

Pure functions of the rows of `metrics.jsonl` (plain dicts), so that live view, finished view,
replay and downloads all show the same numbers. Accepted trade-off: every call walks all rows it is
given, which is cheap for the evaluations that a run has. A value that is missing, null, NaN or
infinite is a gap, never a 0.
"""

import math
import textwrap
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from app import charts, wording
from app.theme import Palette, palette
from trace_engine.evaluation.outcome import number

Row = Mapping[str, Any]

_MORE_LIGHT = ("#A6559A", "#8A6D00", "#3A7CA5", "#5F6B7A")
_MORE_DARK = ("#E39AC2", "#F2C14E", "#9CC9EC", "#A3AFBD")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
_VEGA_DASHES = ([1, 0], [6, 3], [2, 2], [6, 2, 2, 2], [10, 3], [10, 2, 2, 2])
"""`DASHES` as Vega-Lite writes them."""

ACCURACY = "accuracy"
"""Unit of a run that is judged by questions; any other unit is a loss."""

LOSS_COLUMNS = {
    "forget_loss": "forget loss",
    "retain_loss": "retain loss",
}


def series_colours(colours: Palette) -> tuple[str, ...]:
    """Colours for what is not the forget side: retain blue first, then others that stay apart from
    it.
    """
    return (colours.retain, colours.good, *(_MORE_DARK if colours.dark else _MORE_LIGHT))


def last_per_step(rows: Iterable[Row], kind: str) -> list[Row]:
    """Rows of one kind by step; a resumed attempt's row replaces the earlier one of the same
    step.
    """
    by_step: dict[int, Row] = {}
    for row in rows:
        if row.get("kind") == kind and isinstance(row.get("step"), int):
            by_step[int(row["step"])] = row
    return [by_step[step] for step in sorted(by_step)]


def utility_groups(rows: Iterable[Row], forget_category: str) -> list[str]:
    """Every question category except the forget one, in alphabetical order."""
    names = {
        name
        for row in rows
        if row.get("kind") == "eval"
        for name in (row.get("accuracy") or {})
        if name != forget_category
    }
    return sorted(names)


def accuracy_frame(rows: Iterable[Row], forget_category: str) -> pd.DataFrame:
    """One line per step and group: step, group, role (forget | utility), value, low, high, n."""
    lines = []
    for row in last_per_step(rows, "eval"):
        for group, cell in (row.get("accuracy") or {}).items():
            lines.append(
                {
                    "step": row["step"],
                    "group": group,
                    "role": "forget" if group == forget_category else "utility",
                    **{key: number(cell.get(key)) for key in ("value", "low", "high", "n")},
                }
            )
    return pd.DataFrame(lines, columns=["step", "group", "role", "value", "low", "high", "n"])


def chance_of(rows: Iterable[Row], category: str) -> float | None:
    """What guessing scores on a category's questions; None where no evaluation recorded it."""
    for row in reversed(last_per_step(rows, "eval")):
        chance = number(((row.get("accuracy") or {}).get(category) or {}).get("chance"))
        if 0 < chance < 1:
            return chance
    return None


def held_out_frame(rows: Iterable[Row]) -> pd.DataFrame:
    """Forget and retain loss in nats per token at every evaluation, in accuracy_frame's shape."""
    lines = []
    for row in last_per_step(rows, "eval"):
        for key, role in (("forget_nll", "forget"), ("retain_nll", "utility")):
            cell = row.get(key) or {}
            lines.append(
                {
                    "step": row["step"],
                    "group": "forget text" if role == "forget" else "retain text",
                    "role": role,
                    **{name: number(cell.get(name)) for name in ("value", "low", "high", "n")},
                }
            )
    return pd.DataFrame(lines, columns=["step", "group", "role", "value", "low", "high", "n"])


def is_held_out(rows: Iterable[Row]) -> bool:
    """Whether the evaluation documents were kept out of training (the run has no questions)."""
    return any(bool(row.get("held_out")) for row in rows if row.get("kind") == "eval")


def thinned(train: pd.DataFrame, most: int) -> tuple[pd.DataFrame, str]:
    """At most about `most` of a run's steps, evenly spaced and with the last one, and a sentence
    where some are left out."""
    every = -(-len(train) // most)
    if every < 2:
        return train, ""
    drawn = train.iloc[::every]
    if (len(train) - 1) % every:
        drawn = pd.concat([drawn, train.iloc[-1:]])
    return drawn, f"Of {wording.count(len(train))} steps, one in {every} is drawn."


def wide(frame: pd.DataFrame) -> pd.DataFrame:
    """The tidy frame as one column per group, forget first: what `st.line_chart` draws."""
    if frame.empty:
        return pd.DataFrame()
    labels = frame["role"].where(frame["role"] == "forget", "utility") + ": " + frame["group"]
    table = frame.assign(label=labels).pivot(index="step", columns="label", values="value")
    ordered = sorted(table.columns, key=lambda name: (not name.startswith("forget"), name))
    return table[ordered]


def live_colours(columns: Iterable[str], colours: Palette | None = None) -> list[str]:
    """One colour a column of `wide`: the forget colour for forget, then the utility colours."""
    colours = colours or palette()
    others = series_colours(colours)
    chosen, position = [], 0
    for name in columns:
        if str(name).startswith("forget"):
            chosen.append(colours.forget)
        else:
            chosen.append(others[position % len(others)])
            position += 1
    return chosen


def live_data(table: pd.DataFrame) -> pd.DataFrame:
    """`wide`'s table, or any with one column a line, as `live_spec` reads it."""
    return table.rename_axis("step").reset_index().melt("step", var_name="series")


def live_spec(
    series_names: Iterable[str],
    unit: str,
    chance: float | None = None,
    colours: Palette | None = None,
) -> dict[str, Any]:
    """A Vega-Lite chart of `live_data`, because `st.line_chart` cuts a legend that is too wide.

    It depends on nothing that changes from tick to tick, so the browser only takes new data in.
    """
    colours = colours or palette()
    names = [str(name) for name in series_names]
    # One under the other as soon as two do not fit side by side on a narrow screen.
    columns = 2 if sum(map(len, names)) < 30 else 1
    legend: dict[str, Any] | None = {
        "orient": "bottom",
        "columns": columns,
        "labelLimit": 0,
        "symbolType": "stroke",
    }
    if len(names) == 1:
        legend = None
    series: dict[str, Any] = {
        "field": "series",
        "type": "nominal",
        "title": None,
        "legend": legend,
    }
    value: dict[str, Any] = {"field": "value", "type": "quantitative", "title": unit}
    # A loss moves by less than its own size; from 0 on it would look flat.
    value["scale"] = {"domain": [0, 1]} if unit == ACCURACY else {"zero": False}
    line = {
        "mark": {"type": "line", "strokeWidth": 2},
        "encoding": {
            "x": {
                "field": "step",
                "type": "quantitative",
                "title": "optimizer step",
                "axis": {"tickMinStep": 1, "format": "d"},
            },
            "y": value,
            "color": {**series, "scale": {"domain": names, "range": live_colours(names, colours)}},
            "strokeDash": {
                **series,
                "scale": {
                    "domain": names,
                    "range": [_VEGA_DASHES[i % len(_VEGA_DASHES)] for i in range(len(names))],
                },
            },
            "tooltip": [{"field": name} for name in ("series", "step", "value")],
        },
    }
    if chance is None:
        return {"layer": [line]}
    rule = {
        "mark": {"type": "rule", "strokeDash": [2, 3], "color": colours.neutral},
        "encoding": {"y": {"datum": chance}},
    }
    return {"layer": [rule, line]}


def drift_frame(rows: Iterable[Row]) -> pd.DataFrame:
    """Routing overlap with the start model: one line per step and layer (1 = unchanged)."""
    lines = []
    for row in last_per_step(rows, "eval"):
        drift = row.get("drift") or {}
        for layer, overlap in zip(drift.get("layers", ()), drift.get("overlap", ()), strict=False):
            lines.append({"step": row["step"], "layer": int(layer), "overlap": number(overlap)})
    return pd.DataFrame(lines, columns=["step", "layer", "overlap"])


def _translucent(color: str, alpha: float) -> str:
    red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha})"


def curve_figure(
    frame: pd.DataFrame,
    *,
    y_title: str,
    chance: float | None = None,
    upto: int | None = None,
    saved: int | None = None,
    y_range: tuple[float, float] | None = None,
    heading: str = "",
    height: int = 380,
    colours: Palette | None = None,
) -> go.Figure:
    """Finished curves with CI bands; `upto` cuts the curve at a step (replay), axes stay put;
    `saved` marks the step whose model was saved, where that is not the last."""
    colours = colours or palette()
    others = series_colours(colours)
    bands, lines = [], []
    position = 0
    for (_, group), part in frame.groupby(["role", "group"], sort=True):
        forget = bool((part["role"] == "forget").all())
        color = colours.forget if forget else others[position % len(others)]
        dash = "solid" if forget else DASHES[(position + 1) % len(DASHES)]
        position += 0 if forget else 1
        shown = part if upto is None else part[part["step"] <= upto]
        # A band is drawn only over an unbroken stretch: a polygon across a gap would invent values.
        for stretch in _stretches(shown):
            bands.append(
                go.Scatter(
                    x=[*stretch["step"], *stretch["step"][::-1]],
                    y=[*stretch["high"], *stretch["low"][::-1]],
                    mode="lines",
                    fill="toself",
                    fillcolor=_translucent(color, 0.16),
                    line={"width": 0},
                    hoverinfo="skip",
                    showlegend=False,
                )
            )
        label = f"{'forget' if forget else 'utility'}: {group}"
        lines.append(
            go.Scatter(
                x=shown["step"],
                y=shown["value"],
                customdata=shown[["low", "high", "n"]],
                mode="lines+markers",
                name=escape(label),
                connectgaps=False,
                line={"color": color, "dash": dash, "width": 3 if forget else 2},
                marker={"size": 5},
                hovertemplate="step %{x}: %{y:.3f}<br>"
                f"{wording.NINETY_FIVE} CI "
                "%{customdata[0]:.3f} to %{customdata[1]:.3f}, n=%{customdata[2]:.0f}",
            )
        )
    # Bands first, the forget line last: it must not be tinted by what lies over it.
    figure = go.Figure([*reversed(bands), *reversed(lines)])
    figure.update_layout(legend_traceorder="reversed")
    chance_line(figure, chance, colours, position="bottom left")
    if saved is not None:
        figure.add_vline(
            x=saved,
            line_dash="dash",
            line_color=colours.neutral,
            annotation_text=f"saved: step {saved}",
            annotation_position="top left",
        )
    if not frame.empty:
        steps = frame["step"]
        # Less than a step, so that no axis names a step before the first.
        pad = max(0.2, 0.02 * float(steps.max() - steps.min()))
        figure.update_xaxes(range=[float(steps.min()) - pad, float(steps.max()) + pad])
    if y_range is not None:
        figure.update_yaxes(range=list(y_range))
    return lay_out(figure, heading, "optimizer step", y_title, height)


def _stretches(frame: pd.DataFrame) -> list[pd.DataFrame]:
    whole = frame[["value", "low", "high"]].notna().all(axis=1)
    breaks = (~whole).cumsum()
    return [part for _, part in frame[whole].groupby(breaks[whole]) if len(part) > 1]


def panel_figure(
    frame: pd.DataFrame,
    columns: Mapping[str, str],
    heading: str = "",
    colours: Palette | None = None,
) -> go.Figure:
    """Lines over steps, each in a panel of its own: on one axis the larger would flatten the rest.

    `columns` maps column to name; a column that `frame` lacks is left out. NaN stays a gap.
    """
    colours = colours or palette()
    others = series_colours(colours)
    shown = [(column, label) for column, label in columns.items() if column in frame]
    rows = max(1, len(shown))
    figure = make_subplots(rows=rows, cols=1, shared_xaxes=True, vertical_spacing=0.12)
    lay_out(figure, heading, "", "", 360)
    position = 0
    for row, (column, label) in enumerate(shown, start=1):
        forget = column.startswith("forget")
        figure.add_scatter(
            x=frame["step"],
            y=frame[column],
            name=escape(label),
            mode="lines",
            connectgaps=False,
            line={
                "color": colours.forget if forget else others[position % len(others)],
                "dash": DASHES[(row - 1) % len(DASHES)],
                "width": 2,
            },
            hovertemplate=f"step %{{x}}: {escape(label)} %{{y:.4g}}<extra></extra>",
            row=row,
            col=1,
        )
        figure.update_yaxes(title=escape(label), row=row, col=1)
        position += 0 if forget else 1
    figure.update_xaxes(title="optimizer step", row=rows, col=1)
    return figure.update_layout(showlegend=False)


def drift_figure(
    frame: pd.DataFrame, heading: str = "", height: int = 320, colours: Palette | None = None
) -> go.Figure:
    """Overlap with the start model per layer over the run."""
    others = series_colours(colours or palette())
    figure = go.Figure()
    for position, (layer, part) in enumerate(frame.groupby("layer", sort=True)):
        figure.add_scatter(
            x=part["step"],
            y=100 * part["overlap"],
            name=f"layer {layer}",
            mode="lines+markers",
            marker={"size": 4},
            line={
                "color": others[position % len(others)],
                "dash": DASHES[position % len(DASHES)],
                "width": 2,
            },
            hovertemplate=f"layer {layer}, step %{{x}}: %{{y:.1f}}{wording.NBSP}% of experts "
            "unchanged",
        )
    figure.update_yaxes(ticksuffix=f"{wording.NBSP}%")
    return lay_out(figure, heading, "optimizer step", "experts unchanged", height)


def interval_bars(
    values: Iterable[float],
    lows: Iterable[float | None],
    highs: Iterable[float | None],
    colour: str,
    *,
    thickness: float = 1.5,
    width: float = 3,
) -> dict[str, Any]:
    """plotly's error bars of intervals; a missing end (None or NaN) is no bar."""
    ends = list(zip(values, lows, highs, strict=True))
    return {
        "type": "data",
        "symmetric": False,
        "array": [0.0 if pd.isna(high) else high - value for value, _, high in ends],
        "arrayminus": [0.0 if pd.isna(low) else value - low for value, low, _ in ends],
        "color": colour,
        "thickness": thickness,
        "width": width,
    }


def chance_line(
    figure: go.Figure,
    chance: float | None,
    colours: Palette,
    *,
    upright: bool = False,
    position: str = "top right",
) -> None:
    """Where guessing is, across the figure, or `upright` where accuracy runs along x; None is no
    line."""
    if chance is None:
        return
    line = {"line_dash": "dot", "line_color": colours.neutral, "annotation_position": position}
    line["annotation_text"] = f"chance {chance:.3g}"
    if upright:
        figure.add_vline(x=chance, **line)
    else:
        figure.add_hline(y=chance, **line)


def escape(text: str) -> str:
    """User text inside a plotly figure: no markup, and not long enough to push the plot away."""
    clean = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return clean if len(clean) <= 60 else clean[:59] + "…"


def lay_out(figure: go.Figure, heading: str, x_title: str, y_title: str, height: int) -> go.Figure:
    """What these figures share: title above, legend below, the theme's background.

    The legend grows downwards, so that on a narrow screen it takes from the plot and never covers
    the title.
    """
    lines = len(textwrap.wrap(heading, charts.TITLE_WIDTH))
    above = 26 + 20 * lines if lines else 8
    figure.update_layout(
        title=charts.title(heading) if lines else None,
        height=height + above,
        margin={"l": 8, "r": 8, "t": above, "b": 8},
        legend={"orientation": "h", "yanchor": "top", "y": -84 / height, "x": 0, "title": None},
        xaxis_title=x_title,
        yaxis_title=y_title,
        hovermode="closest",
        dragmode=False,
        modebar=charts.modebar(palette()),
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
    )
    figure.update_xaxes(fixedrange=True, automargin=True)
    figure.update_yaxes(fixedrange=True, automargin=True)
    return figure


def verdict(frame: pd.DataFrame, chance: float | None) -> str:
    """One sentence on where forget and utility stand at the last step against the first."""
    if frame.empty:
        return "No evaluation has been recorded yet."
    first, last = int(frame["step"].min()), int(frame["step"].max())
    parts = []
    for role in ("forget", "utility"):
        for group, part in frame[frame["role"] == role].groupby("group"):
            values = part.set_index("step")["value"]
            start, end = values.get(first, math.nan), values.get(last, math.nan)
            shown = f"{end:.2f}" if first == last else f"{start:.2f} → {end:.2f}"
            shown = "not measured" if math.isnan(end) else shown
            parts.append(f"{role} ({group}) {shown}")
    ending = "" if chance is None else f"; chance is {chance:.3g}"
    steps = f"Step {first}" if first == last else f"Step {first} to {last}"
    return f"{steps}: " + ", ".join(parts) + ending + "."


def finding(frame: pd.DataFrame, what: str) -> str:
    """The curve's finding as a figure title: what forget and utility did from first to last
    step. `what` is "accuracy" or "loss".
    """
    ends = {}
    for role in ("forget", "utility"):
        part = frame[frame["role"] == role]
        means = part.groupby("step")["value"].mean()
        if means.empty or math.isnan(means.iloc[-1]) or math.isnan(means.iloc[0]):
            return "Forget and utility over the run"
        ends[role] = (float(means.iloc[0]), float(means.iloc[-1]))
    digits = 2
    forget, utility = ends["forget"], ends["utility"]
    kept = charts.unbroken(f"utility {utility[0]:.{digits}f} → {utility[1]:.{digits}f}")
    return f"Forget {what} {forget[0]:.{digits}f} → {forget[1]:.{digits}f}, {kept}"


def drift_finding(frame: pd.DataFrame) -> str:
    """The drift's finding as a figure title: the layer that moved most by the end."""
    last = frame[frame["step"] == frame["step"].max()].dropna().sort_values("overlap")
    if last.empty:
        return "Routing drift was not measured"
    row = last.iloc[0]
    if row["overlap"] >= 1:
        return "No layer has drifted"
    kept = charts.unbroken(f"{wording.percent(row['overlap'], 0)} of experts unchanged")
    return f"Layer {int(row['layer'])} drifts most: {kept}"
