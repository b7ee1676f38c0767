"""The house's rules for a server that others use: look only, who is let in, how much at once.

Set by whoever starts the server, in its environment; nobody can change them from a page. They bind
the pages, not the command line or Python, whose users have the machine anyway.
"""

import hashlib
import json
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import streamlit as st
from streamlit import config as settings
from streamlit.errors import StreamlitAuthError

from app import inspecting, serving
from trace_engine import health, runs
from trace_engine.bundled import PACK
from trace_engine.config import ProfileConfig, UnlearnConfig
from trace_engine.errors import InputError, RunError

READ_ONLY = (
    "This server is for looking: it starts, changes and deletes nothing, and takes no text and no "
    "model of yours. Start your own (README) to do so."
)

NO_LOGIN = (
    "This server is told to ask who you are, and has nobody to ask: whoever runs it must install "
    "the login and name a provider (SECURITY.md, “For a team”)."
)


_CAP = "server.maxUploadSize"
_place = threading.Lock()


@dataclass(frozen=True, slots=True)
class Rules:
    """What the environment says; nothing set means a person's own machine, without limits."""

    read_only: bool = False
    """`TRACE_READ_ONLY`: bundled sets and models, and what is in the list; nothing is started."""
    login: bool = False
    """`TRACE_LOGIN`: pages are drawn only for a person whom Streamlit's login (OIDC) knows."""
    most_active: int | None = None
    """`TRACE_MOST_ACTIVE`: runs, audits, evidence, exports and looks at a model that wait or
    compute at once: each person's where there is a login, everybody's where there is none."""
    most_steps: int | None = None
    """`TRACE_MOST_STEPS`: optimizer steps of one run, and of one training of an audit."""
    most_upload: int | None = None
    """`TRACE_MOST_UPLOAD_MB`: size of a set that is uploaded or typed, in bytes here."""
    hosts: frozenset[str] = frozenset()
    """`TRACE_HOSTS`: names that the server answers to besides its own."""

    @property
    def shared(self) -> bool:
        """Whether others than the machine's owner look at the pages."""
        return self.read_only or self.login


def rules() -> Rules:
    """The rules in force. Raises InputError for a value that is none, so that a slip shuts out
    instead of letting in."""
    mega = _number("TRACE_MOST_UPLOAD_MB")
    return Rules(
        read_only=_switch("TRACE_READ_ONLY"),
        login=_switch("TRACE_LOGIN"),
        most_active=_number("TRACE_MOST_ACTIVE"),
        most_steps=_number("TRACE_MOST_STEPS"),
        most_upload=None if mega is None else mega * 2**20,
        hosts=serving.hosts(),
    )


def may_change() -> None:
    """Raises RunError on a server that is for looking only."""
    if rules().read_only:
        raise RunError(READ_ONLY)


def may_start(
    config: UnlearnConfig | ProfileConfig | None = None, *, steps: int = 0, asking: str = "this one"
) -> None:
    """Raises RunError where the house allows no run, none so long, or no further one now. `asking`
    is what asks for the steps."""
    house = rules()
    may_change()
    steps = max(steps, getattr(config, "max_steps", 0))
    if house.most_steps is not None and steps > house.most_steps:
        raise RunError(
            f"A run may have {house.most_steps:,} steps on this server, and {asking} asks for "
            f"{steps:,}."
        )
    if house.most_active is not None:
        who = person()
        count = health.at_work(who) + inspecting.under_way(who)
        if count >= house.most_active:
            raise RunError(_full(count, yours=who is not None))


@contextmanager
def starting(
    config: UnlearnConfig | ProfileConfig | None = None, *, steps: int = 0, asking: str = "this one"
) -> Iterator[str | None]:
    """Around the start of anything that computes: asks `may_start`, and gives the label of who
    starts it. Where the number is limited, one start at a time, so that two tabs do not both find
    the last place."""
    with _place if rules().most_active is not None else nullcontext():
        may_start(config, steps=steps, asking=asking)
        yield person()


def _full(count: int, *, yours: bool) -> str:
    whose = " of yours" if yours else ""
    works = f"job{whose} waits or computes" if count == 1 else f"jobs{whose} wait or compute"
    taken = "a person may have here" if yours else "this server takes"
    return (
        f"{count} {works}, as many as {taken} at once: runs, audits, causal evidence, exports, "
        "looks at a model. Wait until one has ended, or stop one."
    )


def may_take(size: int) -> None:
    """Raises InputError for a set of one's own that is too large for this server."""
    house = rules()
    if house.read_only:
        raise InputError(READ_ONLY)
    if house.most_upload is not None and size > house.most_upload:
        raise InputError(
            f"A set may have {house.most_upload / 2**20:g} MB on this server, and this one has "
            f"{size / 2**20:.1f} MB."
        )


@cache
def _own_cap() -> int:
    """What the server takes in one upload where no rule says less, in MB: read before it is set."""
    return int(settings.get_option(_CAP))


def cap_uploads() -> None:
    """Let the server itself refuse an upload that the rules refuse, by the length that it announces
    and before it is in memory: `may_take` sees only what is there already."""
    own = _own_cap()
    try:
        house = rules()
    except InputError:  # nobody is let in
        house = Rules(read_only=True)
    allowed = own if house.most_upload is None else min(own, house.most_upload // 2**20)
    settings.set_option(_CAP, 0 if house.read_only else allowed)


def shown(text: str) -> str:
    """The text as visitors may read it: folders of this server by a name that leads there for who
    runs it. On a person's own machine it stays as it is."""
    try:
        shared = rules().shared
    except InputError:  # nobody is let in
        shared = True
    if not shared:
        return text
    home = runs.home()
    for folder, name in (
        (home, "$TRACE_HOME"),
        (home.resolve(), "$TRACE_HOME"),
        (PACK.parents[2], "$TRACE"),
        (Path.home(), "~"),
    ):
        if len(folder.parts) > 1:
            text = re.sub(rf"{re.escape(str(folder))}(?![\w.-])", name, text)
    return text


def person() -> str | None:
    """A label of who is logged in, the same at every visit, from which no name can be read off;
    None where nobody has to say who they are."""
    if not rules().login:
        return None
    who = json.dumps([st.user.get(name) for name in ("iss", "sub")])
    return hashlib.sha256(who.encode()).hexdigest()[:16]


def let_in() -> bool:
    """Whether the page may be drawn; draws the login where it may not."""
    if not rules().login:
        return True
    if st.user.get("is_logged_in"):
        return True
    st.title("TRACE")
    st.write("This server asks who you are.")
    if st.button("Log in", type="primary", key="log_in"):
        try:
            st.login()
        except StreamlitAuthError:
            st.error(NO_LOGIN, icon=":material/error:")
    return False


def _switch(name: str) -> bool:
    value = os.environ.get(name, "").strip().lower()
    if value not in ("", "0", "1", "no", "yes", "false", "true"):
        raise InputError(f"{name} must be 1 or 0, and is neither.")
    return value in ("1", "yes", "true")


def _number(name: str) -> int | None:
    value = os.environ.get(name, "").strip()
    if not value:
        return None
    if not value.isascii() or not value.isdigit() or int(value[:12]) < 1:
        raise InputError(f"{name} must be a whole number from 1 on, and is none.")
    return int(value[:12])
