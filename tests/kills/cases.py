"""Runs, profiles, sweeps, tables, scans and audits of about a second, as commands that can be
killed: the tiny model, and the command line's own entry in a child that is forked from a warm
server.
"""

import importlib
import json
import os
import random
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from tests.audit.cases import small, write_published
from tests.benchmark.cases import tiny_bench, without_clock
from tests.causal.cases import questions
from tests.runs import real
from tests.support.kills import Work
from tests.support.models import save_tiny_olmoe
from trace_engine.cli.main import main
from trace_engine.config import to_yaml
from trace_engine.disk import read_last_line
from trace_engine.errors import TraceError
from trace_engine.routing import profiler, windows
from trace_engine.runs import list_runs, open_run, worker
from trace_engine.runs.checkpoints import KEPT
from trace_engine.runs.directory import RunDirectory
from trace_engine.runs.lock import FileLock
from trace_engine.sweeps import drive, list_sweeps, outcomes

for module in (
    "trace_engine.audit.run",
    "trace_engine.causal.perform",
    "trace_engine.runs.jobs",
    "transformers.models.olmoe.modeling_olmoe",
    *(f"trace_engine.cli.{name}" for name in ("ablating", "auditing", "benching", "profiling")),
    *(f"trace_engine.cli.{name}" for name in ("running", "sweeping")),
):
    importlib.import_module(module)  # of a child's first second, when the server has not


def command(life: Path, *words: object) -> int:
    """`trace-moe` with a home of this life's own."""
    os.environ["TRACE_HOME"] = str(life / "home")
    return main([str(word) for word in words])


def tree(folder: Path) -> dict[str, bytes]:
    """Every file of a folder and what it holds."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


# --- a run ----------------------------------------------------------------------------------------


STEPS, EVERY = 8, 2


def write_run(folder: Path) -> None:
    real.write_sets(folder)
    every = {"every": EVERY}
    config = real.settings(folder, checkpoint_every=1, max_steps=STEPS, evaluation=every)
    (folder / "run.yaml").write_text(to_yaml(config))


def begin_run(life: Path) -> int:
    return command(life, "unlearn", life.parent / "run.yaml", "--out", life / "run")


def resume_run(life: Path) -> int:
    try:
        state = RunDirectory(life / "run").status().state
    except TraceError:
        return begin_run(life)  # killed before there was a run
    return 0 if state == "done" else command(life, "runs", "resume", life / "run")


def moment_of_run(life: Path) -> str:
    """By its last row and its checkpoints, one a step: progress.json is written now and then."""
    run = RunDirectory(life / "run")
    folders = list(run.path.glob("checkpoints/*"))
    saved = [checkpoint.step for checkpoint in run.checkpoints()]
    if len(saved) < len(folders) or len(folders) > KEPT:
        return "checkpoint"
    if run.facts().get("kept"):
        return "final save"
    last = read_last_line(run.path / "metrics.jsonl")
    if last is None or last["step"] == 0:
        return "before the first step"
    if saved and saved[-1] >= last["step"]:
        return "steps" if last["step"] < STEPS else "final save"
    asked = last["kind"] == "train" and last["step"] % EVERY == 0
    return "evaluation" if asked else "checkpoint"


def result_of_run(life: Path) -> Any:
    run = RunDirectory(life / "run")
    assert run.status().state == "done"
    model = run.model_folder()
    assert model is not None
    return real.curve(run.rows()), real.weights(model)


RUN = Work(
    prepare=write_run,
    begin=begin_run,
    again=resume_run,
    moment=moment_of_run,
    result=result_of_run,
    moments=("before the first step", "steps", "checkpoint", "evaluation", "final save"),
)


# --- a profile ------------------------------------------------------------------------------------


def write_profile(folder: Path) -> None:
    real.write_sets(folder)
    save_tiny_olmoe(folder / "model")


def begin_profile(life: Path) -> int:
    # Windows that make a small set a large one: several parts a side, and one that is folded.
    windows.WINDOW_DOCUMENTS, profiler.FOLDED = 3, 4
    words = ["profile", "--model", life.parent / "model", "--device", "cpu", "--permutations", "99"]
    words += [f"--{side}={life.parent / side}.txt" for side in ("forget", "retain")]
    return command(life, *words, "--out", life / "out")


def profile_again(life: Path) -> int:
    return 0 if (life / "out").exists() else begin_profile(life)


def moment_of_profile(life: Path) -> str:
    profiles = life / "home" / "profiles"
    shards = " ".join(path.name for path in profiles.glob(".work/*/*.shard"))
    if any(not path.name.startswith(".") for path in profiles.glob("*")):
        return "copying"
    if any(profiles.glob(".*.tmp")):
        return "saving"
    for side in ("retain", "forget"):
        if f"{side}-counts" in shards or f"{side}-sum" in shards:
            return f"{side} side"
    return "before the first part"


def result_of_profile(life: Path) -> Any:
    found = tree(life / "out")
    [kept] = [p for p in (life / "home" / "profiles").glob("*") if not p.name.startswith(".")]
    assert tree(kept) == found
    assert not list((life / "home" / "profiles").rglob("*.shard"))
    return found


PROFILE = Work(
    prepare=write_profile,
    begin=begin_profile,
    again=profile_again,
    moment=moment_of_profile,
    result=result_of_profile,
    moments=(
        "before the first part",
        "forget side",
        "retain side",
        "saving",
        "copying",
    ),
)


# --- a sweep --------------------------------------------------------------------------------------


def write_sweep(folder: Path) -> None:
    real.write_sets(folder)
    config = real.settings(folder, checkpoint_every=2, max_steps=4, evaluation={"every": 4})
    (folder / "base.yaml").write_text(to_yaml(config))


def begin_sweep(life: Path) -> int:
    return sweeping(life, "sweep", life.parent / "base.yaml", "--set", "selection.top_k=1,2")


def resume_sweep(life: Path) -> int:
    found = list_sweeps(life / "home")
    if not found:
        return begin_sweep(life)
    if found[0].status().state == "done":
        return 0
    return sweeping(life, "sweeps", "resume", found[0].id)


def sweeping(life: Path, *words: object) -> int:
    drive._LOOK_SECONDS = 0.02
    launcher: Any = importlib.import_module("trace_engine.runs.launcher")
    launcher.start_detached = fork_detached
    return command(life, *words)


def fork_detached(command: list[str], lock: FileLock, log: Path, folder: Path) -> None:
    """`start_detached` without a second start of Python: what an exec would keep, and no more."""
    if os.fork() == 0:
        code = 1
        try:
            os.setsid()
            output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(output, 1)
            os.dup2(output, 2)
            os.closerange(3, lock.descriptor)
            os.closerange(lock.descriptor + 1, os.sysconf("SC_OPEN_MAX"))
            os.chdir(folder)
            words = command[command.index("trace_engine.runs.worker") + 1 :]
            code = worker.main([*words, "--lock", str(lock.descriptor)])
        finally:
            os._exit(code)
    lock.disown()


def moment_of_sweep(life: Path) -> str:
    found = list_sweeps(life / "home")
    if not found:
        return "before the first run"
    states = [outcome.state for outcome in outcomes(found[0])]
    if all(state == "done" for state in states):
        return "after the last run"
    if any(state in ("starting", "queued", "running") for state in states):
        return "a run at work"
    return "between runs"


def kill_its_runs(life: Path, chance: random.Random) -> None:
    """Half of the time everything dies, as when a container goes down."""
    if chance.random() < 0.5:
        return
    for summary in list_runs(life / "home"):
        if summary.status.active and summary.status.process is not None:
            with suppress(ProcessLookupError):
                os.kill(int(summary.status.process["pid"]), signal.SIGKILL)


def result_of_sweep(life: Path) -> Any:
    [found] = list_sweeps(life / "home")
    assert found.status().state == "done"
    made = outcomes(found)
    runs = [open_run(str(outcome.run), life / "home") for outcome in made]
    done = [run for run in list_runs(life / "home") if run.status.state == "done"]
    assert len(done) == len(runs), "a point was made twice"
    folders = [run.model_folder() for run in runs]
    return (
        [{k: v for k, v in outcome.to_dict().items() if k != "run"} for outcome in made],
        [real.curve(run.rows()) for run in runs],
        [real.weights(folder) for folder in folders if folder is not None],
    )


SWEEP = Work(
    prepare=write_sweep,
    begin=begin_sweep,
    again=resume_sweep,
    moment=moment_of_sweep,
    result=result_of_sweep,
    moments=("before the first run", "a run at work", "between runs", "after the last run"),
    also=kill_its_runs,
)


# --- a table of methods ---------------------------------------------------------------------------


def write_table(folder: Path) -> None:
    config = tiny_bench(folder, seeds=1, budget=1, resamples=100, test_per_group=4)
    data = config.model_dump(mode="json")
    data["settings"] |= {"max_steps": 2, "evaluation": {"every": 2}}
    (folder / "bench.yaml").write_text(yaml.safe_dump(data, sort_keys=False))


def make_table(life: Path) -> int:
    # On one processor it is computed in this process; others would have to start Python first.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
    return command(life, "bench", "--config", life.parent / "bench.yaml", "--out", life / "table")


def moment_of_table(life: Path) -> str:
    table = life / "table"
    trials = len(list(table.glob("trials/*.json")))
    if trials == 0:
        return "before the first run"
    if not (table / "choices.json").exists():
        return "tuning"
    return "testing" if trials < 4 else "writing the table"


def result_of_table(life: Path) -> Any:
    table = life / "table"
    frames = [without_clock(table / name) for name in ("results.csv", "table.csv", "curves.csv")]
    texts = [frame.to_csv(index=False) for frame in frames]
    same = pd.read_csv(table / "same-settings.csv").to_csv(index=False)
    trials = {
        path.name: without_seconds(json.loads(path.read_text()))
        for path in sorted((table / "trials").glob("*.json"))
    }
    choices = json.loads((table / "choices.json").read_text())
    made = json.loads((table / "table.json").read_text())
    return texts, same, trials, choices, [made["rows"], made["headlines"]]


def without_seconds(data: Any) -> Any:
    if isinstance(data, dict):
        return {k: without_seconds(v) for k, v in data.items() if k != "seconds"}
    return [without_seconds(item) for item in data] if isinstance(data, list) else data


TABLE = Work(
    prepare=write_table,
    begin=make_table,
    again=make_table,
    moment=moment_of_table,
    result=result_of_table,
    moments=("before the first run", "tuning", "testing", "writing the table"),
)


# --- a scan of all experts ------------------------------------------------------------------------


def write_scan(folder: Path) -> None:
    save_tiny_olmoe(folder / "model")
    rows = [
        {"question": q.question, "choices": q.choices, "answer": q.answer, "category": q.category}
        for q in questions()
    ]
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def make_scan(life: Path) -> int:
    return command(
        life, "ablate", "--model", life.parent / "model", "--device", "cpu",
        "--questions", life.parent / "questions.jsonl", "--permutations", "99",
        "--out", life / "scan.json",
    )  # fmt: skip


def moment_of_scan(life: Path) -> str:
    cells = " ".join(p.name for p in (life / "home" / "ablations").glob("*/*-expert-*.json"))
    if "layer-001-expert-0007" in cells:
        return "after the last expert"
    for layer in (1, 0):
        if f"layer-00{layer}" in cells:
            return f"experts of layer {layer}"
    return "before the first expert"


def result_of_scan(life: Path) -> Any:
    return json.loads((life / "scan.json").read_text())


SCAN = Work(
    prepare=write_scan,
    begin=make_scan,
    again=make_scan,
    moment=moment_of_scan,
    result=result_of_scan,
    moments=(
        "before the first expert",
        "experts of layer 0",
        "experts of layer 1",
        "after the last expert",
    ),
)


# --- an audit -------------------------------------------------------------------------------------


PARTS = ["questions", "muse", "drift", "causal", "relearning", "recovery"]


def write_audit(folder: Path) -> None:
    causal = {"experts": 1, "draws": 2, "questions": 4, "permutations": 99}
    few: dict[str, Any] = {"max_questions": 6, "max_documents": 6, "max_length": 32}
    few["published"] = {"muse": write_published(folder)["muse"]}
    config = small(folder, parts=PARTS, reference=None, causal=causal, **few)
    (folder / "audit.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))


def make_audit(life: Path) -> int:
    return command(life, "audit", life.parent / "audit.yaml", "--out", life / "report")


def moment_of_audit(life: Path) -> str:
    from trace_engine.audit.record import Record, untold_ends

    record = Record(life / "report")
    events = record.events()
    open_ = untold_ends(events)
    if open_ and events[-1]["event"] == "began":
        return f"part {open_[-1]['part']}"
    finished = {event["part"] for event in events if event["event"] == "done"}
    if len(finished) == len(PARTS):
        return "writing the report"
    return "between parts" if events else "before the first part"


def result_of_audit(life: Path) -> Any:
    folder = life / "report"
    report = json.loads((folder / "report.json").read_text())
    for name in ("made", "deviations", "surroundings"):
        del report[name]
    files = {
        name: data
        for name, data in tree(folder).items()
        if name.startswith(("tables/", "answers/")) and "deviations" not in name
    }
    parts = {
        path.name: without_seconds(json.loads(path.read_text()))
        for path in sorted((folder / "parts").glob("*.json"))
    }
    return without_seconds(report), files, parts


AUDIT = Work(
    prepare=write_audit,
    begin=make_audit,
    again=make_audit,
    moment=moment_of_audit,
    result=result_of_audit,
    moments=("before the first part", *(f"part {part}" for part in PARTS), "writing the report"),
)


WORKS = {
    "run": RUN,
    "profile": PROFILE,
    "sweep": SWEEP,
    "table": TABLE,
    "scan": SCAN,
    "audit": AUDIT,
}
