"""Row 6: what a machine that loses power finds again. No test can cut the power, so the order of
the real system calls is what is tested: nothing appears, and nothing older goes, before what it
stands for is on the disk."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.runs.fakes import FakeSession, fake_job, settings, write_script
from tests.support.syncing import Disk
from trace_engine import disk
from trace_engine.runs.checkpoints import KEPT, list_checkpoints, save_checkpoint
from trace_engine.runs.directory import RunDirectory
from trace_engine.runs.stopping import StopFlag
from trace_engine.runs.worker import work


@pytest.mark.fault_row(6, simulated=True)
def test_a_file_is_synced_before_its_name_and_the_name_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Disk()
    watched.watch(monkeypatch)
    disk.write_json(tmp_path / "a.json", {"x": 1})
    (first, temporary), *rest = watched.order
    assert (first, temporary.endswith(".tmp")) == ("fsync", True)
    assert rest == [("rename", "a.json"), ("fsync", tmp_path.name)]


@pytest.mark.fault_row(6, simulated=True)
def test_a_folder_is_synced_throughout_before_its_name_and_the_name_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(folder: Path) -> None:
        (folder / "part").mkdir(parents=True)
        for name in ("a", "part/b"):
            (folder / name).write_text(name)

    watched = Disk()
    watched.watch(monkeypatch)
    for _ in range(2):  # new, and in the place of another
        watched.order.clear()
        disk.place_folder(tmp_path / "model", write)
        at = watched.order.index(("rename", "model"))
        assert {name for call, name in watched.order[:at] if call == "fsync"} >= {"a", "part", "b"}
        assert watched.order[-1] == ("fsync", tmp_path.name)
    assert watched.all_is_safe(tmp_path)


@pytest.mark.fault_row(6, simulated=True)
def test_appended_rows_are_safe_once_they_are_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Disk()
    watched.watch(monkeypatch)
    rows = disk.Appender(tmp_path / "metrics.jsonl")
    for step in range(3):
        rows.append({"step": step})
        assert not watched.bytes_are_safe(tmp_path / "metrics.jsonl")
        rows.sync()
        assert watched.all_is_safe(tmp_path)
    rows.close()


@pytest.mark.fault_row(6, simulated=True)
def test_a_run_is_on_the_disk_step_by_step_as_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_script(tmp_path)
    run = RunDirectory(tmp_path / "run")
    curve, seen = run.path / "metrics.jsonl", []

    def look(path: Path) -> None:
        folder = path.parent
        if folder.parent == run.path / "checkpoints" and path.name == "manifest.json":
            if not path.exists():  # it appears
                seen.append("checkpoint")
                assert watched.all_is_safe(folder)
                assert {"state.json", "tensors.safetensors"} <= {p.name for p in folder.iterdir()}
                assert watched.bytes_are_safe(curve), "the checkpoint is ahead of its curve"
                assert watched.names_are_safe(run.path), "nobody would find it, or its curve"
            else:  # an older one goes
                seen.append("retired")
                newest = list_checkpoints(folder.parent)[-1].path
                assert newest != folder
                assert watched.all_is_safe(newest)
                assert watched.names_are_safe(folder.parent)
        if path == run.path / "status.json" and path.exists():
            [last] = list(run.path.glob(".status.json.*"))
            if json.loads(last.read_text())["state"] == "done":
                seen.append("done")
                assert watched.names_are_safe(run.path)
                for file in (curve, run.path / "facts.json", run.path / "config.yaml"):
                    assert watched.bytes_are_safe(file), file.name
                for result in ("model", "profile-before", "profile-after", "report"):
                    assert watched.all_is_safe(run.path / result), result

    watched = Disk(look)
    watched.watch(monkeypatch)
    with run.create(settings(tmp_path, max_steps=20)):
        assert watched.names_are_safe(run.path.parent), "nobody would find the run"
        status = work(run, StopFlag(), base=tmp_path / "home", job=fake_job)
    assert status.state == "done", "\n".join(run.log_tail())
    assert seen.count("checkpoint") == 4
    assert seen.count("retired") == 4 - KEPT
    assert seen[-1] == "done"
    assert watched.names_are_safe(run.path), "the last word"


@pytest.mark.fault_row(6, simulated=True)
def test_a_run_that_is_stopped_before_its_first_step_has_its_first_row_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No checkpoint has synced it then."""
    write_script(tmp_path)
    run, stop, evaluate = RunDirectory(tmp_path / "run"), StopFlag(), FakeSession.evaluate

    def evaluate_and_stop(session: FakeSession) -> dict[str, Any]:
        stop.requested = True
        return evaluate(session)

    def look(path: Path) -> None:
        if path.name == "status.json" and (run.path / "metrics.jsonl").exists():
            seen.append(watched.bytes_are_safe(run.path / "metrics.jsonl"))

    seen: list[bool] = []
    watched = Disk(look)
    monkeypatch.setattr(FakeSession, "evaluate", evaluate_and_stop)
    watched.watch(monkeypatch)
    with run.create(settings(tmp_path)):
        status = work(run, stop, base=tmp_path / "home", job=fake_job)
    assert (status.state, [row["kind"] for row in run.rows()]) == ("stopped", ["eval"])
    assert seen
    assert all(seen)


@pytest.mark.fault_row(6, simulated=True)
def test_an_older_manifest_is_gone_before_its_files_are_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would vouch for a mixture of two attempts."""
    watched = Disk()
    watched.watch(monkeypatch)
    for attempt in (1, 2):
        watched.order.clear()
        tensors = {"x": torch.full((3,), float(attempt))}
        save_checkpoint(tmp_path / "all", tensors, {}, step=3, attempt=attempt, identity={})
    assert watched.order[:2] == [("remove", "manifest.json"), ("fsync", "000003")]
    assert watched.order[-1] == ("fsync", "all")
