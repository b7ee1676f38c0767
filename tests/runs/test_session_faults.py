"""Rows 1, 3 and 26 with the real session and a tiny model: killed or stopped, same bits."""

import json
import math
import random
import re
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


@pytest.mark.fault_row(1, 3)
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


@pytest.mark.fault_row(26)
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


@pytest.mark.fault_row(12)
def test_a_run_that_really_diverges_ends_before_the_update_that_would_spoil_it(
    tmp_path: Path,
) -> None:
    write_sets(tmp_path)
    base, run = tmp_path / "home", RunDirectory(tmp_path / "run")
    # The gradient's squares are near the largest float32, and far too long steps make it grow.
    diverging = {
        "method": "ga", "weights": {"rule": "uniform"}, "gamma": 1e18, "learning_rate": 0.9,
        "checkpoint_every": 1,
    }  # fmt: skip
    run.create(settings(tmp_path, **diverging)).release()
    start(run, base).join(60)
    status = run.status()
    assert status.state == "failed"
    found = re.match(
        r"(?:loss|gradient norm) became (?:NaN|infinite) at step (\d+)\.", status.message
    )
    assert found is not None, status.message
    step = int(found[1])
    assert step > 1, "the first update has nothing to diverge from"
    assert [row["step"] for row in run.rows("train")] == list(range(1, step))
    assert all(math.isfinite(row["loss"]) for row in run.rows("train"))
    assert max(c.step for c in run.checkpoints()) == step - 1


@pytest.mark.fault_row(1)
def test_a_killed_run_that_ends_early_saves_the_same_best_model(tmp_path: Path) -> None:
    """The best weights lie in the checkpoints; a kill between their evaluation and the end loses
    nothing, and an ended run is done, not resumable."""
    write_sets(tmp_path)
    base = tmp_path / "home"
    rules: dict[str, Any] = {
        # Breaks the retain side more with every step: the last evaluation is not the best.
        "method": "ga",
        "weights": {"rule": "uniform"},
        "keep": {"which": "best", "forget_loss_at_least": 0.1},
        "evaluation": {"every": 2},
        "checkpoint_every": 1,
    }
    probe = RunDirectory(tmp_path / "probe")
    probe.create(settings(tmp_path, **rules, max_steps=8)).release()
    finish(probe, base)
    reached = probe.rows("eval")[-1]["forget_nll"]["value"]
    rules |= {"max_steps": 400, "stop": {"forget_loss_at_least": reached}}
    whole, run = RunDirectory(tmp_path / "whole"), RunDirectory(tmp_path / "run")
    for made in (whole, run):
        made.create(settings(tmp_path, **rules)).release()
    finish(whole, base)
    killed = start(run, base)
    until(lambda: any(c.step >= 3 for c in run.checkpoints()), f"step 3, log: {run.log_tail()}")
    killed.kill()
    killed.join(10)
    assert killed.exitcode == -signal.SIGKILL
    finish(run, base)
    status = run.status()
    assert (status.state, status.step, status.resumable) == ("done", 8, False)
    assert status.message == whole.status().message
    assert status.message.startswith("Ended early, at step 8 of 400: held-out forget loss ")
    kept = run.facts()["kept"]
    assert kept["sentence"] in status.message
    assert kept == whole.facts()["kept"]
    assert kept["step"] < 8
    summary = json.loads((run.path / "report" / "summary.json").read_text())
    assert (summary["kept"], summary["end"]["step"]) == (kept, kept["step"])
    one, other = whole.model_folder(), run.model_folder()
    assert one is not None
    assert other is not None
    assert weights(other) == weights(one)
