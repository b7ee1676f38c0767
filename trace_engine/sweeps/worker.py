"""The process that makes a sweep's runs: `python -m trace_engine.sweeps.worker DIR`."""

import argparse
import sys
import traceback
from pathlib import Path

from trace_engine.runs.lock import FileLock
from trace_engine.runs.stopping import StopFlag
from trace_engine.sweeps.directory import SweepDirectory
from trace_engine.sweeps.drive import drive


def main(arguments: list[str] | None = None) -> int:
    """Entry of the detached process; `status.json` says how the sweep ended."""
    stop = StopFlag()
    stop.install()
    parser = argparse.ArgumentParser(prog="python -m trace_engine.sweeps.worker")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--lock", type=int, required=True, help="open file that holds the lock")
    options = parser.parse_args(arguments)
    sweep = SweepDirectory(options.directory)
    with FileLock.inherit(options.lock, sweep.lock_path):
        try:
            drive(sweep, stop)
        except Exception as error:
            traceback.print_exc()
            name = type(error).__name__
            said = f"an unexpected {name}; this is a bug. The traceback is in log.txt."
            sweep.end("failed", said)
    return 0


if __name__ == "__main__":
    sys.exit(main())
