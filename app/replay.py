"""Replay of a finished run from its stored rows: no model, no torch, all steps inside one figure.

The steps are plotly frames, so play and slider run in the browser and nothing remounts. Accepted
trade-off: the figure carries the curve once per frame, which is small for the tens of evaluations a
run has.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from app.curves import (
    DASHES,
    Row,
    accuracy_frame,
    chance_line,
    chance_of,
    escape,
    lay_out,
    series_colours,
)
from app.theme import Palette, palette
from trace_engine.bundled import PACK
from trace_engine.config import UnlearnConfig
from trace_engine.evaluation.outcome import Figure, forget_and_utility
from trace_engine.runs import RunDirectory
from trace_engine.runs.curve import Curve

ROWS = "metrics.jsonl"
BUNDLED_RUN = PACK / "run"
"""The run with TRACE weights, which the replay shows."""
BUNDLED_CONTROL = PACK / "run_uniform"
"""The same run with uniform weights: what TRACE has to beat."""


@dataclass(frozen=True, slots=True)
class StoredRun:
    """A finished run as the pages read it."""

    id: str
    label: str
    path: Path
    config: UnlearnConfig
    rows: tuple[Row, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What the run found out before its first step."""


@st.cache_resource(max_entries=32, show_spinner=False)
def _followed(path: str) -> Curve:
    return Curve(Path(path))


def followed(run: RunDirectory) -> Curve:
    """The curve of a run, read once for all sessions and pages that look at it."""
    return _followed(str(run.path / ROWS))


def bundled_run(path: Path = BUNDLED_RUN) -> StoredRun | None:
    """The finished run that ships with the project, or None in a checkout without it.

    Raises TraceError when it is there and damaged.
    """
    if not (path / "config.yaml").is_file():
        return None
    run = RunDirectory(path)
    config = run.config()
    if not isinstance(config, UnlearnConfig):
        return None
    label = f"{config.name.strip() or config.method} (bundled)"
    return StoredRun(f"bundled:{path.name}", label, path, config, tuple(run.rows()), run.facts())


def replay_figure(
    rows: Sequence[Row], forget_category: str, heading: str = "", colours: Palette | None = None
) -> go.Figure:
    """Forget accuracy and utility per group, one frame per evaluation; axes do not move."""
    colours = colours or palette()
    frame = accuracy_frame(rows, forget_category)
    groups = _groups(frame)
    steps = sorted(int(step) for step in frame["step"].unique())
    others = series_colours(colours)

    def traces(upto: int) -> list[go.Scatter]:
        drawn = []
        for position, (group, role) in enumerate(groups):
            part = frame[(frame["group"] == group) & (frame["step"] <= upto)]
            forget = role == "forget"
            colour = colours.forget if forget else others[(position - 1) % len(others)]
            dash = DASHES[position % len(DASHES)]
            drawn.append(
                go.Scatter(
                    x=part["step"],
                    y=part["value"],
                    name=escape(f"{role}: {group}"),
                    mode="lines+markers",
                    line={"color": colour, "dash": dash, "width": 3 if forget else 2},
                    marker={"size": 6},
                    hovertemplate="step %{x}: %{y:.2f}",
                )
            )
        return drawn

    figure = go.Figure(traces(steps[0]))
    figure.frames = [go.Frame(data=traces(step), name=str(step)) for step in steps]
    move = {"frame": {"duration": 500, "redraw": False}, "transition": {"duration": 200}}
    chance = chance_of(rows, forget_category)
    chance_line(figure, chance, colours)
    figure.update_xaxes(range=[steps[0] - 1, steps[-1] + 1])
    figure.update_yaxes(range=[0, 1.02])
    lay_out(figure, heading, "optimizer step", "accuracy", 540)
    figure.update_layout(
        # The legend stands above here: below the plot is where the slider is.
        margin={"t": figure.layout.margin.t + 84, "b": 128},
        title={"y": 0.97, "yanchor": "top"},
        legend={"y": 1.03, "yanchor": "bottom"},
        updatemenus=[
            {
                "type": "buttons",
                "direction": "left",
                "x": 0,
                "y": -0.2,
                "xanchor": "left",
                "yanchor": "top",
                "showactive": False,
                "bgcolor": colours.background,
                "bordercolor": colours.neutral,
                "font": {"color": colours.text},
                "buttons": [
                    {
                        "label": "▶ Play",
                        "method": "animate",
                        "args": [None, {**move, "fromcurrent": True}],
                    },
                    {
                        "label": "❚❚ Pause",
                        "method": "animate",
                        "args": [[None], {"mode": "immediate", "frame": {"duration": 0}}],
                    },
                ],
            }
        ],
        sliders=[
            {
                "active": 0,
                "x": 0,
                "len": 1.0,
                "y": -0.36,
                "yanchor": "top",
                "currentvalue": {"prefix": "step ", "xanchor": "right"},
                "font": {"color": colours.text},
                "steps": [
                    {
                        "label": str(step),
                        "method": "animate",
                        "args": [[str(step)], {**move, "mode": "immediate"}],
                    }
                    for step in steps
                ],
            }
        ],
    )
    return figure


def _groups(frame: pd.DataFrame) -> list[tuple[str, str]]:
    pairs = frame[["group", "role"]].drop_duplicates()
    found = [(str(row.group), str(row.role)) for row in pairs.itertuples()]
    return sorted(found, key=lambda pair: (pair[1] != "forget", pair[0]))


def before_after(run: StoredRun) -> tuple[tuple[Figure, Figure], tuple[Figure, Figure]] | None:
    """(forget, utility) at the first and at the last evaluation; None when nothing was
    evaluated.
    """
    evaluations = [row for row in run.rows if row.get("kind") == "eval" and row.get("accuracy")]
    if not evaluations:
        return None
    category = run.config.evaluation.forget_category
    first, last = evaluations[0], evaluations[-1]
    return (
        forget_and_utility(first["accuracy"], category),
        forget_and_utility(last["accuracy"], category),
    )
