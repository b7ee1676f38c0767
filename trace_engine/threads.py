"""How torch's threads wait for each other: decided in the environment, before torch loads.

Its OpenMP lets a waiting thread spin, which on a core that belongs to somebody else makes a step
tens of times slower; sleeping at once makes it twice as slow on a machine that is otherwise idle.
So they spin for some microseconds and sleep then. Only GNU's OpenMP, that of torch on Linux, reads
the setting; figures are in design/LOG.md. No number that is computed depends on it.
"""

from collections.abc import MutableMapping

SPINS = "3000"
"""Turns of the waiting loop before a thread sleeps."""


def wait_briefly(environment: MutableMapping[str, str]) -> None:
    """Let threads of a process with this environment spin briefly, unless it says how they wait."""
    if "OMP_WAIT_POLICY" not in environment:
        environment.setdefault("GOMP_SPINCOUNT", SPINS)
