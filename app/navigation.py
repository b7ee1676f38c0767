"""The shell around every page: the list of pages, the sidebar, and errors as sentences.

Pages are files of `pages/`, one question each. Only a `TraceError` becomes a sentence here;
anything else is a bug and stays visible as one (logged by Streamlit, no details in the browser).
"""

import os
from pathlib import Path
from typing import Any

import streamlit as st
from streamlit.runtime.pages_manager import PagesManager

from app import house, memory, state, wording
from trace_engine.errors import TraceError
from trace_engine.threads import wait_briefly

ASSETS = Path(__file__).parent / "assets"
"""Own files: a Material icon as page icon would be fetched from the network."""
GROUPS: dict[str, tuple[tuple[str, str, str], ...]] = {
    "Look": (
        ("start", "Start", ":material/home:"),
        ("data_model", "Data & model", ":material/dataset:"),
        ("routing_map", "Routing map", ":material/grid_on:"),
        ("expert", "Expert", ":material/search:"),
    ),
    "Act": (
        ("selection", "Selection & weights", ":material/tune:"),
        ("unlearn", "Unlearn", ":material/play_circle:"),
    ),
    "Judge": (
        ("compare", "Compare", ":material/compare_arrows:"),
        ("causal", "Causal evidence", ":material/science:"),
        ("audit", "Audit", ":material/fact_check:"),
    ),
    "Machine": (("status", "Status", ":material/memory:"),),
}


def path_of(page: str) -> str:
    """The file of a page, as `st.page_link` and `st.switch_page` want it."""
    return f"pages/{page}.py"


def go(page: str) -> None:
    """Open a page; what pages share travels with it. Streamlit forbids it inside callbacks."""
    st.switch_page(path_of(page))


def link(page: str, label: str, *, icon: str | None = None) -> None:
    """A link to a page."""
    st.page_link(path_of(page), label=label, icon=icon)


def profile() -> state.ProfileView:
    """The profile that a page is about; without one the page says so and ends."""
    view = state.current_profile()
    if view is None:
        st.info(wording.NO_PROFILE, icon=":material/info:")
        link("data_model", "Use my own data", icon=":material/upload:")
        st.stop()
    return view


def shell() -> None:
    """First line of every page: make sure that the page runs inside the app's shell.

    Streamlit takes a folder named `pages` for its older kind of app until `st.navigation` has been
    called once in the process, so the first visitor of a fresh server who follows a deep link gets
    the page's file alone. Declaring the pages ends that mode; the rerun starts at the entry.
    """
    if PagesManager.uses_pages_directory:
        _declare()
        st.rerun()


def _declare(*, hidden: bool = False) -> Any:
    pages = {
        group: [
            st.Page(
                path_of(name),
                title=title,
                icon=icon,
                default=name == "start",
                url_path=None if name == "start" else name,
            )
            for name, title, icon in entries
        ]
        for group, entries in GROUPS.items()
    }
    return st.navigation(pages, expanded=True, position="hidden" if hidden else "sidebar")


def run() -> None:
    """The whole app: called by `streamlit_app.py`, once per run."""
    wait_briefly(os.environ)
    memory.keep_small()
    house.cap_uploads()
    st.set_page_config(
        page_title="TRACE · routing-aware unlearning",
        page_icon=str(ASSETS / "icon.svg"),
        layout="wide",
        menu_items={"About": wording.ABOUT},
    )
    st.logo(str(ASSETS / "logo.svg"), icon_image=str(ASSETS / "icon.svg"), size="large")
    try:
        if not house.let_in():
            _declare(hidden=True)  # else Streamlit draws the list of pages by itself
            return
    except TraceError as error:  # a rule that cannot be read lets nobody in
        st.error(wording.plain(str(error)), icon=":material/error:")
        return
    page = _declare()
    state.begin(page.url_path)
    _sidebar()
    above = st.container()
    try:
        page.run()
    except TraceError as error:
        st.error(wording.plain(str(error)), icon=":material/error:")
    finally:
        for sentence in state.take_notices():
            above.warning(wording.plain(sentence), icon=":material/info:")
        memory.set_imports_apart()


def _sidebar() -> None:
    from app import sidebar

    with st.sidebar:
        sidebar.draw()
