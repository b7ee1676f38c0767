"""Rows 1 and 2 at scale: a run of the real session, killed at 200 random moments of its life, one
kill a run, and resumed each time to the same curve and the same bits.

TRACE_KILLS sets another number; the moments are seeded, what they hit depends on the machine.
"""

import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.runs.real import curve, settings, start, weights, write_sets
from trace_engine.runs.directory import RunDirectory

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.timeout(3600)]

KILLS = int(os.environ.get("TRACE_KILLS", "200"))
LEAST_IN_EACH = KILLS // 50
"""Of each kind of moment, that the test says something about it."""


def finish(run: RunDirectory, base: Path) -> None:
    process = start(run, base)
    process.join(120)
    assert process.exitcode == 0
    assert run.status().state == "done", (run.status(), run.log_tail())


def moment(run: RunDirectory) -> str:
    """What the dead worker was at, told by what it left."""
    if any(not (c / "manifest.json").exists() for c in run.path.glob("checkpoints/*")):
        return "checkpoint"
    if any(run.path.glob("model*")):
        return "final save"
    steps = len(run.rows("train"))
    if not steps:
        return "before the first step"
    phase = str((run.progress() or {}).get("phase", ""))
    return "evaluation" if phase.startswith("evaluating") else "steps"


def test_any_moment_resumes_to_the_same_bits(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    write_sets(tmp_path)
    config, base = settings(tmp_path, checkpoint_every=1, max_steps=40), tmp_path / "home"
    undisturbed = RunDirectory(tmp_path / "undisturbed")
    undisturbed.create(config).release()
    finish(undisturbed, base)  # the first also fills the caches that all later ones have
    begun = time.monotonic()
    again = RunDirectory(tmp_path / "again")
    again.create(config).release()
    finish(again, base)
    lasts = time.monotonic() - begun
    folder = undisturbed.model_folder()
    assert folder is not None
    bits, rows = weights(folder), curve(undisturbed.rows())

    chance, hit = random.Random(1), Counter[str]()
    while hit.total() < KILLS:
        run = RunDirectory(tmp_path / f"run-{hit.total()}")
        run.create(config).release()
        process = start(run, base)
        process.join(chance.random() * lasts)
        process.kill()
        process.join(10)
        if process.exitcode == 0:  # it was faster than the one that was timed: not a kill
            shutil.rmtree(run.path)
            continue
        assert process.exitcode == -signal.SIGKILL
        assert run.status().state == "interrupted"
        hit[moment(run)] += 1
        finish(run, base)
        model = run.model_folder()
        assert model is not None
        assert curve(run.rows()) == rows
        assert weights(model) == bits
        shutil.rmtree(run.path)
    record_property("moments", dict(hit))
    print(f"{KILLS} kills: {dict(hit)}")
    assert hit["steps"] >= LEAST_IN_EACH
    assert hit["checkpoint"] >= LEAST_IN_EACH
    assert hit["evaluation"] >= LEAST_IN_EACH
