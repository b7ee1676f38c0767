"""What happened to a run and when: one JSON object a line in `events.jsonl`, for people and
machines.

It repeats what the run directory holds already (states, phases, checkpoints, notes) in order of
time, and adds no path and nothing of the environment. Whoever holds the run's lock writes. Accepted
trade-off: an event for which there is no room is lost, because a log must never end a run.
"""

import contextlib
import time
from pathlib import Path
from typing import Any

from trace_engine.disk import Appender, DiskFullError, read_lines
from trace_engine.spelling import size

NAME = "events.jsonl"
_COMMON = ("time", "event", "attempt", "step", "message")


def record(folder: Path, event: str, **facts: Any) -> None:
    """Add one event, with the time in UTC. The caller holds the lock of the run in `folder`."""
    now = time.time()
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1000):03d}Z"
    with contextlib.suppress(OSError, DiskFullError):
        # Opening cuts the line that a killed writer left unfinished.
        file = Appender(folder / NAME)
        try:
            file.append({"time": stamp, "event": event, **facts})
        finally:
            file.close()


def read(folder: Path) -> list[dict[str, Any]]:
    """Every event, oldest first; none for a run of a version that recorded none.

    Raises RunError naming a damaged line.
    """
    return read_lines(folder / NAME)


def line_of(event: dict[str, Any]) -> dict[str, Any]:
    """An event as a row of a table: time, attempt, event, and what belongs to it in words."""
    parts = [f"step {event['step']}"] if event.get("step") else []
    parts += [str(event["message"])] if event.get("message") else []
    for name, value in event.items():
        if name not in _COMMON:
            shown = size(value) if name == "peak_memory" else value
            parts.append(f"{name.replace('_', ' ')} {shown}")
    head = {name: event.get(name) for name in ("time", "attempt", "event")}
    return head | {"what": ", ".join(parts)}
