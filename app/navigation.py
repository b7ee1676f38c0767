"""The shell around every page: the list of pages, the sidebar, and errors as sentences.

Pages are files of `pages/`, one question each. Only a `TraceError` becomes a sentence here;
anything else is a bug and stays visible as one (logged by Streamlit, no details in the browser).
"""

from typing import Any

import streamlit as st

from app import state, wording
from trace_engine.errors import TraceError

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
    "Judge": (("compare", "Compare", ":material/compare_arrows:"),),
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


def run() -> None:
    """The whole app: called by `streamlit_app.py`, once per run."""
    st.set_page_config(
        page_title="TRACE · routing-aware unlearning",
        page_icon=":material/route:",
        layout="wide",
        menu_items={"About": wording.ABOUT},
    )
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
    page: Any = st.navigation(pages, expanded=True)
    state.begin(page.url_path)
    _sidebar()
    above = st.container()
    try:
        page.run()
    except TraceError as error:
        st.error(str(error), icon=":material/error:")
    finally:
        for sentence in state.take_notices():
            above.warning(sentence, icon=":material/info:")


def _sidebar() -> None:
    from app import sidebar

    with st.sidebar:
        sidebar.draw()
