"""The report's drawings, as SVG inside the page: intervals side by side, and curves over steps.

Series differ in shape and dash as well as in colour, so that a black-and-white print can be read.
Every drawing has a title for a screen reader; its numbers stand in a table beside it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from trace_engine.audit.html import Markup, el, together
from trace_engine.spelling import number

WIDTH: Final = 640
INKS: Final = ("#b5541c", "#2b5c9e", "#4d4d4d", "#7a3b8f")
_DASHES: Final = (None, "6 3", "2 3", "8 3 2 3")
_LEFT: Final = 170
_ROW: Final = 22


@dataclass(frozen=True, slots=True)
class Dot:
    """A figure with its interval, in a named row."""

    row: str
    value: float
    low: float | None
    high: float | None
    series: int = 0


def dots(
    title: str,
    rows: Sequence[Dot],
    series: Sequence[str],
    *,
    guides: Sequence[tuple[float, str]],
    least: float = 0.0,
    left: int = _LEFT,
) -> Markup:
    """Intervals on one axis from `least` to 1, a line a row; `guides` are named vertical lines.
    `left` is the room for the rows' names."""
    names = list(dict.fromkeys(dot.row for dot in rows))
    lanes = max(1, len(series))
    pitch = max(_ROW, 9 * lanes + 6)
    height = pitch * len(names) + 48

    def x(value: float) -> float:
        share = (min(1.0, max(least, value)) - least) / (1.0 - least)
        return round(left + (WIDTH - left - 20) * share, 1)

    bottom = pitch * len(names) + 14
    drawn = [_axis(x, bottom, least)]
    for at, text in guides:
        drawn.append(_guide(x(at), bottom, text))
    for place, name in enumerate(names):
        middle = 14 + pitch * place + pitch / 2
        drawn.append(_text(left - 8, middle + 4, name, "end"))
        for dot in (dot for dot in rows if dot.row == name):
            y = round(middle + 9 * (dot.series - (lanes - 1) / 2), 1)
            if dot.low is not None and dot.high is not None:
                drawn.append(_line(x(dot.low), y, x(dot.high), y, INKS[dot.series], width=2))
            drawn.append(_mark(x(dot.value), y, dot.series))
    return _framed(title, height, drawn, series)


@dataclass(frozen=True, slots=True)
class Curve:
    """Figures over steps."""

    name: str
    steps: Sequence[int]
    values: Sequence[float]
    lows: Sequence[float | None]
    highs: Sequence[float | None]


def curves(title: str, drawn_curves: Sequence[Curve], *, unit: str, chance: float | None) -> Markup:
    """Shares from 0 to 1 over steps, with intervals as bars."""
    left, right, top, bottom = 50, WIDTH - 20, 14, 214
    last = max(1, *(max(curve.steps) for curve in drawn_curves))

    def x(step: float) -> float:
        return round(left + (right - left) * step / last, 1)

    def y(value: float) -> float:
        return round(bottom - (bottom - top) * min(1.0, max(0.0, value)), 1)

    parts = [_line(left, bottom, right, bottom, "#888"), _line(left, top, left, bottom, "#888")]
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts.append(_text(left - 6, y(tick) + 4, number(tick, ".2f"), "end"))
        parts.append(_line(left, y(tick), right, y(tick), "#ddd"))
    for step in sorted({step for curve in drawn_curves for step in curve.steps}):
        parts.append(_text(x(step), bottom + 16, str(step), "middle"))
    parts.append(_text((left + right) / 2, bottom + 34, unit, "middle"))
    if chance is not None:
        parts.append(_line(left, y(chance), right, y(chance), "#888", dash="1 3"))
    for place, curve in enumerate(drawn_curves):
        ink = INKS[place % len(INKS)]
        # Side by side by a hair, so that bars of two series are both seen.
        shift = 3 * (place - (len(drawn_curves) - 1) / 2)
        points = [(x(s) + shift, y(v)) for s, v in zip(curve.steps, curve.values, strict=True)]
        path = " ".join(f"{px:.1f},{py:.1f}" for px, py in points)
        parts.append(
            el("polyline", points=path, fill="none", stroke=ink, stroke_width=1.5,
               stroke_dasharray=_DASHES[place % len(_DASHES)])
        )  # fmt: skip
        for (px, py), low, high in zip(points, curve.lows, curve.highs, strict=True):
            if low is not None and high is not None:
                parts.append(_line(px, y(low), px, y(high), ink))
            parts.append(_mark(px, py, place))
    if chance is not None:
        parts.append(_text(right - 8, y(chance) + 15, "guessing", "end"))
    return _framed(title, bottom + 44, parts, [curve.name for curve in drawn_curves])


def _framed(title: str, height: float, parts: Sequence[Markup], series: Sequence[str]) -> Markup:
    drawing = el(
        "svg",
        el("title", title),
        *parts,
        viewBox=f"0 0 {WIDTH} {height:.0f}",
        role="img",
        aria_label=title,
    )
    keys = [
        el("span", el("svg", _mark(8, 7, place), viewBox="0 0 16 14", class_="key"), " ", name)
        for place, name in enumerate(series)
    ]
    legend = el("div", *keys, class_="legend") if len(series) > 1 else None
    return el("figure", el("figcaption", title), legend, el("div", drawing, class_="drawing"))


def _axis(x: Any, bottom: float, least: float) -> Markup:
    parts = [_line(x(least), bottom, x(1), bottom, "#888")]
    for tick in (tick / 4 for tick in range(round(4 * least), 5)):
        parts.append(_line(x(tick), 14, x(tick), bottom, "#ddd"))
        parts.append(_text(x(tick), bottom + 16, number(tick, ".2f"), "middle"))
    return together(*parts)


def _guide(at: float, bottom: float, name: str) -> Markup:
    return together(
        _line(at, 8, at, bottom, "#888", dash="1 3"),
        _text(at, bottom + 30, name, "middle"),
    )


def _line(
    x1: float, y1: float, x2: float, y2: float, ink: str, *, width: float = 1,
    dash: str | None = None,
) -> Markup:  # fmt: skip
    return el("line", x1=x1, y1=y1, x2=x2, y2=y2, stroke=ink, stroke_width=width,
              stroke_dasharray=dash)  # fmt: skip


def _text(x: float, y: float, text: str, anchor: str) -> Markup:
    return el("text", text, x=x, y=y, text_anchor=anchor)


def _mark(x: float, y: float, series: int) -> Markup:
    ink = INKS[series % len(INKS)]
    shape = series % 4
    if shape == 0:
        return el("circle", cx=x, cy=y, r=4, fill=ink)
    if shape == 1:
        return el("rect", x=x - 3.5, y=y - 3.5, width=7, height=7, fill=ink)
    if shape == 2:
        return el("polygon", points=f"{x - 4},{y + 3.5} {x + 4},{y + 3.5} {x},{y - 4.5}", fill=ink)
    return el("polygon", points=f"{x - 5},{y} {x},{y - 5} {x + 5},{y} {x},{y + 5}", fill="#fff",
              stroke=ink, stroke_width=1.5)  # fmt: skip
