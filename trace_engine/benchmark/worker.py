"""`python -m trace_engine.benchmark.worker FOLDER`: one worker of a table."""

import sys
from pathlib import Path

from trace_engine.benchmark.pool import serve

if __name__ == "__main__":
    sys.exit(serve(Path(sys.argv[1])))
