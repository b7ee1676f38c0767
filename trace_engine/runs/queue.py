"""Who may compute: so many slots per kind of job, and a fair line in front of them.

A slot is a lock file; a place in the line is a lock file named by time of arrival. Both free
themselves when their process dies. It accepts that a waiting worker looks ten times a second.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from trace_engine.errors import InputError
from trace_engine.runs.lock import FileLock, LockedError, is_held, is_locked
from trace_engine.runs.places import subfolder
from trace_engine.runs.stopping import StopFlag

_LOOK_SECONDS = 0.1
MOST_WORKERS = 256
"""Every look opens each slot; and no machine has memory for more models."""


def capacity(kind: str) -> int:
    """How many jobs of a kind compute at once: TRACE_WORKERS (default 1) for unlearning, 1 for
    profiles.

    Raises InputError when TRACE_WORKERS is no whole number from 1 to `MOST_WORKERS`.
    """
    if kind == "profile":
        return 1
    text = os.environ.get("TRACE_WORKERS", "1")
    # By its length first: Python reads no number of thousands of digits.
    if not text.isdecimal() or len(text) > 9 or not 1 <= int(text) <= MOST_WORKERS:
        # Pages show it, to visitors too: without the value.
        raise InputError(
            f"TRACE_WORKERS must be a positive whole number up to {MOST_WORKERS}, and is none."
        )
    return int(text)


def busy(kind: str, base: Path | None = None) -> int:
    """How many of the slots of `kind` are taken now."""
    folder = subfolder("slots", base)
    return sum(is_held(folder / f"{kind}-{n}.lock") for n in range(capacity(kind)))


@contextmanager
def slot(
    kind: str, stop: StopFlag, on_wait: Callable[[int], None], base: Path | None = None
) -> Iterator[None]:
    """Hold one of the slots of `kind`; first come, first served.

    Calls `on_wait(ahead)` when it has to wait, and again when the number of those ahead changes.
    Raises StopRequestedError when asked to stop while waiting.
    """
    folder = subfolder("slots", base)
    count = capacity(kind)
    name = f"{kind}-{time.time_ns():020d}-{os.getpid()}.ticket"
    ticket = FileLock.take(folder / name, "This place in the queue is taken.")
    try:
        held = _wait(folder, kind, count, name, stop, on_wait)
    finally:
        ticket.path.unlink(missing_ok=True)
        ticket.release()
    with held:
        yield


def _wait(
    folder: Path,
    kind: str,
    count: int,
    own: str,
    stop: StopFlag,
    on_wait: Callable[[int], None],
) -> FileLock:
    shown: int | None = None
    while True:
        stop.check()
        line = [
            path
            for path in sorted(folder.glob(f"{kind}-*.ticket"))
            if path.name < own and is_locked(path)
        ]
        busy = 0
        for number in range(count):
            path = folder / f"{kind}-{number}.lock"
            if not line:
                try:
                    return FileLock.take(path, "busy")
                except LockedError:
                    busy += 1
            else:
                busy += is_locked(path)
        if shown != len(line) + busy:
            shown = len(line) + busy
            on_wait(shown)
        time.sleep(_LOOK_SECONDS)
