"""Tokens in context, coloured by gate weight, readable in both themes and without colour.

Tokens are anyone's text: each is escaped before it reaches `st.html`, and text of a user's own sets
waits behind a reveal, once per session. Accepted trade-off: a fixed set of shades instead of a
continuous scale, so that the legend can show all of them.
"""

import html
from collections.abc import Sequence

import streamlit as st

from app import state, wording
from trace_engine.bundled import PREFIX
from trace_engine.routing import Context

_RGB = {"forget": "216,96,15", "retain": "20,120,200"}
_STEPS = (0.0, 0.1, 0.25, 0.5, 0.75)
"""Gate weights from which the next stronger shade is used."""
_REVEALED = "_revealed"


def _shade(side: str, gate: float) -> str:
    step = sum(gate >= least for least in _STEPS)
    return f"rgba({_RGB[side]},{0.10 * step:.2f})"


def _token(text: str, gate: float, routed: bool, centre: bool, side: str) -> str:
    shown = html.escape(text).replace("\n", "⏎ ")
    if not routed:
        return f"<span>{shown}</span>"
    bold = ";font-weight:700;outline:1.5px solid currentColor;outline-offset:-1px" if centre else ""
    return (
        f'<span title="gate weight {gate:.2f}" style="background-color:{_shade(side, gate)};'
        "text-decoration:underline;text-decoration-thickness:1.5px;text-underline-offset:3px;"
        f'border-radius:3px{bold}">{shown}</span>'
    )


def context_html(context: Context, side: str) -> str:
    """One context as escaped HTML: routed tokens shaded and underlined, the centre outlined."""
    parts = [
        _token(text, gate, routed, place == context.centre, side)
        for place, (text, gate, routed) in enumerate(
            zip(context.tokens, context.gates, context.routed, strict=True)
        )
    ]
    return (
        '<p style="margin:0 0 .7rem 0;line-height:1.75;white-space:pre-wrap;'
        'overflow-wrap:anywhere;font-size:.95rem">' + "".join(parts) + "</p>"
    )


def show_contexts(contexts: Sequence[Context], side: str, name: str) -> None:
    """The contexts of one side, or the sentence that there are none."""
    if not contexts:
        st.caption(f"No sampled token of {wording.plain(name)} goes to this expert.")
        return
    st.html("".join(context_html(context, side) for context in contexts))


def legend(side: str = "forget") -> None:
    """What shade, underline and outline mean."""
    bounds = [*_STEPS[1:], 1.0]
    swatches = "".join(
        f'<span style="background-color:{_shade(side, least)};text-decoration:underline;'
        'border-radius:3px;padding:0 .35em;margin-right:.35em;white-space:nowrap">'
        f"{least:g}–{most:g}</span>"
        for least, most in zip(_STEPS, bounds, strict=True)
    )
    st.html(
        '<p style="font-size:.85rem;margin:0">Underlined tokens go to this expert; shade is the '
        f"gate weight: {swatches} The outlined token is the one that was picked.</p>"
    )


def is_bundled(view: state.ProfileView) -> bool:
    """Whether both sets come with the project; their text is dictionary-level and open."""
    if view.key in (state.BUNDLED, state.SAME_STYLE):
        return True
    return all(
        str(state.recorded_set(view.profile, side).get("source", "")).startswith(PREFIX)
        for side in ("forget", "retain")
    )


def may_show(view: state.ProfileView) -> bool:
    """Whether the profile's text is open or has been revealed in this session."""
    return is_bundled(view) or text_revealed()


def revealed(view: state.ProfileView, key: str) -> bool:
    """Whether text may be shown; draws the reveal button where it may not yet."""
    if may_show(view):
        return True
    st.info(
        "The words come from your own sets and may be hazardous. They stay hidden until you "
        "reveal them; that holds for this session.",
        icon=":material/visibility_off:",
    )
    st.button("Reveal the text", key=f"reveal-{key}", on_click=reveal)
    return False


def text_revealed() -> bool:
    """Whether this session has revealed the text of its own sets."""
    return bool(st.session_state.get(_REVEALED))


def reveal() -> None:
    """Show the text of the user's own sets for the rest of the session."""
    st.session_state[_REVEALED] = True
