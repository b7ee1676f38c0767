"""Waiting for another process without guessing how long it takes."""

import threading
import time
from collections.abc import Callable

from trace_engine.runs.directory import RunDirectory, RunStatus

_never = threading.Event()


def until(condition: Callable[[], bool], what: str, seconds: float = 120.0) -> None:
    """Look until `condition()` holds; fail with `what` when it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s in vain for: {what}"
        _never.wait(0.002)


def until_state(run: RunDirectory, *states: str, seconds: float = 120.0) -> RunStatus:
    """Look until the run is in one of `states`."""

    def there() -> bool:
        return run.status().state in states

    until(there, f"{run.id} to be {' or '.join(states)}, log: {run.log_tail()}", seconds)
    return run.status()
