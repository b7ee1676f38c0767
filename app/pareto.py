"""Several finished runs against each other: forgetting on one axis, utility on the other.

Pure functions of rows and settings. Utility is pooled over every question group that is not to be
forgotten (right answers over all questions), with a Wilson interval, so that it carries an n like
any other figure. Accepted trade-off: runs without questions are compared by their losses in the
table of final figures, never in the chart.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from app.curves import (
    Row,
    accuracy_frame,
    chance_line,
    escape,
    held_out_frame,
    interval_bars,
    is_held_out,
    last_per_step,
    lay_out,
    series_colours,
)
from app.theme import Palette, palette
from trace_engine.evaluation.outcome import (
    NOT_MEASURED,
    Figure,
    forget_and_utility,
    undominated,
    up_to_saved,
)

SYMBOLS = (
    "circle",
    "square",
    "diamond",
    "triangle-up",
    "star",
    "hexagon",
    "triangle-down",
    "cross",
)


_KEPT = "the interval of the forget accuracy at the end still includes the value at the start."


@dataclass(frozen=True, slots=True)
class Point:
    """One run (or reference model) on the Pareto plane."""

    key: str
    label: str
    forget: Figure
    utility: Figure
    reference: bool = False
    path: tuple[tuple[int, float, float], ...] = ()
    """Step, forget accuracy, utility at every evaluation."""
    start: Figure = NOT_MEASURED
    """Forget accuracy at the first evaluation."""

    @property
    def forgotten(self) -> bool | None:
        """Whether forget accuracy ends below its start by more than its interval; None when one of
        them is unknown.
        """
        if not (self.forget.known and self.start.known):
            return None
        return self.forget.high < self.start.value


def point_of(
    key: str,
    label: str,
    rows: Sequence[Row],
    forget_category: str,
    facts: Mapping[str, Any] | None = None,
) -> Point:
    """The evaluation of a run's saved model as a point, every evaluation as its path.

    Without `facts` the last one was saved.
    """
    path = []
    start = NOT_MEASURED
    for position, row in enumerate(last_per_step(rows, "eval")):
        forget, utility = forget_and_utility(row.get("accuracy"), forget_category)
        if forget.known and utility.known:
            path.append((int(row["step"]), forget.value, utility.value))
        start = forget if position == 0 else start
    saved = up_to_saved(last_per_step(rows, "eval"), facts or {})[-1:]
    accuracy = saved[0].get("accuracy") if saved else None
    forget, utility = forget_and_utility(accuracy, forget_category)
    return Point(key, label, forget, utility, path=tuple(path), start=start)


def front(points: Sequence[Point]) -> set[str]:
    """Keys of the runs that no other run beats: less forget accuracy and at least equal utility, or
    so.
    """
    runs = [p for p in points if not p.reference and p.forget.known and p.utility.known]
    best = undominated([(p.forget.value, p.utility.value) for p in runs])
    return {runs[position].key for position in best}


def pareto_figure(
    points: Sequence[Point],
    *,
    chance: float | None,
    paths: bool = False,
    heading: str = "",
    colours: Palette | None = None,
) -> go.Figure:
    """Forget accuracy (lower is better) against utility, CI bars both ways; the front is joined."""
    colours = colours or palette()
    others = series_colours(colours)
    figure = go.Figure()
    shown = [p for p in points if p.forget.known and p.utility.known]
    best = front(shown)
    stairs = sorted((p for p in shown if p.key in best), key=lambda p: p.forget.value)
    if len(stairs) > 1:
        figure.add_scatter(
            x=[p.forget.value for p in stairs],
            y=[p.utility.value for p in stairs],
            mode="lines",
            line={"color": colours.neutral, "dash": "dot", "width": 1.5},
            name="Pareto front",
            hoverinfo="skip",
        )
    for position, point in enumerate(shown):
        color = colours.muted if point.reference else others[position % len(others)]
        if paths and len(point.path) > 1:
            figure.add_scatter(
                x=[step[1] for step in point.path],
                y=[step[2] for step in point.path],
                customdata=[step[0] for step in point.path],
                mode="lines+markers",
                line={"color": color, "width": 1},
                marker={"size": 4},
                opacity=0.6,
                showlegend=False,
                hovertemplate=f"{escape(point.label)}, step %{{customdata}}"
                "<br>forget %{x:.3f}, utility %{y:.3f}<extra></extra>",
            )
        figure.add_scatter(
            x=[point.forget.value],
            y=[point.utility.value],
            error_x=_bars(point.forget, color),
            error_y=_bars(point.utility, color),
            mode="markers",
            name=escape(point.label) + (" (not forgotten)" if point.forgotten is False else ""),
            marker={
                "size": 13,
                "color": color,
                "symbol": "x" if point.reference else SYMBOLS[position % len(SYMBOLS)],
                "line": {"width": 2 if point.key in best else 0, "color": colours.forget},
            },
            hovertemplate=f"{escape(point.label)}<br>forget {escape(point.forget.sentence())}"
            f"<br>utility {escape(point.utility.sentence())}<extra></extra>",
        )
    chance_line(figure, chance, colours, upright=True)
    return lay_out(
        figure,
        heading,
        "forget accuracy (left is more forgotten)",
        "utility accuracy (up is better kept)",
        420,
    )


def _bars(figure: Figure, color: str) -> dict[str, Any]:
    ends = [figure.value], [figure.low], [figure.high]
    return interval_bars(*ends, color, thickness=1, width=4)


def finding(points: Sequence[Point]) -> str:
    """One sentence on which runs are on the front, without claiming a difference inside the CIs."""
    best = front(points)
    runs = [p for p in points if not p.reference and p.forget.known and p.utility.known]
    if not runs:
        return "No run here has both a forget and a utility accuracy yet."
    if len(runs) == 1:
        alone = f"{runs[0].label} stands alone: one run cannot be better than another."
        return alone + (f" It has not forgotten: {_KEPT}" if runs[0].forgotten is False else "")
    first = [p for p in runs if p.key in best]
    kept = [p for p in first if p.forgotten is False]
    if len(kept) == len(first) > 1:
        meaning, mark = f" None of these has forgotten: {_KEPT}", ""
    else:
        meaning, mark = f" Not forgotten: {_KEPT}" if kept else "", " (has not forgotten)"
    names = ", ".join(p.label + (mark if p in kept else "") for p in first)
    beaten = len(runs) - len(best)
    tail = "no run is beaten on both axes" if beaten == 0 else f"{beaten} of {len(runs)} are beaten"
    overlap = any(
        p.key != q.key
        and p.key in best
        and p.utility.low <= q.utility.high
        and q.utility.low <= p.utility.high
        and p.forget.low <= q.forget.high
        and q.forget.low <= p.forget.high
        for p in runs
        for q in runs
    )
    caution = (
        " Some intervals overlap on both axes: those differences may be chance." if overlap else ""
    )
    return f"On the Pareto front: {names}; {tail}.{meaning}{caution}"


def final_frame(runs: Mapping[str, tuple[Sequence[Row], str]]) -> pd.DataFrame:
    """Final figures per run and group with CI and n: run label -> (rows, forget category).

    Accuracies where the run asked questions, else losses on documents; `measure` says which.
    """
    parts = []
    for label, (rows, forget_category) in runs.items():
        frame, measure = accuracy_frame(rows, forget_category), "accuracy"
        if frame.empty:
            kind = "held-out" if is_held_out(rows) else "training"
            frame, measure = held_out_frame(rows), f"loss on {kind} text, nats per token"
        if frame.empty:
            continue
        last = frame[frame["step"] == frame["step"].max()]
        parts.append(last.assign(run=label, measure=measure))
    columns = ["run", "step", "role", "group", "measure", "value", "low", "high", "n"]
    return pd.concat(parts)[columns] if parts else pd.DataFrame(columns=columns)


def distinct(labels: Mapping[str, str]) -> dict[str, str]:
    """Run id -> label; those that several runs have get the end of their id.

    Streamlit tells options apart by what they show, so two equal labels would be one run.
    """
    seen = Counter(labels.values())
    return {
        run: label if seen[label] == 1 else f"{label} {run[-6:]}" for run, label in labels.items()
    }


def shorten(labels: Sequence[str]) -> list[str]:
    """Labels made unique, so that two runs of one name stay two points."""
    seen: dict[str, int] = {}
    unique = []
    for label in labels:
        seen[label] = seen.get(label, 0) + 1
        unique.append(label if seen[label] == 1 else f"{label} ({seen[label]})")
    return unique
