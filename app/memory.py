"""Memory: what sessions leave goes back to the system, what imports leave is not searched again.

Streamlit runs each page in a thread, and glibc gives threads heaps of their own, up to eight a
core; what is freed in them stays with the process. So there are two heaps, large blocks are the
system's at once, and some time after a session has ended all heaps are trimmed. Accepted trade-off:
only glibc has these doors; with another C library, or where the environment sets glibc's allocator
itself, nothing is done.

Streamlit collects garbage after every run of a page. With torch and transformers imported that
means looking through half a million objects that live as long as the process: up to a quarter of a
second a click. They are set apart once they are there. Accepted trade-off: what a session holds at
that moment in a cycle is set apart with them, a few times in a process's life.
"""

import ctypes
import gc
import os
import sys
from functools import cache
from threading import Lock, Timer

import streamlit as st

HEAPS = 2
LARGE_BYTES = 2**20
"""Blocks of this size and more are mapped one by one, and unmapped when they are freed."""
QUIET_SECONDS = 1.0
"""After the last of several sessions that end together."""
MANY_MODULES = 200
"""So many imported since the last time are worth setting apart: about 20 ms of each collection."""
_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8  # of glibc's malloc.h
_lock = Lock()
_waiting: Timer | None = None
_set_apart = 0


def keep_small() -> None:
    """Once a run of a page: the allocator's settings, and a trim when this session ends."""
    if _allocator() is not None:
        _session()


def set_imports_apart() -> None:
    """After a run of a page: what its imports have made is nothing to look through again."""
    global _set_apart
    with _lock:
        if len(sys.modules) < _set_apart + MANY_MODULES:
            return
        _set_apart = len(sys.modules)
    gc.collect()
    gc.freeze()


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
