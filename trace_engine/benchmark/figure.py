"""The table as one picture: curves per method, and each row's utility at matched forgetting.

Drawn as plain SVG text, so that a table needs no drawing library and the same numbers give the same
file.
"""

from html import escape

import pandas as pd

from trace_engine.benchmark.settings import BenchConfig
from trace_engine.benchmark.table import ALL, Table

COLOURS = ("#5B6776", "#C8500A", "#0A66A8", "#007A5A", "#8B3FA0", "#A87B00", "#B0203A", "#2B7F93")
_PANEL, _GAP, _LEFT, _TOP = 250, 40, 60, 60


def svg(config: BenchConfig, table: Table) -> str:
    """One row of panels per retain set: a panel per method, forget accuracy against utility, with
    each row's interval at the first level."""
    width = _LEFT + len(config.methods) * (_PANEL + _GAP)
    height = _TOP + len(config.retain) * (_PANEL + 70) + 20
    names = list(config.weightings)
    colour = {name: COLOURS[at % len(COLOURS)] for at, name in enumerate(names)}
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="#FFFFFF"/>',
    ]
    x = _LEFT
    for name in names:
        parts.append(f'<rect x="{x}" y="14" width="12" height="12" fill="{colour[name]}"/>')
        parts.append(_text(x + 17, 25, name))
        x += 40 + 7 * len(name)
    for down, retain in enumerate(config.retain):
        for right, method in enumerate(config.methods):
            left, top = _LEFT + right * (_PANEL + _GAP), _TOP + down * (_PANEL + 70)
            parts += _frame(left, top, f"{retain}: {method}", config.levels[0])
            for name in names:
                parts += _row(table, (retain, method, name), colour[name], left, top, config)
    return "\n".join([*parts, "</svg>", ""])


def _row(
    table: Table, row: tuple[str, str, str], colour: str, left: int, top: int, config: BenchConfig
) -> list[str]:
    curve = _of(table.curves, row).sort_values("level")
    parts = []
    if len(curve) > 1:
        points = " ".join(
            f"{_x(level, left):.1f},{_y(utility, top):.1f}"
            for level, utility in zip(curve["level"], curve["utility"], strict=True)
        )
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>'
        )
    figures = _of(table.figures, row)
    at = figures[
        (figures["measure"] == "utility")
        & (figures["group"] == ALL)
        & (figures["level"] == config.levels[0])
    ]
    if at.empty or pd.isna(at["value"].iloc[0]):
        return parts
    # Rows beside each other, so that intervals do not cover each other.
    shift = 5 * (list(config.weightings).index(row[2]) - (len(config.weightings) - 1) / 2)
    x = _x(config.levels[0], left) + shift
    parts.append(
        f'<circle cx="{x:.1f}" cy="{_y(at["value"].iloc[0], top):.1f}" r="3" fill="{colour}"/>'
    )
    low, high = at["low"].iloc[0], at["high"].iloc[0]
    if not (pd.isna(low) or pd.isna(high)):
        parts.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{_y(low, top):.1f}" y2="{_y(high, top):.1f}" '
            f'stroke="{colour}" stroke-width="1.5"/>'
        )
    return parts


def _of(frame: pd.DataFrame, row: tuple[str, str, str]) -> pd.DataFrame:
    retain, method, weighting = row
    same = (frame["retain"] == retain) & (frame["method"] == method)
    return frame[same & (frame["weighting"] == weighting)]


def _frame(left: int, top: int, title: str, level: float) -> list[str]:
    bottom = top + _PANEL
    parts = [
        _text(left, top - 8, title),
        f'<rect x="{left}" y="{top}" width="{_PANEL}" height="{_PANEL}" fill="none" '
        'stroke="#8A95A3"/>',
        f'<line x1="{_x(level, left):.1f}" x2="{_x(level, left):.1f}" y1="{top}" y2="{bottom}" '
        'stroke="#8A95A3" stroke-dasharray="3 3"/>',
        _text(left + _PANEL / 2, bottom + 34, "forget accuracy", "middle"),
    ]
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts.append(_text(_x(tick, left), bottom + 16, f"{tick:g}", "middle"))
        parts.append(_text(left - 6, _y(tick, top) + 4, f"{tick:g}", "end"))
    middle = top + _PANEL / 2
    parts.append(
        f'<text x="{left - 40}" y="{middle:.0f}" text-anchor="middle" fill="#1B232E" '
        f'transform="rotate(-90 {left - 40} {middle:.0f})">utility</text>'
    )
    return parts


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    # XML has no controls, escaped or not.
    shown = escape("".join(c if c.isprintable() else "�" for c in text))
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="#1B232E">{shown}</text>'


def _x(value: float, left: int) -> float:
    return left + value * _PANEL


def _y(value: float, top: int) -> float:
    return top + (1 - value) * _PANEL
