"""The URL as mirror of the session: shared values, widgets that live in the address, notices.

The session is the truth while it lives; the URL seeds a new session and is read again only when the
page changes. Accepted trade-off: editing the address by hand on the same page needs a reload (which
browsers do anyway), in exchange a fast click is never undone by the address it has just outrun.
"""

import os
from collections.abc import Callable, Iterable
from typing import TypeVar

import streamlit as st

T = TypeVar("T")
_NONE = "none"
_CORE = ("profile", "layer", "expert", "sel", "weights", "run", "job", "sweep", "audit")


# --- notices: what was refused this run, shown once above the page -------------------------------


def notice(sentence: str) -> None:
    """Keep a sentence for the person; `navigation` shows it above the page, once."""
    waiting: list[str] = st.session_state.setdefault("_notices", [])
    if sentence not in waiting:
        waiting.append(sentence)


def take_notices() -> list[str]:
    """The sentences that wait, oldest first; afterwards none wait."""
    waiting: list[str] = st.session_state.get("_notices", [])
    st.session_state["_notices"] = []
    return waiting


# --- the core values and their mirror ------------------------------------------------------------


def begin(page: str) -> None:
    """Once per run, before a page: read the URL where it counts, then mirror the session."""
    if st.session_state.get("_page") != page:
        st.session_state["_page"] = page
        _seed()
    _mirror()


def core() -> dict[str, str]:
    """The shared values as text, by URL name; only what differs from its default is there."""
    if "_core" not in st.session_state:
        st.session_state["_core"] = {}
        _seed()
    known: dict[str, str] = st.session_state["_core"]
    return known


def _seed() -> None:
    known: dict[str, str] = st.session_state.setdefault("_core", {})
    for name in _CORE:
        if name in st.query_params:
            known[name] = st.query_params[name]


def put(**values: str | None) -> None:
    """Set shared values, None for back to default, and mirror them in the URL."""
    known = core()
    for name, value in values.items():
        if value is None:
            known.pop(name, None)
        else:
            known[name] = value
    _mirror()


def _mirror() -> None:
    known = core()
    for name in _CORE:
        value = known.get(name)
        if value is None:
            if name in st.query_params:
                del st.query_params[name]
        elif st.query_params.get(name) != value:
            st.query_params[name] = value


def bound(
    name: str,
    default: T,
    options: Iterable[T] | None = None,
    read: Callable[[str], T] | None = None,
    write: Callable[[T], str] = str,
) -> T:
    """Bind the widget `key=name` to the URL; call right before the widget, without a default there.

    What counts, in this order: the widget's own value, the URL, what it was when its page was last
    seen, `default`. `read` turns the URL's text into a value and raises ValueError when it can't,
    `write` is its way back; without `read` the text is matched against `options` (or taken as it
    is). A refused value becomes a notice.
    """
    allowed = list(options) if options is not None else None
    kept = st.session_state.setdefault("_kept", {})
    value: T = default
    if name in st.session_state:
        value = st.session_state[name]
    elif name in st.query_params:
        value = _from_url(name, default, allowed, read)
    elif name in kept:
        value = kept[name]
    if allowed is not None and value not in allowed:
        value = default
    st.session_state[name] = value
    kept[name] = value
    if value == default:
        if name in st.query_params:
            del st.query_params[name]
    elif st.query_params.get(name) != write(value):
        st.query_params[name] = write(value)
    return value


def bound_many(name: str, default: list[str], options: Iterable[str]) -> list[str]:
    """`bound` for a widget that chooses several of `options`; the address holds them with commas.

    What is no longer on offer is left out; what the address names and is not there is said.
    """
    offered = list(options)
    for place in (st.session_state, st.session_state.setdefault("_kept", {})):
        if place.get(name):
            # Nothing left of a choice is no choice; an empty one was made by the person.
            place[name] = [value for value in place[name] if value in offered] or default

    def read(text: str) -> list[str]:
        named = [] if text == _NONE else list(dict.fromkeys(text.split(",")))
        missing = [value for value in named if value not in offered]
        if missing:
            notice(
                f"The address's {name!r} names what is not here: {', '.join(missing)[:200]}. "
                "It was left out."
            )
        known = [value for value in named if value in offered]
        return known if known or not named else default

    return bound(name, default, read=read, write=lambda values: ",".join(values) or _NONE)


def unbind(name: str) -> None:
    """Forget a bound value everywhere, so that the next `bound` starts from its default."""
    st.session_state.pop(name, None)
    st.session_state.get("_kept", {}).pop(name, None)
    if name in st.query_params:
        del st.query_params[name]


def _from_url(name: str, default: T, allowed: list[T] | None, read: Callable[[str], T] | None) -> T:
    text = st.query_params[name]
    try:
        if read is not None:
            value = read(text)
            if allowed is None or value in allowed:
                return value
        elif allowed is None:
            return text  # type: ignore[return-value]
        else:
            for option in allowed:
                if str(option) == text:
                    return option
    except ValueError:
        pass
    # A folder of this machine is offered to choose from, and not told to whoever guesses.
    named = [str(option) for option in allowed or () if os.sep not in str(option)][:12]
    choices = f" It can be: {', '.join(named)}." if named else ""
    notice(f"The address's {name!r} was refused (found {text[:40]!r}).{choices}")
    return default
