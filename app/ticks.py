"""What a clock draws again, and what it does when that is gone or damaged: no page catches what is
raised inside a fragment.

Accepted trade-off: what vanishes is noticed at the next tick, and then the whole page is drawn.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import streamlit as st

from app import wording
from trace_engine.errors import TraceError

Found = TypeVar("Found")


def look(read: Callable[[], Found]) -> Found:
    """What a tick looks at first. Where another tab has deleted it, the whole page is drawn once
    more; the page reads the same, and says that it is gone."""
    try:
        return read()
    except TraceError:
        st.rerun(scope="app")


@contextmanager
def said() -> Iterator[None]:
    """A refusal while drawing becomes its sentence, in the fragment's place."""
    try:
        yield
    except TraceError as error:
        st.error(wording.plain(str(error)), icon=":material/error:")
