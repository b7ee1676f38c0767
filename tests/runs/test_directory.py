"""State is derived from lock and last word; rows are the last of each step; nothing here waits."""

import itertools
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.runs.light_worker import config
from tests.support.kills import dying_before, fork
from trace_engine.config import UnlearnConfig
from trace_engine.disk import Appender, place_folder, remove_folder, write_json
from trace_engine.errors import RunError
from trace_engine.runs import list_runs
from trace_engine.runs.directory import STALLED_SECONDS, RunDirectory
from trace_engine.runs.lock import LockedError
from trace_engine.runs.places import new_run_id, subfolder


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory(tmp_path / "run")


@pytest.mark.fault_row(6, simulated=True)
def test_a_free_lock_without_a_last_word_is_interrupted(run: RunDirectory, tmp_path: Path) -> None:
    lock = run.create(config(tmp_path, max_steps=9))
    assert run.status().state == "starting"
    run.update(state="running")
    rows = Appender(run.path / "metrics.jsonl")
    rows.append({"attempt": 1, "kind": "train", "step": 4, "loss": 1.0})
    rows.close()
    assert run.status().state == "running"
    lock.release()
    status = run.status()
    assert (status.state, status.step, status.max_steps) == ("interrupted", 4, 9)
    assert status.resumable
    assert "step 4" in status.message


@pytest.mark.parametrize("state", ["done", "stopped", "failed"])
def test_a_last_word_stays(run: RunDirectory, tmp_path: Path, state: str) -> None:
    with run.create(config(tmp_path)):
        run.update(state=state, message="why")
    assert (run.status().state, run.status().message) == (state, "why")
    assert run.status().resumable == (state != "done")


def test_done_is_written_once(run: RunDirectory, tmp_path: Path) -> None:
    with run.create(config(tmp_path)):
        run.update(state="done")
        with pytest.raises(RunError, match="done"):
            run.update(state="failed")
        with pytest.raises(RunError, match="nothing to resume"):
            run.begin_attempt()


def test_silence_is_only_stalled(run: RunDirectory, tmp_path: Path) -> None:
    with run.create(config(tmp_path)):
        run.update(state="running")
        write_json(run.path / "progress.json", {"done": 1})
        late = time.time() - STALLED_SECONDS - 5
        recorded = run._recorded()
        write_json(run.path / "status.json", recorded | {"updated": late})
        os.utime(run.path / "progress.json", (late, late))
        status = run.status()
        assert (status.state, status.stalled) == ("running", True)
        os.utime(run.path / "progress.json")
        assert not run.status().stalled


def test_readers_keep_the_last_row_of_a_step(run: RunDirectory, tmp_path: Path) -> None:
    run.create(config(tmp_path)).release()
    rows = Appender(run.path / "metrics.jsonl")
    for attempt, kind, step in [
        (1, "eval", 0),
        (1, "train", 1),
        (1, "train", 2),
        (1, "eval", 2),
        (2, "train", 2),
        (2, "eval", 2),
        (2, "train", 3),
    ]:
        rows.append({"attempt": attempt, "kind": kind, "step": step})
    rows.close()
    assert [(r["step"], r["kind"], r["attempt"]) for r in run.rows()] == [
        (0, "eval", 1),
        (1, "train", 1),
        (2, "train", 2),
        (2, "eval", 2),
        (3, "train", 2),
    ]
    assert [r["step"] for r in run.rows("eval")] == [0, 2]


def test_create_refuses_a_folder_with_something_in_it(run: RunDirectory, tmp_path: Path) -> None:
    run.path.mkdir()
    (run.path / "thesis.tex").write_text("mine")
    with pytest.raises(RunError, match="not empty"):
        run.create(config(tmp_path))
    assert [p.name for p in run.path.iterdir()] == ["thesis.tex"]


def test_a_run_that_computed_nothing_starts_anew_in_its_folder(
    run: RunDirectory, tmp_path: Path
) -> None:
    with run.create(config(tmp_path, max_steps=9)):
        run.update(state="failed", message="No expert is selected.", notes=["old"])
        run.log("old")
        (run.path / "stop-001").touch()
        (run.path / "profile-before").mkdir()
        write_json(run.path / "facts.json", {"identity": {}})
        with pytest.raises(LockedError, match="in use by another process"):
            run.create(config(tmp_path))
    corrected = config(tmp_path, max_steps=7)
    with run.create(corrected):
        status = run.status()
        assert (status.state, status.attempt, status.notes) == ("starting", 1, ())
        assert run.config() == corrected
        assert run.facts() == {}
        assert run.log_tail() == []
        run.update(state="interrupted")
    run.create(corrected).release()


@pytest.mark.parametrize("kept", ["step", "done", "foreign file", "damaged status"])
def test_a_folder_with_a_result_or_a_stranger_stays(
    run: RunDirectory, tmp_path: Path, kept: str
) -> None:
    with run.create(config(tmp_path)):
        run.update(state="done" if kept == "done" else "failed")
    if kept == "step":
        rows = Appender(run.path / "metrics.jsonl")
        rows.append({"attempt": 1, "kind": "train", "step": 1})
        rows.close()
    if kept == "foreign file":
        (run.path / "thesis.tex").write_text("mine")
    if kept == "damaged status":
        (run.path / "status.json").write_text("{")
    before = {path.name: path.read_bytes() for path in run.path.iterdir()}
    with pytest.raises(RunError, match="not empty"):
        run.create(config(tmp_path))
    assert {path.name: path.read_bytes() for path in run.path.iterdir()} == before


def test_a_launch_that_got_no_further_than_its_lock_does_not_block(
    run: RunDirectory, tmp_path: Path
) -> None:
    run.path.mkdir()
    run.lock_path.touch()
    run.create(config(tmp_path)).release()


def _make(path: Path, settings: UnlearnConfig, fatal: int) -> None:
    dying_before(fatal)
    RunDirectory(path).create(settings)


def _begin_again(path: Path, _: UnlearnConfig, fatal: int) -> None:
    run = RunDirectory(path)
    dying_before(fatal)
    with run.lock():
        run.begin_attempt()
        write_json(path / "facts.json", {"seen": 1})
        place_folder(path / "model", _write_model)


def _write_model(folder: Path) -> None:
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"whole")


def killed(
    act: Callable[[Path, UnlearnConfig, int], None], run: RunDirectory, folder: Path, fatal: int
) -> bool:
    """Whether a child that does it was killed before so many changes; False when it was done."""
    process = fork(act, run.path, config(folder, max_steps=9), fatal)
    process.join(60)
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


@pytest.mark.faults
@pytest.mark.fault_row(28)
def test_a_kill_at_any_change_while_one_is_made_blocks_nothing(tmp_path: Path) -> None:
    left = Counter[str]()
    run = RunDirectory(subfolder("runs", tmp_path) / new_run_id())
    for fatal in itertools.count():
        if not killed(_make, run, tmp_path, fatal):
            break
        states = [summary.status.state for summary in list_runs(tmp_path)]
        left[" ".join(states) or "not listed"] += 1
        run.create(config(tmp_path)).release()
        assert [each.status.state for each in list_runs(tmp_path)] == ["interrupted"]
        assert [p.name for p in run.path.iterdir() if p.name.startswith(".")] == [".reserve.tmp"]
        remove_folder(run.path)
    assert set(left) == {"not listed", "interrupted"}
    assert min(left.values()) > 1, left


@pytest.mark.faults
@pytest.mark.fault_row(28)
def test_a_kill_at_any_change_of_an_attempt_leaves_nothing_to_the_next(
    run: RunDirectory, tmp_path: Path
) -> None:
    run.create(config(tmp_path)).release()
    kills = halves = 0
    while killed(_begin_again, run, tmp_path, kills):
        kills += 1
        hidden = {path.name for path in run.path.iterdir() if path.name.startswith(".")}
        halves += bool(hidden - {".reserve.tmp"})
        assert run.status().state == "interrupted"
        with run.lock():
            run.begin_attempt()
        assert [p.name for p in run.path.iterdir() if p.name.startswith(".")] == [".reserve.tmp"]
        model = run.model_folder()
        assert model is None or (model / "model.safetensors").read_bytes() == b"whole"
    assert kills > halves > 5


@pytest.mark.faults
@pytest.mark.fault_row(28, simulated=True)
@pytest.mark.parametrize("made", [("config.yaml",), ("config.yaml", "launch.json")])
def test_one_that_was_killed_while_it_was_made_does_not_block_and_is_not_listed(
    tmp_path: Path, made: tuple[str, ...]
) -> None:
    run = RunDirectory(subfolder("runs", tmp_path) / new_run_id())
    run.path.mkdir()
    run.lock_path.touch()
    for name in made:
        (run.path / name).write_text("{}")
    (run.path / ".status.json.4711.tmp").write_text("{")
    assert list_runs(tmp_path) == []
    run.create(config(tmp_path)).release()
    assert [summary.status.state for summary in list_runs(tmp_path)] == ["interrupted"]
    assert not list(run.path.glob(".status*"))


def test_what_only_looks_like_one_that_was_killed_stays(run: RunDirectory, tmp_path: Path) -> None:
    run.path.mkdir()
    (run.path / "config.yaml").write_text("of somebody else: true")
    with pytest.raises(RunError, match="not empty"):
        run.create(config(tmp_path))
    assert [path.name for path in run.path.iterdir()] == ["config.yaml"]


@pytest.mark.faults
@pytest.mark.fault_row(28, simulated=True)
def test_the_next_attempt_removes_what_a_killed_one_left_half_written(
    run: RunDirectory, tmp_path: Path
) -> None:
    run.create(config(tmp_path)).release()
    (run.path / ".model.0a1b2c3d.tmp").mkdir()
    (run.path / ".model.0a1b2c3d.tmp" / "model.safetensors").write_bytes(b"half")
    (run.path / ".facts.json.4711.tmp").write_text("{")
    with run.lock():
        run.begin_attempt()
    hidden = [path.name for path in run.path.iterdir() if path.name.startswith(".")]
    assert hidden == [".reserve.tmp"]  # of the attempt that begins


def test_settings_round_trip_whatever_the_label_is(run: RunDirectory, tmp_path: Path) -> None:
    label = "../../etc\0 /abs <script> é" + "x" * 300
    settings = config(tmp_path, name=label, learning_rate=1e-4)
    run.create(settings).release()
    assert run.config() == settings
    assert run.id == "run"


def test_lock_refuses_a_second_holder_and_a_missing_run(run: RunDirectory, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="not a run"):
        run.lock()
    with run.create(config(tmp_path)), pytest.raises(LockedError, match="in use by its worker"):
        run.lock()


def test_a_copied_directory_opens_elsewhere(run: RunDirectory, tmp_path: Path) -> None:
    lock = run.create(config(tmp_path))
    run.update(state="running")
    copy = tmp_path / "elsewhere" / "copy"
    copy.parent.mkdir()
    # As `cp -r` of a live run would: files, no lock.
    copy.mkdir()
    for path in run.path.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    assert RunDirectory(copy).status().state == "interrupted"
    assert run.status().state == "running"
    lock.release()
