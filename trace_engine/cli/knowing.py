"""`trace-moe know`: before a run, does the model know the forget set at all?

The same check, on the same documents and questions, that the run makes before its first step. It
accepts opening the model for it.
"""

import argparse

from trace_engine.cli.options import read_run
from trace_engine.cli.output import ProgressLine, clear_progress, emit_json
from trace_engine.unlearning import check_knowledge


def know(options: argparse.Namespace) -> int:
    found = check_knowledge(read_run(options.config), ProgressLine())
    clear_progress()
    if options.json:
        emit_json(found.to_dict())
    else:
        print(found.sentence)
    return 0
