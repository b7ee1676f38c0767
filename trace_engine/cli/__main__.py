"""`python -m trace_engine.cli …`, which `torchrun` can start too: the same as `trace-moe …`."""

import sys

from trace_engine.cli import main

sys.exit(main())
