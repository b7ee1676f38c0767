"""`trace-moe demo`: the whole story on the bundled model, without a browser."""

import argparse

from trace_engine.cli.output import ProgressLine, emit_json, note
from trace_engine.demo.run import run_demo
from trace_engine.runs.stopping import StopFlag


def demo(options: argparse.Namespace) -> int:
    stop = StopFlag("\nFinishing the step and saving; press Ctrl-C again to end at once.\n")
    stop.install()
    # With --json the story goes to stderr, so that stdout is one JSON document.
    tell = note if options.json else print
    summary = run_demo(
        options.out, steps=options.steps, report=ProgressLine(), tell=tell, stop=stop
    )
    if options.json:
        emit_json(summary)
    return 0 if summary["state"] == "done" else 130
