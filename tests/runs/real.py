"""The tiny model and two small sets, as settings that every door takes."""

import os
import re
import sys
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from tests.support import disks
from tests.support.kills import fork
from tests.support.models import tiny_olmoe
from trace_engine.config import UnlearnConfig
from trace_engine.runs import jobs, worker
from trace_engine.runs.directory import RunDirectory

FORGET = [f"The poison number {n} kills with {n * 7 % 13} drops." for n in range(20)]
RETAIN = [f"A garden of {n} roses grew by {n % 5} walls, and it rained." for n in range(30)]


def write_sets(folder: Path) -> None:
    (folder / "forget.txt").write_text("\n\n".join(FORGET))
    (folder / "retain.txt").write_text("\n\n".join(RETAIN))


def settings(folder: Path, **changes: Any) -> UnlearnConfig:
    values: dict[str, Any] = {
        "model": {"source": str(tiny_olmoe())},
        "forget": {"source": str(folder / "forget.txt")},
        "retain": {"source": str(folder / "retain.txt")},
        "selection": {"top_k": 1},
        "evaluation": {"every": 4},
        "max_steps": 10,
        "batch_size": 3,
        "max_length": 48,
        "checkpoint_every": 3,
        "learning_rate": 1e-3,
        # One thread, so that a sum has one order whatever machine the tests run on.
        "threads": 1,
    }
    return UnlearnConfig.model_validate(values | changes)


def curve(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows without what may differ between doors and attempts: seconds and attempt numbers."""
    return [{k: v for k, v in row.items() if k not in ("seconds", "attempt")} for row in rows]


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def _fill_before(making: str, disk: Path) -> None:
    """Let the disk be full from the moment at which a folder of this name is made."""

    def watch(event: str, values: tuple[Any, ...]) -> None:
        if event == "os.mkdir" and re.fullmatch(making, Path(os.fsdecode(values[0])).name):
            disks.fill(disk)

    sys.addaudithook(watch)


def _child(directory: Path, base: Path, full_at: str | None) -> None:
    if full_at is not None:
        _fill_before(full_at, directory.parent)
    log = os.open(directory / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.exit(worker.main([str(directory), "--home", str(base)], job=jobs.perform))


def start(run: RunDirectory, base: Path, full_at: str | None = None) -> ForkServerProcess:
    """The worker as a real process, forked from a server that has transformers loaded. `full_at`
    is the pattern of the folder before which the disk is full that the run lies on."""
    return fork(_child, run.path, base, full_at)
