"""Memory that sessions leave behind: kept in few heaps, and given back to the system.

Streamlit runs each page in a thread, and glibc gives threads heaps of their own, up to eight a
core; what is freed in them stays with the process. So there are two heaps, large blocks are the
system's at once, and some time after a session has ended all heaps are trimmed. Accepted trade-off:
only glibc has these doors; with another C library, or where the environment sets glibc's allocator
itself, nothing is done.
"""

import ctypes
import os
from functools import cache
from threading import Lock, Timer

import streamlit as st

HEAPS = 2
LARGE_BYTES = 2**20
"""Blocks of this size and more are mapped one by one, and unmapped when they are freed."""
QUIET_SECONDS = 1.0
"""After the last of several sessions that end together."""
_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8  # of glibc's malloc.h
_lock = Lock()
_waiting: Timer | None = None


def keep_small() -> None:
    """Once a run of a page: the allocator's settings, and a trim when this session ends."""
    if _allocator() is not None:
        _session()


@cache
def _allocator() -> ctypes.CDLL | None:
    """The process's C library, settled; None where it is not to be touched."""
    if any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ):
        return None
    try:
        library = ctypes.CDLL(None)
        mallopt, _ = library.mallopt, library.malloc_trim
    except (OSError, AttributeError, TypeError):
        return None
    mallopt(_M_ARENA_MAX, HEAPS)
    mallopt(_M_MMAP_THRESHOLD, LARGE_BYTES)
    return library


def _ended(_: object) -> None:
    """Ask for a trim; one is enough for all that end until then."""
    global _waiting
    with _lock:
        if _waiting is not None:
            _waiting.cancel()
        _waiting = Timer(QUIET_SECONDS, trim)
        _waiting.daemon = True
        _waiting.start()


@st.cache_resource(scope="session", on_release=_ended, show_spinner=False)
def _session() -> object:
    """Lives as long as the session's connection."""
    return object()


def trim() -> None:
    """Give back what the heaps hold free."""
    library = _allocator()
    if library is not None:
        library.malloc_trim(0)
