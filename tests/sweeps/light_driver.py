"""The sweep's process with runs that wait for a file instead of computing."""

import sys

from tests.runs.light_worker import COMMAND as RUN
from trace_engine.runs import launcher
from trace_engine.sweeps.worker import main

COMMAND = [sys.executable, "-m", "tests.sweeps.light_driver"]

if __name__ == "__main__":
    launcher.WORKER[:] = RUN
    sys.exit(main())
