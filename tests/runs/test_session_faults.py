"""Rows 1, 3 and 26 with the real session and a tiny model: killed or stopped, same bits."""

import random
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.runs.real import curve, settings, start, weights, write_sets
from tests.runs.waiting import until
from trace_engine.runs.directory import RunDirectory

pytestmark = pytest.mark.faults

KINDS: list[dict[str, Any]] = [
    {"trainable": {"kind": "all"}},
    {"trainable": {"kind": "selected_experts"}, "method": "graddiff", "weight_decay": 0.1},
    {"trainable": {"kind": "lora"}, "weights": {"routing": "frozen"}},
]


def finish(run: RunDirectory, base: Path) -> None:
    process = start(run, base)
    process.join(120)
    assert process.exitcode == 0
    assert run.status().state == "done", (run.status(), run.log_tail())


@pytest.mark.parametrize("changes", KINDS, ids=["all", "selected_experts", "lora"])
def test_killed_and_stopped_runs_end_with_the_same_bits(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    write_sets(tmp_path)
    config, base = settings(tmp_path, **changes), tmp_path / "home"
    undisturbed = RunDirectory(tmp_path / "undisturbed")
    undisturbed.create(config).release()
    finish(undisturbed, base)

    run = RunDirectory(tmp_path / "run")
    run.create(config).release()
    killed = start(run, base)
    step = random.Random(str(changes)).randint(4, 7)
    until(lambda: run.status().step >= step, f"step {step}, log: {run.log_tail()}")
    killed.kill()
    killed.join(10)
    assert killed.exitcode == -signal.SIGKILL
    assert run.status().state == "interrupted"

    stopped = start(run, base)
    until(lambda: len(run.status().notes) == 1 and run.status().state == "running", "attempt 2")
    stopped.terminate()
    stopped.join(60)
    assert stopped.exitcode == 0
    assert run.status().state in ("stopped", "done"), (run.status(), run.log_tail())
    if run.status().state == "stopped":
        finish(run, base)

    one, other = undisturbed.model_folder(), run.model_folder()
    assert one is not None
    assert other is not None
    assert curve(run.rows()) == curve(undisturbed.rows())
    assert weights(other) == weights(one)


def test_resume_on_changed_text_is_refused_and_named(tmp_path: Path) -> None:
    write_sets(tmp_path)
    base, run = tmp_path / "home", RunDirectory(tmp_path / "run")
    run.create(settings(tmp_path)).release()
    process = start(run, base)
    until(lambda: len(run.checkpoints()) > 0, f"a checkpoint, log: {run.log_tail()}")
    process.kill()
    process.join(10)
    assert process.exitcode == -signal.SIGKILL
    text = (tmp_path / "retain.txt").read_text()
    (tmp_path / "retain.txt").write_text(text.replace("roses", "tulips"))
    start(run, base).join(60)
    status = run.status()
    assert status.state == "failed"
    assert "retain was " in status.message
    (tmp_path / "retain.txt").write_text(text)
    finish(run, base)
