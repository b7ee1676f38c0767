"""How threads wait for each other, and how many there are: decided before torch and numpy load.

torch's OpenMP lets a waiting thread spin, which on a core that belongs to somebody else makes a
step tens of times slower; sleeping at once makes it twice as slow on a machine that is otherwise
idle. So they spin for some microseconds and sleep then. Only GNU's OpenMP, that of torch on Linux,
reads the setting; figures are in design/LOG.md. No number that is computed depends on it.
"""

import os
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager

SPINS = "3000"
"""Turns of the waiting loop before a thread sleeps."""
_BLAS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS")


def wait_briefly(environment: MutableMapping[str, str]) -> None:
    """Let threads of a process with this environment spin briefly, unless it says how they wait."""
    if "OMP_WAIT_POLICY" not in environment:
        environment.setdefault("GOMP_SPINCOUNT", SPINS)


@contextmanager
def one_thread(environment: MutableMapping[str, str]) -> Iterator[None]:
    """Import numpy in here, and its BLAS computes on the thread that calls it, unless the
    environment says how many; afterwards the environment is as it was, for those it is passed to.

    For a server whose many sessions have threads already: those of a BLAS spin while they wait.
    """
    if any(name in environment for name in _BLAS):
        yield
        return
    environment[_BLAS[0]] = "1"
    try:
        yield
    finally:
        del environment[_BLAS[0]]


def usable_processors() -> int:
    """Processors that this process may run on; all of the machine's where the system tells none."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
