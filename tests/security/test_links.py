"""A folder that was copied by hand may hold links: nothing is written through one where a file
belongs, and folders above it may be links."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.runs.light_worker import COMMAND, config
from trace_engine.audit.record import EVENTS, Record
from trace_engine.disk import Appender, LinkedFileError
from trace_engine.regular import NotAFileError
from trace_engine.runs import launcher, list_runs
from trace_engine.runs.detach import start_detached
from trace_engine.runs.directory import RunDirectory
from trace_engine.runs.lock import FileLock, is_locked
from trace_engine.runs.places import new_run_id, subfolder
from trace_engine.runs.process import ProcessName

THEIRS = b'{"a": 1}\nno newline at its end'


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    path = tmp_path / "outside"
    path.write_bytes(THEIRS)
    return path


def stopped(home: Path) -> RunDirectory:
    run = RunDirectory(subfolder("runs", home) / new_run_id())
    with run.create(config(home)):
        run.update(state="stopped", message="")
    return run


def bytes_of(run: RunDirectory) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in run.path.iterdir()}


@pytest.mark.parametrize("name", ["events.jsonl", "log.txt", "metrics.jsonl", "lock"])
def test_a_resume_writes_through_no_link(name: str, tmp_path: Path, outside: Path) -> None:
    run = stopped(tmp_path)
    (run.path / name).unlink(missing_ok=True)
    (run.path / name).symlink_to(outside)
    before = bytes_of(run)
    with pytest.raises(LinkedFileError, match=f"its file {name} is a symbolic link"):
        launcher.resume(run.id, tmp_path)
    assert outside.read_bytes() == THEIRS
    assert bytes_of(run) == before


def test_a_worker_by_hand_writes_through_no_link(tmp_path: Path, outside: Path) -> None:
    run = stopped(tmp_path)
    run.update(process=ProcessName.own().to_dict())
    (run.path / "events.jsonl").unlink()
    (run.path / "events.jsonl").symlink_to(outside)
    done = subprocess.run(
        [*COMMAND, str(run.path), "--home", str(tmp_path)], capture_output=True, check=False
    )
    assert done.returncode == 1
    assert b"events.jsonl is a symbolic link" in done.stderr
    assert b"Traceback" not in done.stderr
    assert outside.read_bytes() == THEIRS


def _detach(path: Path) -> None:
    with FileLock.take(path.with_name("own.lock"), "") as lock:
        start_detached(["true"], lock, path, path.parent)


DOORS: dict[str, Callable[[Path], object]] = {
    "lines": Appender,
    "a lock": lambda path: FileLock.take(path, ""),
    "a look at a lock": is_locked,
    "a job's log": _detach,
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("there", [True, False])
def test_every_door_refuses_a_link(door: str, there: bool, tmp_path: Path, outside: Path) -> None:
    target = outside if there else tmp_path / "made"
    (tmp_path / "link").symlink_to(target)
    with pytest.raises(LinkedFileError, match="its file link is a symbolic link"):
        DOORS[door](tmp_path / "link")
    assert outside.read_bytes() == THEIRS
    assert not (tmp_path / "made").exists()


def test_an_audit_notes_nothing_through_a_link(tmp_path: Path, outside: Path) -> None:
    (tmp_path / "audit").mkdir()
    (tmp_path / "audit" / EVENTS).symlink_to(outside)
    with pytest.raises(LinkedFileError):
        Record(tmp_path / "audit").note("began")
    assert outside.read_bytes() == THEIRS


@pytest.mark.timeout(20)
def test_a_pipe_in_a_files_place_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(NotAFileError):
        Appender(tmp_path / "pipe")


def test_folders_above_may_be_links(tmp_path: Path) -> None:
    (tmp_path / "disk" / "runs").mkdir(parents=True)
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "runs").symlink_to(tmp_path / "disk" / "runs")
    (tmp_path / "linked").symlink_to(tmp_path / "home")
    run = stopped(tmp_path / "linked")
    (tmp_path / "run").symlink_to(run.path)
    again = RunDirectory(tmp_path / "run")
    with again.lock():
        assert again.begin_attempt() == 2
        again.log("A line.")
        again.update(state="stopped")
    assert [found.status.attempt for found in list_runs(tmp_path / "linked")] == [2]
    assert run.log_tail()[-1].endswith("A line.")
