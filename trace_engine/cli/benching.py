"""`trace-moe bench`: the table of methods and weightings, on the bundled pack or on one's own."""

import argparse
from pathlib import Path

from trace_engine.benchmark import read_bench
from trace_engine.benchmark.pool import fitting_workers
from trace_engine.benchmark.run import progress, run_table
from trace_engine.benchmark.settings import BenchConfig, bundled_bench, checked
from trace_engine.benchmark.stored import default_folder
from trace_engine.cli.output import ProgressLine, emit_json, note
from trace_engine.errors import InputError


def bench(options: argparse.Namespace) -> int:
    config = _config(options)
    if options.workers is not None and options.workers < 1:
        raise InputError(f"--workers must be at least 1, found {options.workers}.")
    name = options.config.stem if options.config else options.pack
    out = options.out or default_folder(name)
    if options.plan:
        return _plan(config, out, as_json=options.json)
    finished = run_table(
        config,
        out,
        workers=options.workers or fitting_workers(config),
        report=ProgressLine(),
        tell=note,
        computed=options.computed,
    )
    if options.json:
        emit_json({"rows": finished.table.rows, "headlines": finished.table.headlines,
                   "figures": finished.table.figures.to_dict("records")})  # fmt: skip
    else:
        print((finished.folder / "benchmark.md").read_text(encoding="utf-8"), end="")
    note(f"In {out}: table.csv, results.csv, curves.csv, table.json, figure.svg, "
         "benchmark.md.")  # fmt: skip
    return 0


def _config(options: argparse.Namespace) -> BenchConfig:
    config = read_bench(options.config) if options.config else bundled_bench()
    changed = {
        name: value for name in ("seeds", "budget") if (value := getattr(options, name)) is not None
    }
    if changed:
        config = checked(config.model_dump(mode="python") | changed, "the options")
    return config.only(tuple(options.retain), tuple(options.methods), tuple(options.weightings))


def _plan(config: BenchConfig, out: Path, *, as_json: bool) -> int:
    found = progress(config, out)
    if as_json:
        emit_json(
            {"rows": found.rows, "runs": found.runs, "tuning_left": found.tuning_left,
             "test_left": found.test_left}
        )  # fmt: skip
        return 0
    tests = "not chosen yet" if found.test_left is None else str(found.test_left)
    print(f"{found.rows} rows, {found.runs} runs; left: {found.tuning_left} tuning, {tests} test.")
    return 0
