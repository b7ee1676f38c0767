"""An audit's figures: every test beside its thresholds, and what attacks that train bring back.

Pure functions of what the report says. Filled is a test against a reference that had the same
treatment, hollow one without. Accepted trade-off: a line of the figure per test, so an audit of
many tests is a tall figure.
"""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from app import wording
from app.curves import chance_line, escape, interval_bars, lay_out, series_colours
from app.theme import Palette, palette
from trace_engine.audit.led import SIDES
from trace_engine.audit.names import ROLE_WORDS
from trace_engine.audit.rules import Excess, RulesConfig, threshold

_LINE_HEIGHT, _BETWEEN = 15, 12
_AROUND = 190
_LABEL_WIDTH = 30
"""Characters of a test's name per line."""
_REFERRED = ("reference", "untreated")
_WHERE = {True: ", against a reference", False: ", against the model as it is"}
_YARDSTICKS = (
    (True, "against a reference"),
    (False, "against guessing, or the model as it is"),
)


def excess_figure(
    tests: Sequence[Excess], rules: RulesConfig, colours: Palette | None = None
) -> go.Figure:
    """Per test what is answered beyond the yardstick, in percentage points, with its interval; from
    the top in the report's order."""
    colours = colours or palette()
    figure = go.Figure()
    figure.add_vline(x=0, line_color=colours.neutral, line_width=1.5)
    referred = any(test.over in _REFERRED for test in tests)
    beyond: dict[float, bool] = {}
    for test in tests:
        beyond[100 * threshold(test, rules)] = test.over in _REFERRED
    absent = 100 * rules.gone_below
    thresholds = [
        (at, f"there: beyond {at:g}" + ("" if len(beyond) == 1 else _WHERE[compared]), "dash")
        for at, compared in sorted(beyond.items())
    ]
    if referred:  # without one, absence is never claimed
        thresholds.append((absent, f"absent: below {absent:g}", "dot"))
    for at, _, dash in thresholds:
        figure.add_vline(x=at, line_color=colours.muted, line_dash=dash, line_width=1.5)
    for compared, name in _YARDSTICKS:
        part = [test for test in tests if (test.over in _REFERRED) == compared]
        if not part:
            continue
        found = [test.estimate for test in part]
        figure.add_scatter(
            x=[100 * estimate.value for estimate in found],
            y=[_label(test) for test in part],
            error_x=interval_bars(
                [100 * estimate.value for estimate in found],
                [_points(estimate.low) for estimate in found],
                [_points(estimate.high) for estimate in found],
                colours.forget,
            ),
            mode="markers",
            name=name,
            marker={
                "size": 9,
                "color": colours.forget,
                "symbol": "circle" if compared else "circle-open",
            },
            customdata=[estimate.n for estimate in found],
            hovertemplate="%{y}: %{x:+.1f} points, n=%{customdata}<extra></extra>",
        )
    for _, text, dash in thresholds:  # an empty line of the legend says what each is
        figure.add_scatter(
            x=[None],
            y=[None],
            mode="lines",
            name=text,
            line={"color": colours.muted, "dash": dash, "width": 1.5},
        )
    lines = max(_label(test).count("<br>") + 1 for test in tests)
    laid_out = lay_out(
        figure,
        f"Answered beyond the yardstick ({wording.NINETY_FIVE} interval)",
        "percentage points",
        "",
        _AROUND + (_LINE_HEIGHT * lines + _BETWEEN) * max(len(tests), 3),
    )
    order = [_label(test) for test in tests][::-1]
    return laid_out.update_yaxes(
        categoryorder="array", categoryarray=order, automargin=True, ticksuffix=" "
    ).update_xaxes(tickformat="+d")


def _label(test: Excess) -> str:
    """A test's name in lines that leave room for the figure on a narrow screen."""
    return "<br>".join(textwrap.wrap(escape(test.test), _LABEL_WIDTH))


def _points(share: float | None) -> float | None:
    return None if share is None else 100 * share


def training_figure(
    name: str,
    drawn: Sequence[Mapping[str, Any]],
    chance: float | None,
    on: str,
    colours: Palette | None = None,
) -> go.Figure:
    """Right answers over the updates on a slice or on retained text, a line a model, or over those
    of a run, a line a group of questions; with intervals."""
    colours = colours or palette()
    others = iter(series_colours(colours))
    figure = go.Figure()
    for curve in drawn:
        points = pd.DataFrame(curve["points"])
        audited = curve["model"] in ("model", SIDES["forget"])
        color = colours.forget if audited else next(others)
        figure.add_scatter(
            x=points["step"],
            y=points["value"],
            error_y=interval_bars(
                points["value"], points["low"], points["high"], color, thickness=1.2
            ),
            mode="lines+markers",
            name=ROLE_WORDS.get(curve["model"], escape(str(curve["model"]))),
            line={
                "color": color,
                "width": 3 if audited else 2,
                "dash": None if audited else "dash",
            },
            hovertemplate="after %{x}: %{y:.3f}",
        )
    chance_line(figure, chance, colours, position="bottom left")
    heading = name.removeprefix("Relearning, ")
    heading = f"{heading[:1].upper()}{heading[1:]}"
    return lay_out(
        figure, escape(heading), f"optimizer updates on {on}", "share right", 300
    ).update_yaxes(range=[0, 1.03])
