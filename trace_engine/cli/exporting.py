"""`trace-moe export`: the same folder that the page's *Export* writes."""

import argparse

from trace_engine.cli.output import ProgressLine, clear_progress, emit_json
from trace_engine.cli.running import find
from trace_engine.disk import size
from trace_engine.export import Form, export_run


def export(options: argparse.Namespace) -> int:
    run = find(options.run)
    form: Form = options.form or "merged"
    folder = export_run(run, options.out, form, report=ProgressLine())
    clear_progress()
    sizes = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
    if options.json:
        emit_json({"run": run.id, "form": form, "path": str(folder), "files": sizes})
    else:
        print(f"{folder}: {len(sizes)} files, {size(sum(sizes.values()))}. README.md is its card.")
    return 0
