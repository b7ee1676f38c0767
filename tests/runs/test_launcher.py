"""Launch, stop, resume, delete and queue, with real detached processes."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.runs.light_worker import COMMAND, config, profile_config
from tests.runs.waiting import until, until_state
from tests.support.kills import fork
from tests.support.memory import limited
from trace_engine.config import identity_of
from trace_engine.disk import write_json
from trace_engine.errors import RunError
from trace_engine.runs import (
    LockedError,
    RunDirectory,
    delete,
    detach,
    launch,
    launcher,
    list_runs,
    listing,
    open_run,
    resume,
    stop,
)
from trace_engine.runs.places import new_run_id

pytestmark = pytest.mark.faults


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(launcher, "WORKER", COMMAND)
    folder = tmp_path / "home"
    yield folder
    # Whatever a failed test left behind ends here, by the ids that it recorded itself.
    for child in detach._children:
        if child.poll() is None:
            child.kill()
            child.wait()


def computing(run: RunDirectory, base: Path) -> None:
    until(lambda: (base / "computing" / run.id).exists(), f"{run.id} to compute: {run.log_tail()}")


def pid_of(run: RunDirectory) -> int:
    process = run.status().process
    assert process is not None
    return int(process["pid"])


def test_launch_to_done(base: Path, tmp_path: Path) -> None:
    run = open_run(launch(config(tmp_path, name="first"), base), base)
    assert run.status().state in ("starting", "queued", "running")
    computing(run, base)
    assert os.getsid(pid_of(run)) == pid_of(run), "the worker must survive its launcher's session"
    until(lambda: (run.progress() or {}).get("phase") == "waiting", "its progress")
    (base / "release").touch()
    assert until_state(run, "done").message == "Released."
    [row] = list_runs(base)
    assert (row.id, row.kind, row.name, row.status.state) == (run.id, "unlearn", "first", "done")


SERVER = """
import sys
from pathlib import Path
from tests.runs.light_worker import COMMAND, config
from trace_engine.runs import launch, launcher
launcher.WORKER = COMMAND
print(launch(config(Path(sys.argv[1])), Path(sys.argv[2])), flush=True)
sys.stdin.read()
"""


@pytest.mark.fault_row(5)
def test_a_run_survives_the_app_and_is_found_again_by_its_id(base: Path, tmp_path: Path) -> None:
    app = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(tmp_path), str(base)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert app.stdout is not None
    run_id = app.stdout.readline().strip()
    app.kill()
    assert app.wait() == -signal.SIGKILL
    app.communicate()
    run = open_run(run_id, base)
    computing(run, base)
    assert run.status().active
    stop(run_id, base)
    assert until_state(run, "stopped").resumable
    (base / "release").touch()
    resume(run_id, base)
    until_state(run, "done")


@pytest.mark.fault_row(9)
def test_two_tabs_launch_at_once(base: Path, tmp_path: Path) -> None:
    barrier, ids = threading.Barrier(4), []

    def tab() -> None:
        barrier.wait()
        ids.append(launch(config(tmp_path), base))

    tabs = [threading.Thread(target=tab) for _ in range(4)]
    for thread in tabs:
        thread.start()
    for thread in tabs:
        thread.join()
    assert len(ids) == 4
    assert len(set(ids)) == 1
    assert len(list_runs(base)) == 1
    (base / "release").touch()
    until_state(open_run(ids[0], base), "done")


def test_one_press_of_a_button_is_one_run_even_after_its_end(base: Path, tmp_path: Path) -> None:
    (base).mkdir(mode=0o700)
    (base / "release").touch()
    first = launch(config(tmp_path), base, token="press-1")
    until_state(open_run(first, base), "done")
    assert launch(config(tmp_path), base, token="press-1") == first
    second = launch(config(tmp_path), base, token="press-2")
    assert second != first
    until_state(open_run(second, base), "done")


def test_changed_source_files_are_another_question(base: Path, tmp_path: Path) -> None:
    (tmp_path / "forget.txt").write_text("one")
    first = launch(config(tmp_path), base)
    (tmp_path / "forget.txt").write_text("one and two")
    second = launch(config(tmp_path), base)
    assert first != second
    (base / "release").touch()
    for run_id in (first, second):
        until_state(open_run(run_id, base), "done")


def test_two_runs_queue_in_order_and_a_profile_does_not_wait(base: Path, tmp_path: Path) -> None:
    runs = [open_run(launch(config(tmp_path, seed=0), base), base)]
    computing(runs[0], base)
    for seed in (1, 2):
        runs.append(open_run(launch(config(tmp_path, seed=seed), base), base))
        until_state(runs[-1], "queued")
    assert runs[1].status().message == "Waiting: 1 job is ahead."
    assert runs[2].status().message == "Waiting: 2 jobs are ahead."
    profile = open_run(launch(profile_config(tmp_path), base), base)
    computing(profile, base)
    # Stop is honoured in the queue, and those behind move up.
    stop(runs[1].id, base)
    assert until_state(runs[1], "stopped").message == "Stopped before the first step."
    until(lambda: "1 job" in runs[2].status().message, "the third run to move up")
    (base / f"release-{runs[0].id}").touch()
    computing(runs[2], base)
    assert until_state(runs[0], "done")
    (base / "release").touch()
    for run in (runs[2], profile):
        until_state(run, "done")
    assert (base / "order").read_text().split() == [runs[0].id, profile.id, runs[2].id]


def test_a_killed_waiter_does_not_block_the_line(base: Path, tmp_path: Path) -> None:
    runs = [open_run(launch(config(tmp_path, seed=0), base), base)]
    computing(runs[0], base)
    for seed in (1, 2):
        runs.append(open_run(launch(config(tmp_path, seed=seed), base), base))
        until_state(runs[-1], "queued")
    os.kill(pid_of(runs[1]), signal.SIGKILL)
    until_state(runs[1], "interrupted")
    (base / "release").touch()
    until_state(runs[2], "done")


def test_trace_workers_widens_the_slot(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRACE_WORKERS", "2")
    runs = [open_run(launch(config(tmp_path, seed=n), base), base) for n in range(3)]
    until(lambda: len(list(base.glob("computing/*"))) == 2, "two to compute")
    until(lambda: sorted(r.status().state for r in runs)[0] == "queued", "the third to queue")
    (base / "release").touch()
    for run in runs:
        until_state(run, "done")
    assert max(map(int, (base / "most_at_once").read_text().split())) == 2


@pytest.mark.fault_row(14)
def test_the_systems_killer_of_memory_leaves_a_run_that_says_so_and_resumes(
    base: Path, tmp_path: Path
) -> None:
    run = open_run(launch(config(tmp_path), base), base)
    computing(run, base)
    child = detach._children[-1]
    with limited(64 * 2**20) as group:
        group.hold(child.pid)
        (base / "grow").touch()
        assert child.wait(60) == -signal.SIGKILL
        assert group.killed() == 1
    status = until_state(run, "interrupted", seconds=5)
    assert "killed, often out of memory" in status.message
    (base / "grow").unlink()
    (base / "release").touch()
    resume(run.id, base)
    until_state(run, "done")


@pytest.mark.fault_row(1, 10)
def test_kill_9_is_interrupted_within_5_s_and_resumes_as_a_new_attempt(
    base: Path, tmp_path: Path
) -> None:
    run = open_run(launch(config(tmp_path), base), base)
    computing(run, base)
    child = detach._children[-1]
    assert child.pid == pid_of(run)
    os.kill(child.pid, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    status = until_state(run, "interrupted", seconds=5)
    assert "killed" in status.message
    assert resume(run.id, base) == run.id
    computing(run, base)
    assert run.status().attempt == 2
    # Two resumes, and delete while running: refused by the lock, nothing touched.
    with pytest.raises(LockedError, match="in use by its worker"):
        resume(run.id, base)
    with pytest.raises(LockedError, match="nothing was deleted"):
        delete(run.id, base)
    assert run.status().attempt == 2
    (base / "release").touch()
    until_state(run, "done")
    with pytest.raises(RunError, match="nothing to resume"):
        resume(run.id, base)
    delete(run.id, base)
    assert list_runs(base) == []
    assert not run.path.exists()


def _deleted_until(run: Path, removals: int) -> None:
    """A child that is killed while it deletes a run, before it removes one more file of it."""
    left = removals

    def watch(event: str, _: tuple[Any, ...]) -> None:
        nonlocal left
        if event == "os.remove" and not run.exists():
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1

    sys.addaudithook(watch)
    launcher.delete_directory(RunDirectory(run))


@pytest.mark.fault_row(28)
@pytest.mark.parametrize("removals", [0, 2])
def test_what_a_killed_delete_left_goes_with_the_next_launch(
    base: Path, tmp_path: Path, removals: int
) -> None:
    (base / "runs").mkdir(parents=True)
    run = RunDirectory(base / "runs" / new_run_id())
    run.create(config(tmp_path, seed=1)).release()
    process = fork(_deleted_until, run.path, removals)
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert [path.name for path in run.path.parent.iterdir()] == [f".deleted-{run.id}"]
    assert list_runs(base) == []
    other = open_run(launch(config(tmp_path), base), base)
    assert list(other.path.parent.iterdir()) == [other.path]


@pytest.mark.fault_row(10)
def test_two_resumes_at_once_make_one_attempt(base: Path, tmp_path: Path) -> None:
    run = open_run(launch(config(tmp_path), base), base)
    computing(run, base)
    stop(run.id, base)
    until_state(run, "stopped")
    barrier, outcomes = threading.Barrier(4), []

    def tab() -> None:
        barrier.wait()
        try:
            outcomes.append(resume(run.id, base))
        except LockedError:
            outcomes.append("refused")

    tabs = [threading.Thread(target=tab) for _ in range(4)]
    for thread in tabs:
        thread.start()
    for thread in tabs:
        thread.join()
    assert sorted(outcomes) == sorted([run.id, "refused", "refused", "refused"])
    computing(run, base)
    assert run.status().attempt == 2
    (base / "release").touch()
    until_state(run, "done")


@pytest.mark.fault_row(3)
def test_stop_twice_is_stop_once(base: Path, tmp_path: Path) -> None:
    run = open_run(launch(config(tmp_path), base), base)
    computing(run, base)
    stop(run.id, base)
    # A second press while the worker still runs must not be the signal that kills it.
    for _ in range(5):
        with contextlib.suppress(RunError):
            stop(run.id, base)
    assert until_state(run, "stopped", "interrupted").state == "stopped"
    with pytest.raises(RunError, match="is stopped; there is nothing to stop"):
        stop(run.id, base)


def test_stop_never_signals_a_recycled_process_id(base: Path, tmp_path: Path) -> None:
    run = RunDirectory(base / "runs" / "20260101-000000-abcdef")
    with run.create(config(tmp_path)):
        own = psutil.Process()
        # This test's own process, with another start time: were it signalled, the suite would die.
        run.update(state="running", process={"pid": own.pid, "started": own.create_time() - 100})
        with pytest.raises(RunError, match="is just ending"):
            stop(run.id, base)
        run.update(process=None)
        with pytest.raises(RunError, match="only just starting"):
            stop(run.id, base)
    with pytest.raises(RunError, match="interrupted; there is nothing to stop"):
        stop(run.id, base)


@pytest.mark.fault_row(26)
def test_resume_refuses_changed_settings_and_names_them(base: Path, tmp_path: Path) -> None:
    run = open_run(launch(config(tmp_path), base), base)
    computing(run, base)
    stop(run.id, base)
    until_state(run, "stopped")
    settings = identity_of(config(tmp_path))
    write_json(run.path / "facts.json", {"identity": {"config": settings}})
    text = (run.path / "config.yaml").read_text()
    (run.path / "config.yaml").write_text(text.replace("max_steps: 60", "max_steps: 80"))
    with pytest.raises(RunError, match=r"config\.max_steps was 60, is 80"):
        resume(run.id, base)
    assert run.status().state == "stopped"
    (run.path / "config.yaml").write_text(text.replace("name: ''", "name: renamed"))
    resume(run.id, base)
    (base / "release").touch()
    until_state(run, "done")


def test_a_damaged_run_is_listed_with_its_reason(base: Path, tmp_path: Path) -> None:
    run = RunDirectory(base / "runs" / "20260101-000000-abcdef")
    run.create(config(tmp_path)).release()
    (run.path / "status.json").write_text("{")
    [row] = list_runs(base)
    assert row.status.state == "damaged"
    assert "status.json is damaged" in row.status.message


@pytest.mark.parametrize("text", ["[]", "{", '{"question": []}', "1" * 400, None])
def test_a_strangers_run_blocks_no_launch(base: Path, tmp_path: Path, text: str | None) -> None:
    """What stands in its launch.json, or None for a folder there, answers nobody's question."""
    run = RunDirectory(base / "runs" / "20260101-000000-abcdef")
    with run.create(config(tmp_path)):
        run.update(state="done")
    asked = run.path / "launch.json"
    asked.unlink()
    asked.mkdir() if text is None else asked.write_text(text)
    (base / "release").touch()
    first = launch(config(tmp_path), base, token="press")
    assert launch(config(tmp_path), base, token="press") == first != run.id
    until_state(open_run(first, base), "done")
    assert run.owner() is run.sweep() is None


def test_a_damaged_run_of_the_same_question_blocks_no_launch(base: Path, tmp_path: Path) -> None:
    base.mkdir()
    (base / "release").touch()
    first = open_run(launch(config(tmp_path), base), base)
    until_state(first, "done")
    (first.path / "status.json").write_text("[]")
    second = launch(config(tmp_path), base)
    assert second != first.id
    until_state(open_run(second, base), "done")


def test_only_what_an_id_opens_is_listed(base: Path, tmp_path: Path) -> None:
    run = RunDirectory(base / "runs" / "20260101-000000-abcdef")
    run.create(config(tmp_path)).release()
    shutil.copytree(run.path, run.path.with_name("my copy"))
    assert [row.id for row in list_runs(base)] == [run.id]
    assert listing.not_listed(base) == ["my copy"]


def test_a_worker_that_cannot_start_says_so(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher, "WORKER", [str(tmp_path / "no-such-python")])
    with pytest.raises(RunError, match="could not be started"):
        launch(config(tmp_path), base)
    [row] = list_runs(base)
    assert row.status.state == "failed"
