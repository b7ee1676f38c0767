"""Memory that tensors free stays with the process that computes, for the next tensor of that size.

The C library hands large blocks back to the system at once; on CPU, a forward then spends a third
of its time on fresh pages (design/LOG.md). Accepted cost: a process keeps what it held at its
peak until it ends, so only processes that end with their work ask for this.
"""

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # malloc.h
_KEPT_BYTES = 2**30


def keep_freed_memory() -> bool:
    """Ask the C library to keep freed blocks below 1 GiB; whether it has such a setting (glibc)."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _KEPT_BYTES)) & bool(mallopt(_TRIM_THRESHOLD, _KEPT_BYTES))
