"""Telling a lack of memory from every other failure, whichever library met it first.

Python, numpy, torch on either device, safetensors and the system each have their own error for it,
and only some have a type. Trade-off: the rest are told by their words.
"""

from __future__ import annotations

_WORDS = (
    "can't allocate memory",  # torch's CPU allocator
    "cannot allocate memory",  # the system, by whichever library passes it on
    "not enough memory",
    "std::bad_alloc",
    "can't start new thread",  # there is no room for its stack
)


def ran_out(error: BaseException) -> bool:
    """Whether the error says that memory could not be had."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, (RuntimeError, OSError, ImportError)) and says_so(str(error))


def says_so(text: str) -> bool:
    """Whether a message of any length speaks of memory that could not be had."""
    lower = text.lower()
    return any(words in lower for words in _WORDS)
