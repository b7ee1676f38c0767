"""The table of methods as one figure: each row's paired difference to the compared weighting.

Pure functions of what `bench_view.differences` gives. Filled is a row with TRACE weights, hollow a
control; a difference without an interval is a mark alone. Accepted trade-off: one row of the figure
per row of the table, so a large table is a tall figure.
"""

import pandas as pd
import plotly.graph_objects as go

from app.curves import escape, interval_bars, lay_out
from app.theme import Palette, palette

ROLES = {"trace": "TRACE weights", "control": "control"}
_ROW_HEIGHT = 24
_AROUND = 190


def difference_figure(
    differences: pd.DataFrame, heading: str, x_title: str, colours: Palette | None = None
) -> go.Figure:
    """Dots with their intervals around a line at zero, in the table's order from the top.

    `differences` has `label`, `role`, `value`, `low` and `high` (NaN without an interval).
    """
    colours = colours or palette()
    figure = go.Figure()
    figure.add_vline(x=0, line_color=colours.neutral, line_width=1.5)
    for role, name in ROLES.items():
        part = differences[differences["role"] == role]
        if part.empty:
            continue
        colour = colours.retain if role == "trace" else colours.muted
        figure.add_scatter(
            x=part["value"],
            y=[escape(label) for label in part["label"]],
            error_x=interval_bars(part["value"], part["low"], part["high"], colour),
            mode="markers",
            name=name,
            marker={
                "size": 9,
                "color": colour,
                "symbol": "circle" if role == "trace" else "circle-open",
            },
            hovertemplate="%{y}: %{x:+.3f}<extra></extra>",
        )
    laid_out = lay_out(
        figure, heading, x_title, "", _AROUND + _ROW_HEIGHT * max(len(differences), 3)
    )
    order = [escape(label) for label in differences["label"]][::-1]
    return laid_out.update_yaxes(
        categoryorder="array", categoryarray=order, automargin=True, ticksuffix=" "
    ).update_xaxes(tickformat="+.2f")
