"""Naming a process so that it is never mistaken for another: its id and its start time.

Process ids are recycled; the pair is not. It accepts that clocks shift start times by a second.
"""

from dataclasses import asdict, dataclass
from typing import Any, Self

import psutil  # type: ignore[import-untyped]

_SAME_START_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class ProcessName:
    pid: int
    started: float
    """Seconds since the epoch."""

    @classmethod
    def own(cls) -> Self:
        """This process's name."""
        process = psutil.Process()
        return cls(process.pid, process.create_time())

    @classmethod
    def of(cls, record: dict[str, Any]) -> Self:
        """From what `to_dict` wrote."""
        return cls(int(record["pid"]), float(record["started"]))

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def alive(self) -> bool:
        """Whether this very process still exists on this machine."""
        try:
            found = psutil.Process(self.pid).create_time()
        except psutil.NoSuchProcess:
            return False
        return bool(abs(found - self.started) < _SAME_START_SECONDS)

    def terminate(self) -> None:
        """Send SIGTERM. Does nothing when the process has ended meanwhile."""
        if self.alive():
            try:
                psutil.Process(self.pid).terminate()
            except psutil.NoSuchProcess:
                return
