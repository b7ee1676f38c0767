"""What an examination needs torch for, as a process of its own: `python -m
trace_engine.health.probe FOLDER`.

A broken torch build ends with a signal, which must end this process and not the examination.
Prints one JSON object a stage, as soon as it is known.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from trace_engine.config import (
    EvaluationConfig,
    ModelConfig,
    SelectionConfig,
    SetConfig,
    UnlearnConfig,
)
from trace_engine.errors import RunError

STEPS = 3


def say(stage: str, **facts: Any) -> None:
    print(json.dumps({"stage": stage, **facts}), flush=True)


def look() -> None:
    """Torch and its devices."""
    import torch

    gpus = []
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(number)
            name = torch.cuda.get_device_name(number)
            gpus.append({"name": name, "free": free, "total": total})
    threads = torch.get_num_threads()
    say("torch", version=torch.__version__, cuda=torch.version.cuda, gpus=gpus, threads=threads)


def settings(folder: Path) -> UnlearnConfig:
    """A run of the tiny model, as short as one that saves, evaluates and weighs can be."""
    return UnlearnConfig(
        model=ModelConfig(source=str(folder / "model")),
        forget=SetConfig(source=str(folder / "forget.txt")),
        retain=SetConfig(source=str(folder / "retain.txt")),
        selection=SelectionConfig(top_k=1),
        evaluation=EvaluationConfig(every=STEPS, held_out=0.2),
        max_steps=STEPS,
        batch_size=2,
        max_length=48,
        profile_max_length=64,
        sample_tokens=1000,
        checkpoint_every=2,
    )


def self_test(folder: Path) -> None:
    """Profile and train the tiny model as a worker does, and check what was left.

    Raises RunError when the run failed or its numbers cannot be right.
    """
    from trace_engine.health import tiny
    from trace_engine.routing import Profile
    from trace_engine.runs import RunDirectory
    from trace_engine.runs.places import new_run_id, subfolder
    from trace_engine.runs.stopping import StopFlag
    from trace_engine.runs.worker import work

    started = time.monotonic()
    tiny.write_model(folder / "model")
    tiny.write_sets(folder)
    home = folder / "home"
    run = RunDirectory(subfolder("runs", home) / new_run_id())
    with run.create(settings(folder)):
        status = work(run, StopFlag(), base=home)
    if status.state != "done":
        raise RunError(" ".join([status.message, *run.log_tail(1)]))
    before, model = run.profile_before(), run.model_folder()
    if before is None or model is None:
        raise RunError("The run is done and left no profile or no model.")
    profile = Profile.load(before)
    for counts in (profile.forget, profile.retain):
        chosen = counts.counts_DLE.sum(axis=(0, 2)) + counts.skipped_DL.sum(axis=0)
        wanted = [counts.tokens * each for each in profile.experts_per_token_L]
        if chosen.tolist() != wanted or not counts.tokens:
            raise RunError(f"Of {wanted} choices per layer {chosen.tolist()} were counted.")
    rows = run.rows("train")
    if [row["step"] for row in rows] != list(range(1, STEPS + 1)) or not all(
        row["loss"] is not None for row in rows
    ):
        raise RunError("The training rows are incomplete.")
    checkpoints = run.checkpoints()
    if not checkpoints:
        raise RunError("The run left no checkpoint.")
    checkpoints[-1].verify()
    say(
        "self-test",
        tokens=profile.forget.tokens + profile.retain.tokens,
        steps=len(rows),
        seconds=time.monotonic() - started,
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m trace_engine.health.probe")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--look-only", action="store_true")
    options = parser.parse_args(arguments)
    look()
    if not options.look_only:
        self_test(options.folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
