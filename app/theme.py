"""Colours that mean something, in light and dark: forget is orange, retain is blue, everywhere.

Orange and blue stay apart under every common colour blindness. In dark mode the scales start from
the dark background, so that the strongest cell always stands out most. Accepted trade-off: figures
are built for the theme in use, and a theme switch costs a rerun.
"""

from dataclasses import dataclass

import streamlit as st

Scale = list[list[float | str]]


@dataclass(frozen=True, slots=True)
class Palette:
    """The colours of one theme; every figure takes them from here."""

    dark: bool
    text: str
    muted: str
    background: str
    grid: str
    forget: str
    retain: str
    good: str
    neutral: str
    diverging: Scale
    """Retain-side blue, neutral at the middle, forget-side orange."""
    sequential: Scale
    """One hue from almost nothing to strong, for shares."""


def _scale(*colours: str) -> Scale:
    last = len(colours) - 1
    return [[position / last, colour] for position, colour in enumerate(colours)]


LIGHT = Palette(
    dark=False,
    text="#1B232E",
    muted="#5B6776",
    background="#FFFFFF",
    grid="#D5DBE2",
    forget="#C8500A",
    retain="#0A66A8",
    good="#007A5A",
    neutral="#8A95A3",
    diverging=_scale(
        "#08345F", "#1F6FB0", "#86BBDD", "#DCE8F0", "#F4F4F2", "#FBE3CC", "#F3A765", "#D2600F",
        "#7A2F02",
    ),
    sequential=_scale("#F2F4F5", "#CFE3E6", "#93C4CB", "#4F9BA8", "#1F6F80", "#093F4D"),
)  # fmt: skip
DARK = Palette(
    dark=True,
    text="#E6EAF0",
    muted="#9DA9B8",
    background="#12161C",
    grid="#343D4A",
    forget="#F7954D",
    retain="#5DB0EE",
    good="#3CCB9F",
    neutral="#7D8998",
    diverging=_scale(
        "#B5DCFA", "#5DB0EE", "#2C6FA8", "#203E59", "#20262F", "#54331F", "#A85A1E", "#F7954D",
        "#FFD9B8",
    ),
    sequential=_scale("#1D232C", "#1F3F4A", "#236575", "#3590A0", "#6FC2CB", "#CDF3F3"),
)  # fmt: skip


def palette() -> Palette:
    """The colours of the theme that the browser shows; light until the browser has said."""
    return DARK if st.context.theme.type == "dark" else LIGHT
