"""A training session of a few numbers, exact and instant, so that kill tests are about durability
only.

It runs in real processes through the real worker, loop, rows and checkpoints. `script.json` beside
the run tells it where to pause (to be killed there) or to go wrong.
"""

import json
import multiprocessing
import os
import random
import signal
import sys
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.runs.light_worker import config
from tests.support.disks import fill
from tests.support.forking import without_a_program
from trace_engine.config import UnlearnConfig
from trace_engine.errors import NonFiniteLossError
from trace_engine.progress import ProgressCallback
from trace_engine.runs import worker
from trace_engine.runs.directory import RunDirectory
from trace_engine.runs.stopping import StopFlag
from trace_engine.runs.training import Interruptible, Opened, train


class FakeSession:
    """Momentum descent with noise from a generator: any lost or repeated update changes the last
    bits."""

    def __init__(self, settings: UnlearnConfig, script: dict[str, Any], marks: Path) -> None:
        self.config, self._script, self._marks = settings, script, marks
        self.step = 0
        self.ended = None
        self._x = torch.linspace(-1, 1, script.get("size", 8), dtype=torch.float64)
        self._momentum = torch.zeros_like(self._x)
        self._random = random.Random(settings.seed)

    @property
    def finished(self) -> bool:
        return self.step >= self.config.max_steps

    def train_step(self) -> dict[str, Any]:
        noise = self._random.random()
        loss = float((self._x**2).mean()) + noise
        if self.step + 1 == self._script.get("nan_at"):
            raise NonFiniteLossError(f"loss became NaN at step {self.step + 1}.")
        if self.step + 1 == self._script.get("bug_at"):
            raise KeyError("secret-detail")
        if self.step + 1 == self._script.get("fill_at"):
            fill(self._marks)
        half = self._momentum.mul_(0.9).add_(self._x * 0.1 + noise)
        if self.step + 1 == self._script.get("pause_at"):
            # In the middle of an update: momentum has moved, x has not.
            (self._marks / "paused").touch()
            signal.pause()
            if self._script.get("pauses") == 2:
                (self._marks / "paused-again").touch()
                signal.pause()
        self._x -= 0.01 * half
        self.step += 1
        return {"kind": "train", "step": self.step, "loss": loss, "seconds": 0.0}

    def evaluate(self) -> dict[str, Any]:
        return {"kind": "eval", "step": self.step, "norm": float(self._x.norm())}

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        version, internal, gauss = self._random.getstate()
        tensors = {"x": self._x.clone(), "momentum": self._momentum.clone()}
        return tensors, {"step": self.step, "random": [version, list(internal), gauss]}

    def load_state(self, tensors: dict[str, Tensor], data: dict[str, Any]) -> None:
        self._x, self._momentum = tensors["x"].clone(), tensors["momentum"].clone()
        version, internal, gauss = data["random"]
        self._random.setstate((version, tuple(internal), gauss))
        self.step = data["step"]

    def facts(self) -> dict[str, Any]:
        return {"fake": True, **self._script.get("facts", {})}

    def keep(self) -> dict[str, Any]:
        return {"step": self.step, "sentence": ""}

    def save_model(self, folder: Path) -> None:
        folder.mkdir()
        (folder / "x.json").write_text(json.dumps([value.hex() for value in self._x.tolist()]))

    def model_bytes(self) -> int:
        return int(self._script.get("pretend_model_bytes", self._x.numel() * 8))

    def close(self) -> None:
        """Nothing is attached to anything."""


def fake_job(run: RunDirectory, stop: StopFlag, report: ProgressCallback, base: Path | None) -> str:
    settings = run.config()
    assert isinstance(settings, UnlearnConfig)
    marks = run.path.parent
    script = json.loads((marks / "script.json").read_text())
    before = marks / "fake-profile"
    before.mkdir(exist_ok=True)
    session = FakeSession(settings, script, marks)
    fingerprints = script.get("fingerprints", {"model": "m", "forget": "f", "retain": "r"})
    opened = Opened(session, fingerprints, before, Path.mkdir)
    return train(run, settings, stop, Interruptible(stop, report), opened)


def settings(folder: Path, **changes: Any) -> UnlearnConfig:
    values: dict[str, Any] = {"max_steps": 30, "checkpoint_every": 5}
    return config(folder, **values | changes)


def write_script(folder: Path, **script: Any) -> None:
    (folder / "paused").unlink(missing_ok=True)
    (folder / "script.json").write_text(json.dumps(script))


def _child(directory: Path, base: Path) -> None:
    log = os.open(directory / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.exit(worker.main([str(directory), "--home", str(base)], job=fake_job))


def start(run: RunDirectory, base: Path) -> ForkServerProcess:
    """A real worker process on the run: forked from a server that has torch loaded and never
    computes."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.runs.fakes"])
    process = context.Process(target=_child, args=(run.path, base))
    with without_a_program():
        process.start()
    return process
