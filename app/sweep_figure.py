"""A sweep's points on the plane of forgetting and utility: which rule, which front, which run.

Pure functions of outcomes. Points of the front carry a letter, whose key stands under the figure
and in the table; names would collide on a narrow screen. Accepted trade-off: colour and symbol tell
the weighting rule only; what else varies is in the name, under the cursor and in the table.
"""

from collections.abc import Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from app.curves import chance_line, escape, interval_bars, lay_out, series_colours
from app.pareto import SYMBOLS
from app.theme import Palette, palette
from trace_engine.evaluation.outcome import Figure
from trace_engine.sweeps import Outcome

RULE = "weights.rule"
AXES = {
    "accuracy": (
        "forget accuracy (left is more forgotten)",
        "utility accuracy (up is better kept)",
    ),
    "loss": (
        "loss on forget documents, nats per token (right is more forgotten)",
        "loss on retain documents, nats per token (down is better kept)",
    ),
}
HEIGHT = 420


def sweep_figure(
    points: Sequence[Outcome],
    measure: str,
    *,
    chance: float | None = None,
    heading: str = "",
    colours: Palette | None = None,
) -> go.Figure:
    """Finished points with their intervals, the front joined and named."""
    colours = colours or palette()
    shown = [point for point in points if point.known]
    figure = go.Figure()
    best = sorted((p for p in shown if p.front), key=lambda p: p.forget.value)
    if len(best) > 1:
        figure.add_scatter(
            x=[p.forget.value for p in best],
            y=[p.utility.value for p in best],
            mode="lines",
            line={"color": colours.neutral, "dash": "dot", "width": 1.5},
            name="Pareto front",
            hoverinfo="skip",
        )
    rules = list(dict.fromkeys(str(p.values.get(RULE, "points")) for p in points))
    for position, rule in enumerate(rules):
        group = [p for p in shown if str(p.values.get(RULE, "points")) == rule]
        if group:
            colour = series_colours(colours)[position % len(series_colours(colours))]
            symbol = SYMBOLS[position % len(SYMBOLS)]
            trace = _trace(rule, group, shown, colour, symbol, colours)
            # The side from which no point beats the front is the side that is free.
            free = "top left" if measure == "accuracy" else "bottom right"
            figure.add_trace(trace.update(textposition=free))
    chance_line(figure, chance, colours, upright=True)
    laid_out = lay_out(figure, heading, *AXES[measure], HEIGHT)
    return laid_out.update_layout(clickmode="event+select")


def _trace(
    rule: str,
    group: Sequence[Outcome],
    shown: Sequence[Outcome],
    colour: str,
    symbol: str,
    colours: Palette,
) -> go.Scatter:
    letters = letters_of(shown)
    return go.Scatter(
        x=[p.forget.value for p in group],
        y=[p.utility.value for p in group],
        error_x=_bars([p.forget for p in group], colour),
        error_y=_bars([p.utility for p in group], colour),
        customdata=[[p.number] for p in group],
        mode="markers+text",
        text=[letters.get(p.number, "") for p in group],
        textfont={"size": 14, "color": colours.text},
        cliponaxis=False,
        name=escape(rule),
        marker={
            "size": 12,
            "color": colour,
            "symbol": symbol,
            "line": {"width": [2 if p.front else 0 for p in group], "color": colours.forget},
        },
        hovertext=[
            "<br>".join(escape(other.label) for other in _here(p, shown))
            + f"<br>forget {escape(p.forget.sentence())}"
            f"<br>utility {escape(p.utility.sentence())}"
            for p in group
        ],
        hovertemplate="%{hovertext}<extra></extra>",
        # A chosen point stands out by the table and the run that opens, not by paling the rest.
        unselected={"marker": {"opacity": 1}},
    )


def _here(point: Outcome, shown: Sequence[Outcome]) -> list[Outcome]:
    """The points that lie at the same place, this one among them."""
    place = point.forget.value, point.utility.value
    return [other for other in shown if (other.forget.value, other.utility.value) == place]


def letters_of(points: Sequence[Outcome]) -> dict[int, str]:
    """Number of a front's point -> its letter, A the most forgotten; one letter per place."""
    best = sorted((p for p in points if p.front), key=lambda p: (p.forget.value, p.number))
    places = list(dict.fromkeys((p.forget.value, p.utility.value) for p in best))
    names = [chr(65 + n) if n < 26 else f"A{n - 25}" for n in range(len(places))]
    letter = dict(zip(places, names, strict=True))
    return {p.number: letter[p.forget.value, p.utility.value] for p in best}


def key_of(points: Sequence[Outcome]) -> str:
    """The letters' meaning, in one line."""
    labels = {point.number: point.label for point in points}
    letters = sorted(letters_of(points).items(), key=lambda item: (item[1], item[0]))
    return "; ".join(f"{letter} {labels[number]}" for number, letter in letters)


def _bars(figures: Sequence[Figure], colour: str) -> dict[str, Any]:
    values, lows, highs = ([getattr(f, e) for f in figures] for e in ("value", "low", "high"))
    return interval_bars(values, lows, highs, colour, thickness=0.7, width=2)


def finding(points: Sequence[Outcome]) -> str:
    """What the figure shows, as its heading."""
    known, best = sum(p.known for p in points), sum(p.front for p in points)
    if not known:
        return "No point has finished yet"
    if known == 1:
        return f"1 of {len(points)} points: {next(p.label for p in points if p.known)}"
    runs = "1 run that" if best == 1 else f"{best} runs that"
    return f"{known} of {len(points)} points; {runs} no other beats"


def sweep_frame(points: Sequence[Outcome]) -> pd.DataFrame:
    """One line a point: name, state, figures with intervals and n, front's letter, run."""
    letters = letters_of(points)
    return pd.DataFrame(
        [point.to_dict() | {"front": letters.get(point.number, "")} for point in points]
    )


def clicked_point(selection: Any) -> int | None:
    """Number of the point in a chart's selection state, or None when it is empty or not ours."""
    try:
        data = selection["selection"]["points"][0]["customdata"]
        return int(data["0"] if isinstance(data, dict) else data[0])
    except (KeyError, IndexError, TypeError, ValueError):
        return None
