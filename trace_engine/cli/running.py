"""`trace-moe unlearn` and `trace-moe runs …`: the same directories, worker and loop as a page's
runs.

In the foreground this process is the worker: it holds the run's lock and waits in the same queue.
It accepts that Ctrl-C finishes the step first; a second one ends at once.
"""

import argparse
import contextlib
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trace_engine import runs
from trace_engine.cli.options import read_run
from trace_engine.cli.output import (
    ProgressLine,
    clear_progress,
    duration,
    emit_json,
    interval,
    note,
    plain,
    print_table,
)
from trace_engine.errors import InputError
from trace_engine.evaluation.outcome import up_to_saved
from trace_engine.progress import Progress
from trace_engine.routing import ALONE, Workers, joined
from trace_engine.runs.directory import RunDirectory, RunStatus
from trace_engine.runs.launcher import reopen
from trace_engine.runs.listing import not_listed
from trace_engine.runs.lock import FileLock
from trace_engine.runs.places import new_run_id, subfolder
from trace_engine.runs.stopping import StopFlag, StopRequestedError
from trace_engine.runs.worker import Job, default_job, work
from trace_engine.sets import check_answers
from trace_engine.spelling import percent
from trace_engine.trackers import check_trackers

_SHARES = ("overlap", "low", "high")
_STOPPING = "\nFinishing the step and saving; press Ctrl-C again to end at once.\n"


def unlearn(options: argparse.Namespace) -> int:
    with joined() as workers:
        return _unlearn(options, workers)


def _unlearn(options: argparse.Namespace, workers: Workers) -> int:
    config = read_run(options.config)
    if options.trackers is not None:
        config = config.model_copy(update={"trackers": tuple(options.trackers)})
    check_trackers(config.trackers)
    check_answers(config)
    if options.background:
        _require_one(workers)
        if options.out is not None:
            raise InputError("--background keeps its run under the home; leave --out away.")
        run = runs.open_run(runs.launch(config))
        return _launched(run, options.json)
    new = RunDirectory(options.out or subfolder("runs") / new_run_id())
    return _take(lambda: (new, new.create(config)), options.json, workers)


def _take(
    begin: Callable[[], tuple[RunDirectory, FileLock]], as_json: bool, workers: Workers
) -> int:
    """Let the leading process take a run and be its worker, and the others follow it."""
    taken = begin() if workers.leads else None
    path = Path(workers.share(lambda: "" if taken is None else str(taken[0].path)))
    if taken is not None:
        return in_foreground(*taken, as_json, workers)
    stop = StopFlag()
    stop.install()
    run = RunDirectory(path)
    from trace_engine.runs.jobs import follow  # torch and transformers: seconds

    with contextlib.chdir(run.launch_folder()), contextlib.suppress(StopRequestedError):
        follow(run, stop, runs.home(), workers)
        return 0
    return 130


def _require_one(workers: Workers) -> None:
    if workers.size > 1:
        raise InputError(
            f"--background starts one process of its own, and there are {workers.size}. Leave it "
            "out; torchrun itself can be put in the background."
        )


def _launched(run: RunDirectory, as_json: bool) -> int:
    if as_json:
        emit_json({"id": run.id, "path": str(run.path), **run.status().to_dict()})
    else:
        print(run.id)
        note(f"Running in the background; `trace-moe runs show {run.id}` tells how far it is.")
    return 0


def in_foreground(
    run: RunDirectory, lock: FileLock, as_json: bool, workers: Workers = ALONE
) -> int:
    """Be the run's worker until it ends, perhaps with others; returns the exit code. The caller
    holds the lock."""
    stop = StopFlag(_STOPPING)
    stop.install()
    note(f"Run {run.id} in {run.path}")
    if workers.size > 1:
        note(f"{workers.size} processes share every step.")
    base = runs.home()
    with lock, contextlib.chdir(run.launch_folder()):
        status = work(
            run,
            stop,
            base=base,
            report=Narrator(run),
            on_wait=lambda ahead: note(run.status().message),
            job=_job(workers),
        )
    if status.state != "done":
        workers.leave()
    clear_progress()
    if as_json:
        emit_json(describe(run, status))
    else:
        print_run(run, status)
    if status.state == "stopped":
        note(f"Continue with `trace-moe runs resume {handle(run)}`.")
        return 130
    return 0 if status.state == "done" else 2


def _job(workers: Workers) -> Job:
    if workers.size == 1:
        return default_job
    from trace_engine.runs.jobs import lead  # torch and transformers: seconds

    return lead(workers)


class Narrator:
    """Progress, and as soon as the run knows it what a person should hear before it trains."""

    def __init__(self, run: RunDirectory) -> None:
        self._run, self._line = run, ProgressLine()
        self._told = False

    def __call__(self, progress: Progress) -> None:
        if not self._told and (self._run.path / "facts.json").exists():
            self._told = True
            told = [*decided(self._run.facts()), *knowledge(self._run), *self._run.status().notes]
            for sentence in told:
                note(sentence)
        self._line(progress)


def decided(facts: dict[str, Any]) -> list[str]:
    """How much trains, and what stands in the weights' place, before the first step."""
    sentences = []
    if facts.get("trainable"):
        found = facts["trainable"]
        sentences.append(
            f"{found['parameters']:,} of {found['total']:,} parameters train "
            f"({percent(found['share'])}; {found['kind'].replace('_', ' ')})."
        )
        if found.get("whole_gradients"):
            sentences.append(
                f"{', '.join(found['whole_gradients'])}: this family's code computes no experts "
                "apart from the others, so every step forms their whole tensors' gradients. The "
                "result is the same; a step takes longer."
            )
    layer = (facts.get("method") or {}).get("layer")
    if layer is not None:
        sentences.append(f"The hidden states of decoder layer {layer} are driven.")
    told = [facts.get(key) or {} for key in ("anchor", "control")]
    return [*sentences, *(found["sentence"] for found in told if found.get("sentence"))]


def knowledge(run: RunDirectory) -> list[str]:
    """The verdict on the start model, once there is one."""
    found = run.facts().get("knowledge") or {}
    return [f"Before the first step: {found['sentence']}"] if found.get("sentence") else []


def handle(run: RunDirectory) -> str:
    """What names the run on a command line: its id under the home, else its folder."""
    return run.id if run.path.parent == subfolder("runs") else str(run.path)


def find(text: str) -> RunDirectory:
    """A run from its id or its folder. Raises RunError when there is none."""
    if re.search(r"[/\\.]", text) or Path(text).is_dir():
        return RunDirectory(Path(text))
    return runs.open_run(text)


def describe(run: RunDirectory, status: RunStatus) -> dict[str, Any]:
    return {
        "id": run.id,
        "path": str(run.path),
        **status.to_dict(),
        "rows": run.rows(),
        "facts": run.facts(),
    }


def print_run(run: RunDirectory, status: RunStatus) -> None:
    print(f"{run.id}: {status.state}, step {status.step} of {status.max_steps}")
    told = [status.message, *status.notes, *decided(run.facts()), *knowledge(run)]
    for sentence in filter(None, told):
        print(plain(sentence))
    print_table(*curve(run))


def curve(run: RunDirectory) -> tuple[list[dict[str, Any]], list[str]]:
    """The evaluations as rows of a table, and its columns."""
    rows = []
    for row in run.rows("eval"):
        shown: dict[str, Any] = {"step": row["step"]}
        for category, value in (row.get("accuracy") or {}).items():
            shown[category] = _interval(value)
        for name in ("forget_nll", "retain_nll"):
            shown[name.replace("_nll", " loss")] = _interval(row.get(name))
        rows.append(shown)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    return rows, columns or ["step"]


def print_drift(run: RunDirectory) -> None:
    """How many of a token's experts stayed, a line a layer, as last measured."""
    evaluations = up_to_saved(run.rows("eval"), run.facts())
    measured = [row for row in evaluations if row.get("drift")]
    if not measured or not measured[-1]["step"]:
        return
    found = measured[-1]["drift"]
    columns = [found.get(name) or [None] * len(found["layers"]) for name in _SHARES]
    kept = [interval(*values) for values in zip(*columns, strict=True)]
    rows = [{"layer": at, "kept": text} for at, text in zip(found["layers"], kept, strict=True)]
    print(
        f"Share of their experts that the same tokens kept, step {measured[-1]['step']} against "
        f"the start (1: unmoved; n = {found.get('n', 'unknown')} {found.get('unit', '')}):"
    )
    print_table(rows, ["layer", "kept"])


def _interval(value: Any) -> str:
    return interval(value["value"], value["low"], value["high"]) if value else ""


def runs_list(options: argparse.Namespace) -> int:
    found = runs.list_runs()
    if options.json:
        emit_json([summary.to_dict() for summary in found])
        return 0
    rows = [
        {
            "id": summary.id,
            "kind": summary.kind,
            "state": summary.status.state + (" (stalled)" if summary.status.stalled else ""),
            "step": f"{summary.status.step}/{summary.status.max_steps}",
            "started": time.strftime("%Y-%m-%d %H:%M", time.localtime(summary.status.created)),
            "name": summary.name[:40],
        }
        for summary in found
    ]
    print_table(rows, ["id", "kind", "state", "step", "started", "name"])
    strangers = not_listed()
    if strangers:
        note(
            f"{len(strangers)} folders beside them have no run's id for a name ({strangers[0]}); "
            "`trace-moe runs import FOLDER` takes one in."
        )
    return 0


def runs_show(options: argparse.Namespace) -> int:
    run = find(options.run)
    status = run.status()
    if options.json:
        emit_json(describe(run, status))
        return 0
    print_run(run, status)
    print_drift(run)
    progress = run.progress()
    if status.active and progress is not None and progress["eta_seconds"] is not None:
        print(plain(f"{progress['phase']}: {duration(progress['eta_seconds'])} left"))
    return 0


def runs_import(options: argparse.Namespace) -> int:
    run = runs.open_run(runs.import_run(Path(options.run)))
    if options.json:
        emit_json({"id": run.id, "path": str(run.path), **run.status().to_dict()})
    else:
        print(run.id)
    return 0


def runs_stop(options: argparse.Namespace) -> int:
    run = find(options.run)
    runs.stop_directory(run, force=options.force)
    return _said(run, "asked to stop: it finishes its step and saves", options.json)


def runs_resume(options: argparse.Namespace) -> int:
    with joined() as workers:
        run = find(options.run)
        if options.background:
            _require_one(workers)
            runs.resume_directory(run)
            return _launched(run, options.json)
        return _take(lambda: (run, reopen(run)), options.json, workers)


def runs_delete(options: argparse.Namespace) -> int:
    run = find(options.run)
    runs.delete_directory(run)
    if options.json:
        emit_json({"id": run.id, "deleted": True})
    else:
        print(f"{run.id} deleted")
    return 0


def _said(run: RunDirectory, text: str, as_json: bool) -> int:
    if as_json:
        emit_json({"id": run.id, **run.status().to_dict()})
    else:
        print(f"{run.id} {text}")
    return 0
