"""Progress of anything that takes over a second: how far, how fast, how long still.

The engine calls a function with a `Progress`; the worker writes it to disk, the CLI prints it, the
page shows it. Nothing here knows who listens.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Progress:
    phase: str
    """What is being done, for a person: "profiling forget set"."""
    done: int
    total: int
    unit: str
    """What is counted: tokens, documents, steps."""
    per_second: float | None
    """Rate since the phase began; None until it is known."""
    eta_seconds: float | None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


ProgressCallback = Callable[[Progress], None]


def ignore_progress(progress: Progress) -> None:
    """The listener that does not listen."""


class Meter:
    """Counts one phase and reports it, at most every `interval` seconds and always at the end."""

    def __init__(
        self, phase: str, total: int, unit: str, report: ProgressCallback, interval: float = 0.25
    ) -> None:
        self.phase, self.total, self.unit = phase, total, unit
        self._report, self._interval = report, interval
        self._start = time.monotonic()
        self._last = -float("inf")
        self.done = 0

    def add(self, amount: int) -> None:
        """Count `amount` more units and report when it is time."""
        self.done += amount
        now = time.monotonic()
        if now - self._last < self._interval and self.done < self.total:
            return
        self._last = now
        elapsed = now - self._start
        rate = self.done / elapsed if elapsed > 0 and self.done else None
        eta = (self.total - self.done) / rate if rate else None
        self._report(Progress(self.phase, self.done, self.total, self.unit, rate, eta))
