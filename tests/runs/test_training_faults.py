"""Rows 1-3, 7, 8, 11, 12 of the fault table: real processes, really killed, and the same bits after
all."""

import json
import os
import random
import re
import shutil
import signal
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest

from tests.runs.fakes import settings, start, write_script
from tests.runs.waiting import until
from tests.support.disks import fill, make_room
from trace_engine.runs.directory import RunDirectory

pytestmark = pytest.mark.faults


def new_run(tmp_path: Path, name: str = "run", **changes: Any) -> RunDirectory:
    run = RunDirectory(tmp_path / name)
    run.create(settings(tmp_path, **changes)).release()
    return run


def finish(run: RunDirectory, tmp_path: Path) -> None:
    process = start(run, tmp_path / "home")
    process.join(60)
    assert process.exitcode == 0
    assert run.status().state == "done", (run.status(), run.log_tail())


def paused(run: RunDirectory, tmp_path: Path) -> ForkServerProcess:
    process = start(run, tmp_path / "home")
    until((tmp_path / "paused").exists, f"the pause, log: {run.log_tail()}")
    return process


def kill(process: ForkServerProcess) -> None:
    process.kill()
    process.join(10)
    assert process.exitcode == -signal.SIGKILL


def curve(run: RunDirectory) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k != "attempt"} for row in run.rows()]


def weights(run: RunDirectory) -> str:
    folder = run.model_folder()
    assert folder is not None
    return (folder / "x.json").read_text()


@pytest.fixture
def undisturbed(tmp_path: Path) -> RunDirectory:
    write_script(tmp_path)
    run = new_run(tmp_path, "undisturbed")
    finish(run, tmp_path)
    return run


def same(run: RunDirectory, other: RunDirectory) -> None:
    assert json.dumps(curve(run)) == json.dumps(curve(other))
    assert weights(run) == weights(other)


@pytest.mark.fault_row(1)
def test_kill_9_in_mid_step(undisturbed: RunDirectory, tmp_path: Path) -> None:
    write_script(tmp_path, pause_at=13)
    run = new_run(tmp_path)
    kill(paused(run, tmp_path))
    status = run.status()
    assert (status.state, status.step) == ("interrupted", 12)
    assert [c.step for c in run.checkpoints()] == [5, 10]
    write_script(tmp_path)
    finish(run, tmp_path)
    assert run.status().attempt == 2
    assert run.status().notes == ("Attempt 2 continued from step 10.",)
    same(run, undisturbed)
    attempts = {row["step"]: row["attempt"] for row in run.rows("train")}
    assert (attempts[10], attempts[11], attempts[12]) == (1, 2, 2)


@pytest.mark.fault_row(1)
def test_kill_9_before_the_first_checkpoint_starts_over(
    undisturbed: RunDirectory, tmp_path: Path
) -> None:
    write_script(tmp_path, pause_at=3)
    run = new_run(tmp_path)
    kill(paused(run, tmp_path))
    write_script(tmp_path)
    finish(run, tmp_path)
    assert run.status().notes == ("Attempt 2 continued from the beginning.",)
    same(run, undisturbed)


def unfinished(run: RunDirectory) -> list[Path]:
    """Checkpoints that have begun and have no manifest."""
    return [
        path for path in run.path.glob("checkpoints/*") if not (path / "manifest.json").exists()
    ]


@pytest.mark.fault_row(1, 2)
def test_kill_9_at_many_moments_half_of_them_in_a_checkpoint(tmp_path: Path) -> None:
    """A checkpoint at every step, large enough that a kill can hit it half written."""
    write_script(tmp_path, size=200_000)
    reference = new_run(tmp_path, "reference", max_steps=60, checkpoint_every=1)
    finish(reference, tmp_path)
    run = new_run(tmp_path, max_steps=60, checkpoint_every=1)
    chance, torn = random.Random(7), 0
    for number in range(8):
        process = start(run, tmp_path / "home")
        goal = run.status().step + 1
        until(lambda: run.status().step >= goal, "a step")  # noqa: B023
        if number % 2:
            until(lambda: bool(unfinished(run)), "a checkpoint to begin")
        else:
            process.join(chance.random() * 0.02)
        kill(process)
        torn += bool(unfinished(run))
        assert run.status().state == "interrupted"
    assert torn >= 1, "no kill hit a checkpoint: the test proved nothing about torn ones"
    finish(run, tmp_path)
    assert run.status().attempt == 9
    same(run, reference)
    assert [c.step for c in run.checkpoints()] == [59, 60]
    assert not unfinished(run)


@pytest.mark.fault_row(3)
def test_sigterm_finishes_the_step_and_saves(undisturbed: RunDirectory, tmp_path: Path) -> None:
    write_script(tmp_path, pause_at=13)
    run = new_run(tmp_path)
    process = paused(run, tmp_path)
    process.terminate()
    process.join(30)
    assert process.exitcode == 0
    status = run.status()
    assert (status.state, status.step) == ("stopped", 13)
    assert status.message == "Stopped at step 13 of 30; saved."
    assert [c.step for c in run.checkpoints()] == [10, 13]
    write_script(tmp_path)
    finish(run, tmp_path)
    same(run, undisturbed)


@pytest.mark.fault_row(3)
def test_a_second_signal_ends_at_once(undisturbed: RunDirectory, tmp_path: Path) -> None:
    # Two pauses: the first signal ends the first one only.
    write_script(tmp_path, pause_at=13, pauses=2)
    run = new_run(tmp_path)
    process = paused(run, tmp_path)
    process.terminate()
    until((tmp_path / "paused-again").exists, "the step to go on after the first signal")
    process.terminate()
    process.join(10)
    assert process.exitcode == -signal.SIGTERM
    assert run.status().state == "interrupted"
    write_script(tmp_path)
    finish(run, tmp_path)
    same(run, undisturbed)


@pytest.mark.fault_row(8)
def test_a_flipped_bit_is_named_and_the_checkpoint_before_is_used(
    undisturbed: RunDirectory, tmp_path: Path
) -> None:
    write_script(tmp_path, pause_at=13)
    run = new_run(tmp_path)
    kill(paused(run, tmp_path))
    damaged = run.path / "checkpoints" / "000010" / "tensors.safetensors"
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(bytes(content))
    write_script(tmp_path)
    finish(run, tmp_path)
    assert run.status().notes == (
        "Checkpoint 000010 is damaged: tensors.safetensors differs from its hash.",
        "Attempt 2 continued from step 5.",
    )
    same(run, undisturbed)


@pytest.mark.fault_row(8)
@pytest.mark.parametrize("name", ["tensors.safetensors", "state.json", "manifest.json"])
def test_a_truncated_file_is_named(undisturbed: RunDirectory, tmp_path: Path, name: str) -> None:
    write_script(tmp_path, pause_at=13)
    run = new_run(tmp_path)
    kill(paused(run, tmp_path))
    os.truncate(run.path / "checkpoints" / "000010" / name, 20)
    write_script(tmp_path)
    finish(run, tmp_path)
    first, second = run.status().notes
    assert first.startswith("Checkpoint 000010 is damaged")
    assert second == "Attempt 2 continued from step 5."
    same(run, undisturbed)


@pytest.mark.fault_row(12, simulated=True)  # test_session_faults.py has one that diverges
def test_nan_fails_with_its_sentence_and_leaves_a_gap(tmp_path: Path) -> None:
    write_script(tmp_path, nan_at=7)
    run = new_run(tmp_path)
    process = start(run, tmp_path / "home")
    process.join(60)
    status = run.status()
    assert (status.state, status.message) == ("failed", "loss became NaN at step 7.")
    assert [row["step"] for row in run.rows("train")] == [1, 2, 3, 4, 5, 6]
    assert [c.step for c in run.checkpoints()] == [5]
    assert status.resumable


def test_an_overlap_is_among_the_notes_once_however_often_it_is_resumed(tmp_path: Path) -> None:
    facts = {"overlap": {"count": 7, "forget_total": 60, "retain_total": 90}}
    write_script(tmp_path, pause_at=13, facts=facts)
    run = new_run(tmp_path)
    kill(paused(run, tmp_path))
    write_script(tmp_path, facts=facts)
    finish(run, tmp_path)
    said = [note for note in run.status().notes if "7 of 60 forget documents" in note]
    assert len(said) == 1


def test_a_bug_is_one_sentence_and_its_traceback_is_in_the_log(tmp_path: Path) -> None:
    write_script(tmp_path, bug_at=7)
    run = new_run(tmp_path)
    start(run, tmp_path / "home").join(60)
    status = run.status()
    assert status.state == "failed"
    assert "KeyError" in status.message
    assert "secret-detail" not in status.message
    assert "Traceback" in "\n".join(run.log_tail())
    assert "secret-detail" in "\n".join(run.log_tail())


@pytest.mark.fault_row(26)
@pytest.mark.parametrize("field", ["model", "forget", "retain"])
def test_resume_refuses_other_bytes_and_names_them(tmp_path: Path, field: str) -> None:
    write_script(tmp_path, pause_at=13)
    run = new_run(tmp_path)
    kill(paused(run, tmp_path))
    rows = (run.path / "metrics.jsonl").read_bytes()
    changed = {"model": "m", "forget": "f", "retain": "r"} | {field: "other"}
    write_script(tmp_path, fingerprints=changed)
    start(run, tmp_path / "home").join(60)
    status = run.status()
    assert status.state == "failed"
    assert f"{field} was {field[0]}, is other" in status.message
    assert (run.path / "metrics.jsonl").read_bytes() == rows
    write_script(tmp_path)
    finish(run, tmp_path)


@pytest.mark.fault_row(7)
def test_disk_full_says_how_much_and_older_checkpoints_load(
    tmp_path: Path, small_disk: Path
) -> None:
    numbers = 10_000  # a checkpoint is two of 80 kB, and the run ends with a model of 80 kB
    write_script(tmp_path, size=numbers)
    undisturbed = new_run(tmp_path, "undisturbed")
    finish(undisturbed, tmp_path)
    write_script(small_disk, size=numbers, pause_at=13)
    run = new_run(small_disk)
    kill(paused(run, small_disk))
    rows = run.rows()
    write_script(small_disk, size=numbers)
    fill(small_disk, but=300_000)
    start(run, small_disk / "home").join(60)
    status = run.status()
    assert status.state == "failed"
    found = re.fullmatch(r"disk full, 400\.0 kB needed, (\d+)\.\d kB free\.", status.message)
    assert found is not None, status.message
    assert 0 < int(found[1]) < 300
    assert run.rows() == rows, "it began all the same"
    assert [c.step for c in run.checkpoints()] == [5, 10]
    for checkpoint in run.checkpoints():
        checkpoint.verify()
    make_room(small_disk)
    finish(run, small_disk)
    same(run, undisturbed)


@pytest.mark.fault_row(7)
def test_a_disk_that_fills_in_mid_run_fails_it_and_loses_nothing(
    undisturbed: RunDirectory, small_disk: Path
) -> None:
    write_script(small_disk, fill_at=13)
    run = new_run(small_disk)
    start(run, small_disk / "home").join(60)
    make_room(small_disk)
    status = run.status()
    assert status.state == "failed"
    assert status.message.startswith("disk full, ")
    assert [c.step for c in run.checkpoints()] == [5, 10]
    write_script(small_disk)
    finish(run, small_disk)
    same(run, undisturbed)


def test_what_a_kill_leaves_of_the_kept_room_is_in_nobodys_way(tmp_path: Path) -> None:
    write_script(tmp_path, pause_at=1)
    run = new_run(tmp_path)
    kill(paused(run, tmp_path))
    assert (run.path / ".reserve.tmp").stat().st_size == 65536
    write_script(tmp_path)
    run.create(settings(tmp_path)).release()  # nothing was computed: it starts anew
    finish(run, tmp_path)
    assert not (run.path / ".reserve.tmp").exists()


def test_a_model_that_could_not_be_saved_is_not_trained(tmp_path: Path) -> None:
    write_script(tmp_path, pretend_model_bytes=2 * shutil.disk_usage(tmp_path).total)
    run = new_run(tmp_path)
    start(run, tmp_path / "home").join(60)
    assert run.status().state == "failed"
    assert run.status().message.startswith("disk full, ")
    assert run.rows("train") == []


@pytest.mark.fault_row(11)
def test_a_reader_during_writes_sees_only_whole_rows(tmp_path: Path) -> None:
    write_script(tmp_path)
    run = new_run(tmp_path, max_steps=300, checkpoint_every=50)
    process = start(run, tmp_path / "home")
    seen, looks = 0, 0
    while process.exitcode is None:
        steps = [row["step"] for row in run.rows("train")]
        assert steps == list(range(1, len(steps) + 1))
        assert len(steps) >= seen
        seen, looks = len(steps), looks + 1
        run.status(), run.progress(), run.facts(), run.checkpoints()
    assert looks > 3
    assert run.status().state == "done"
    assert len(run.rows("train")) == 300
