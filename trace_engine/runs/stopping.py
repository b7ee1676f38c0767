"""Stop on request: the first signal asks, the second one ends the process.

The handler only sets a flag; the loop reads it between steps. It accepts that a request in the
middle of a step waits for the step's end.
"""

import os
import signal
from types import FrameType


class StopRequestedError(Exception):
    """Raised between two units of work that may be thrown away (profiling, waiting in the
    queue)."""


class StopFlag:
    """Whether someone asked the process to stop."""

    def __init__(self, notice: str = "") -> None:
        self.requested = False
        self._notice = notice

    def install(self) -> None:
        """Listen to SIGTERM and SIGINT from now on."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ask)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        # The kernel, not Python, answers the second signal: it must also end a process that is deep
        # in native code and would not run a handler for a while.
        for other in (signal.SIGTERM, signal.SIGINT):
            signal.signal(other, signal.SIG_DFL)
        if self._notice:
            os.write(2, self._notice.encode())

    def check(self) -> None:
        """Raise StopRequestedError when asked to stop."""
        if self.requested:
            raise StopRequestedError
