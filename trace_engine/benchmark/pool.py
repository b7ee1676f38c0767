"""A phase's runs, over one process or several.

Workers take runs from a list in the folder and claim each by its lock, so that any number of them,
on machines that share the folder too, compute a run once. A worker whose parent died ends after the
run in hand. It accepts that workers load torch once a phase.
"""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trace_engine.benchmark.execute import ProfileFolder, execute
from trace_engine.benchmark.plan import RowId, Trial
from trace_engine.benchmark.settings import BenchConfig
from trace_engine.benchmark.store import Result, TrialStore
from trace_engine.config import ModelConfig, UnlearnConfig, parse_config
from trace_engine.disk import open_own, read_json, write_json
from trace_engine.errors import RunError, TraceError
from trace_engine.models import inspect_closely
from trace_engine.progress import Meter, ProgressCallback
from trace_engine.runs.detach import environment_of_children
from trace_engine.threads import usable_processors

QUEUE = "queue.json"
REFUSED = 2
_LOOK_AGAIN_SECONDS = 0.5
_PATIENCE_SECONDS = 10.0
_PROCESS_BYTES = 700 * 2**20
"""Of a worker on the bundled model, most of it torch (measured: 683 to 749 MB)."""


def fitting_workers(config: BenchConfig) -> int:
    """How many processes suit this machine: as many as its processors hold of the threads that
    each run has, as far as free memory goes; 1 where runs name no `threads`, or use a GPU.
    """
    threads = config.settings.get("threads")
    if not isinstance(threads, int) or threads < 1:
        return 1
    model = ModelConfig.model_validate(config.settings.get("model", {}))
    found = inspect_closely(model, hashed=False)
    if found.info.device != "cpu":
        return 1
    each = _PROCESS_BYTES + found.need.training + found.need.batch
    return max(1, min(usable_processors() // threads, found.machine.main // each))


def run_trials(
    store: TrialStore,
    trials: Sequence[Trial],
    workers: int,
    report: ProgressCallback,
    phase: str,
) -> list[Result]:
    """Results of all trials, in their order; what is not there yet is computed.

    Raises a TraceError when one of them cannot be computed; finished ones stay.
    """
    todo = list({t.key: t for t in trials if store.find(t) is None}.values())
    meter = Meter(phase, len(todo), "runs", report)
    if todo:
        if workers == 1:
            work(store, todo, on_done=lambda: meter.add(1))
        else:
            _spread(store, todo, workers, meter)
    results = [store.find(trial) for trial in trials]
    while any(result is None for result in results):
        # A worker of a parent that was killed may still be at one of them.
        time.sleep(_LOOK_AGAIN_SECONDS)
        work(store, [t for t in trials if store.find(t) is None])
        results = [store.find(trial) for trial in trials]
    return [result for result in results if result is not None]


def work(
    store: TrialStore,
    trials: Sequence[Trial],
    *,
    on_done: Any = None,
    parent: int | None = None,
) -> None:
    """Compute the trials that nobody has done or does, in order; end early when `parent` died."""
    profiles = ProfileFolder(store.folder / "profiles")
    for trial in trials:
        if parent is not None and os.getppid() != parent:
            return
        with store.claim(trial) as mine:
            if mine and store.find(trial) is None:
                store.keep(trial, execute(trial, profiles))
        if on_done is not None:
            on_done()


def _spread(store: TrialStore, todo: list[Trial], workers: int, meter: Meter) -> None:
    write_json(store.folder / QUEUE, {"trials": [_packed(trial) for trial in todo]})
    command = [sys.executable, "-m", "trace_engine.benchmark.worker", str(store.folder)]
    logs = [store.folder / f"worker-{number}.log" for number in range(min(workers, len(todo)))]
    started: list[subprocess.Popen[bytes]] = []
    try:
        for log in logs:
            with open(open_own(log, os.O_WRONLY | os.O_TRUNC), "wb") as stream:
                started.append(
                    subprocess.Popen(
                        command,
                        env=environment_of_children(),
                        stdout=stream,
                        stderr=subprocess.STDOUT,
                    )
                )
        waiting = todo
        while any(worker.poll() is None for worker in started):
            time.sleep(_LOOK_AGAIN_SECONDS)
            left = [trial for trial in waiting if store.find(trial) is None]
            if len(left) < len(waiting):
                meter.add(len(waiting) - len(left))
            waiting = left
            if any(worker.poll() not in (None, 0) for worker in started):
                break
    finally:
        for worker in started:
            if worker.poll() is None:
                worker.terminate()
        for worker in started:
            try:
                worker.wait(_PATIENCE_SECONDS)
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()
    for worker, log in zip(started, logs, strict=True):
        if worker.returncode not in (0, -15):
            raise RunError(_last_words(worker.returncode, log))


def _last_words(code: int, log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    said = lines[-1] if lines else "it left no word"
    if code == REFUSED:
        return said
    return (
        f"A worker of the table ended with code {code} ({said}); its log is {log.name}. Finished "
        "runs are kept: the same command goes on from there."
    )


def _packed(trial: Trial) -> dict[str, Any]:
    return {
        "row": list(trial.row),
        "phase": trial.phase,
        "number": trial.number,
        "point": trial.point,
        "seed": trial.seed,
        "config": trial.config.model_dump(mode="json"),
        "key": trial.key,
        "fingerprints": trial.fingerprints,
    }


def _unpacked(data: dict[str, Any]) -> Trial:
    config = parse_config(data["config"], "queue")
    assert isinstance(config, UnlearnConfig)
    row = RowId(*data["row"])
    return Trial(
        row,
        data["phase"],
        data["number"],
        data["point"],
        data["seed"],
        config,
        data["key"],
        data["fingerprints"],
    )


def serve(folder: Path) -> int:
    """A worker's life: the folder's list from its beginning to its end. Returns its exit code."""
    parent = os.getppid()
    try:
        queue = read_json(folder / QUEUE)
        trials = [_unpacked(data) for data in queue["trials"]]
        work(TrialStore(folder), trials, parent=parent)
    except TraceError as error:
        print(error, flush=True)
        return REFUSED
    return 0
