"""The process that owns a run: `python -m trace_engine.runs.worker DIR`.

It holds the run's lock for its whole life, listens to SIGTERM before anything slow is imported, and
turns every end into a state and one sentence. Its exit status says nothing; `status.json` does.
"""

import argparse
import contextlib
import resource
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trace_engine.disk import free_last_words, when_full, write_json_quickly
from trace_engine.errors import RunError, TraceError
from trace_engine.exhaustion import ran_out
from trace_engine.progress import Progress, ProgressCallback, ignore_progress
from trace_engine.runs.directory import RunDirectory, RunStatus
from trace_engine.runs.lock import FileLock
from trace_engine.runs.process import ProcessName
from trace_engine.runs.queue import slot
from trace_engine.runs.stopping import StopFlag, StopRequestedError

Job = Callable[[RunDirectory, StopFlag, ProgressCallback, Path | None], str]
"""Does a run's work and returns the sentence of its end. Raises StopRequestedError when it was
stopped."""

_REPORT_SECONDS = 0.25


def default_job(
    run: RunDirectory, stop: StopFlag, report: ProgressCallback, base: Path | None
) -> str:
    """What the run's settings ask for."""
    from trace_engine.runs.jobs import perform  # torch and transformers: seconds

    return perform(run, stop, report, base)


def work(
    run: RunDirectory,
    stop: StopFlag,
    *,
    base: Path | None = None,
    report: ProgressCallback = ignore_progress,
    on_wait: Callable[[int], None] | None = None,
    job: Job = default_job,
) -> RunStatus:
    """Wait for a slot, do the run's job, and record how it ended. The caller holds the run's lock.

    Never raises for what goes wrong inside the job: the status says it. `report` hears all
    progress.
    """

    def queued(ahead: int) -> None:
        jobs = "1 job is" if ahead == 1 else f"{ahead} jobs are"
        run.update(state="queued", message=f"Waiting: {jobs} ahead.")
        if on_wait is not None:
            on_wait(ahead)

    def ended(state: str, message: str, log: str = "", **more: Any) -> None:
        free_last_words(run.path)
        if log:
            run.log(log)
        run.event("usage", **usage())
        run.update(state=state, message=message, **more)

    try:
        run.update(process=ProcessName.own().to_dict())
        with slot(run.config().kind, stop, queued, base):
            run.update(state="running", message="", started=time.time())
            message = job(run, stop, _recorder(run, report), base)
            ended("done", message)
    except StopRequestedError as stopped:
        ended("stopped", str(stopped) or "Stopped before the first step.")
    except TraceError as error:
        # What a run directory or its disk refuses passes; settings, sets and model stay.
        repeats = not isinstance(error, RunError)
        ended("failed", str(error), f"failed: {error}", repeats=repeats)
    except Exception as error:
        # The page shows one sentence; whoever repairs the engine needs the rest.
        ended("failed", _explain(run, error), traceback.format_exc(), repeats=ran_out(error))
    return run.status()


def usage() -> dict[str, int | float]:
    """What this process has taken so far: its largest memory in bytes, its processor seconds."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    unit = 1 if sys.platform == "darwin" else 1024
    return {
        "peak_memory": used.ru_maxrss * unit,
        "processor_seconds": round(used.ru_utime + used.ru_stime, 3),
    }


def _recorder(run: RunDirectory, listener: ProgressCallback) -> ProgressCallback:
    last = -float("inf")
    begun: set[str] = set()

    def record(progress: Progress) -> None:
        nonlocal last
        listener(progress)
        # Its first time only: a long run evaluates thousands of times.
        if progress.phase not in begun:
            begun.add(progress.phase)
            run.event("phase", message=progress.phase)
        now = time.monotonic()
        if now - last >= _REPORT_SECONDS or progress.done >= progress.total:
            last = now
            write_json_quickly(run.path / "progress.json", progress.to_dict())

    return record


def _explain(run: RunDirectory, error: Exception) -> str:
    name = type(error).__name__
    full = when_full(error, run.path)
    if full is not None:
        return full
    if ran_out(error):
        return (
            "out of memory. Set a smaller micro_batch_size (the same steps in less memory), lower "
            "max_length, or train fewer parameters (trainable.kind: selected_experts or lora). The "
            "last checkpoint is intact."
        )
    return f"an unexpected {name}; this is a bug in the engine. The traceback is in log.txt."


def main(arguments: list[str] | None = None, job: Job = default_job) -> int:
    """Entry of the detached process. Returns 0 whatever became of the run, 1 when it could not take
    it."""
    stop = StopFlag()
    stop.install()
    parser = argparse.ArgumentParser(prog="python -m trace_engine.runs.worker")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--home", type=Path)
    parser.add_argument("--lock", type=int, help="open file that holds the run's lock")
    options = parser.parse_args(arguments)
    run = RunDirectory(options.directory)
    try:
        if options.lock is not None:
            lock = FileLock.inherit(options.lock, run.lock_path)
        else:
            lock = run.lock()
            if run.status().process is not None:
                run.begin_attempt()
    except TraceError as error:
        print(error, file=sys.stderr)
        return 1
    with lock, contextlib.suppress(KeyboardInterrupt):
        work(run, stop, base=options.home, job=job)
    return 0


if __name__ == "__main__":
    sys.exit(main())
