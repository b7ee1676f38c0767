"""Sweeps with real processes: one run at a time, stopped whole, killed, resumed, never twice."""

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.runs.light_worker import COMMAND, config
from tests.runs.waiting import until
from tests.sweeps import light_driver
from trace_engine.errors import InputError, RunError
from trace_engine.runs import LockedError, delete, detach, launcher, list_runs, open_run
from trace_engine.runs.directory import RunDirectory
from trace_engine.runs.lock import FileLock
from trace_engine.runs.stopping import StopFlag
from trace_engine.sweeps import (
    SweepDirectory,
    delete_sweep,
    launch_sweep,
    list_sweeps,
    open_sweep,
    outcomes,
    resume_sweep,
    stop_sweep,
    sweep,
)
from trace_engine.sweeps import launcher as sweep_launcher

pytestmark = pytest.mark.faults
GRID = {"selection.top_k": (1, 2, 3)}


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(launcher, "WORKER", COMMAND)
    monkeypatch.setattr(sweep_launcher, "WORKER", light_driver.COMMAND)
    folder = tmp_path / "home"
    yield folder
    for child in detach._children:
        if child.poll() is None:
            child.kill()
            child.wait()
    # Runs belong to the driver, not to this process: they end when they are released.
    (folder / "release").touch()


def states(found: SweepDirectory) -> list[str]:
    return [outcome.state for outcome in outcomes(found)]


def until_states(found: SweepDirectory, *expected: str) -> None:
    until(lambda: states(found) == list(expected), f"{expected}: {states(found)}", 60)


def until_ended(found: SweepDirectory) -> str:
    until(lambda: not found.status().active, f"the sweep to end: {found.status()}", 60)
    return found.status().state


def release(home: Path, run: str | None) -> None:
    (home / f"release-{run}").touch()


def test_one_after_another_each_an_ordinary_run(base: Path, tmp_path: Path) -> None:
    found = open_sweep(launch_sweep(config(tmp_path), [GRID], "mine", base, "press"), base)
    assert launch_sweep(config(tmp_path), [GRID], "mine", base, "press") == found.id
    until_states(found, "running", "waiting", "waiting")
    with pytest.raises(LockedError, match="at work already"):
        resume_sweep(found.id, base)
    with pytest.raises(LockedError, match="Stop it first"):
        delete_sweep(found.id, base)
    (base / "release").touch()
    assert until_ended(found) == "done"
    assert found.status().message == "All 3 runs are done."
    assert (base / "most_at_once").read_text().split() == ["1", "1", "1"]
    runs = [outcome.run for outcome in outcomes(found)]
    listed = {run.id: run.name for run in list_runs(base)}
    assert set(listed) == set(runs)
    assert [listed[str(run)] for run in runs] == [
        "mine: top-k 1", "mine: top-k 2", "mine: top-k 3",
    ]  # fmt: skip
    for number, run in enumerate(runs, start=1):
        opened = open_run(str(run), base)
        assert opened.config().selection.top_k == number  # type: ignore[union-attr]
        assert opened.sweep() == found.id
        assert "sweep" not in (opened.path / "config.yaml").read_text()
    with pytest.raises(RunError, match="is done; there is nothing to resume"):
        resume_sweep(found.id, base)
    with pytest.raises(RunError, match="is done; there is nothing to stop"):
        stop_sweep(found.id, base)
    delete_sweep(found.id, base)
    assert not list_sweeps(base)
    assert len(list_runs(base)) == 3


@pytest.mark.slow
def test_as_many_at_once_as_there_are_slots(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRACE_WORKERS", "2")
    found = open_sweep(launch_sweep(config(tmp_path), [GRID], home=base), base)
    until_states(found, "running", "running", "waiting")
    until(lambda: len(list((base / "computing").iterdir())) == 2, "two runs to compute")
    (base / "release").touch()
    assert until_ended(found) == "done"
    assert max(map(int, (base / "most_at_once").read_text().split())) == 2


def test_stopped_whole_and_resumed_where_it_was(base: Path, tmp_path: Path) -> None:
    found = open_sweep(launch_sweep(config(tmp_path), [GRID], home=base), base)
    until_states(found, "running", "waiting", "waiting")
    first = outcomes(found)[0].run
    release(base, first)
    until_states(found, "done", "running", "waiting")
    stop_sweep(found.id, base)
    stop_sweep(found.id, base)  # asking twice is asking once
    assert until_ended(found) == "stopped"
    assert found.status().message == "Stopped: 1 of 3 runs are done."
    assert states(found) == ["done", "stopped", "waiting"]
    second = outcomes(found)[1].run
    (base / "release").touch()
    resume_sweep(found.id, base)
    assert until_ended(found) == "done"
    assert [o.run for o in outcomes(found)][:2] == [first, second]
    assert open_run(str(second), base).status().attempt == 2
    assert open_run(str(first), base).status().attempt == 1
    assert len(list_runs(base)) == 3


def test_killed_in_the_middle_its_run_goes_on_and_a_resume_makes_the_rest(
    base: Path, tmp_path: Path
) -> None:
    found = open_sweep(launch_sweep(config(tmp_path), [GRID], home=base), base)
    until_states(found, "running", "waiting", "waiting")
    process = found.status().process
    assert process is not None
    os.kill(int(process["pid"]), signal.SIGKILL)
    until(lambda: found.status().state == "interrupted", "the sweep to be interrupted")
    assert "goes on by itself" in found.status().message
    assert states(found) == ["running", "waiting", "waiting"]
    (base / "release").touch()
    resume_sweep(found.id, base)
    assert until_ended(found) == "done"
    assert [open_run(str(o.run), base).status().attempt for o in outcomes(found)] == [1, 1, 1]
    assert len(list_runs(base)) == 3, "the run that was under way must not be made twice"


def test_a_start_that_was_not_recorded_is_found_again(base: Path, tmp_path: Path) -> None:
    """Killed between the launch and the note of its id: the token leads back to the run."""
    found = open_sweep(launch_sweep(config(tmp_path), [GRID], home=base), base)
    until_states(found, "running", "waiting", "waiting")
    process = found.status().process
    assert process is not None
    os.kill(int(process["pid"]), signal.SIGKILL)
    until(lambda: found.status().state == "interrupted", "the sweep to be interrupted")
    run = outcomes(found)[0].run
    found.record_run(0, None)  # type: ignore[arg-type]
    (base / "release").touch()
    resume_sweep(found.id, base)
    assert until_ended(found) == "done"
    assert outcomes(found)[0].run == run
    assert len(list_runs(base)) == 3


@pytest.mark.fault_row(28, simulated=True)
def test_a_run_that_was_killed_before_it_had_a_process_is_started_by_a_resume(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between making the run and starting its process: it is there, and nobody is at it."""

    def killed(run: RunDirectory, lock: FileLock, *_: object) -> None:
        lock.release()  # as the kernel does
        raise KeyboardInterrupt

    (base / "nothing").parent.mkdir(parents=True)
    (base / "release").touch()
    with monkeypatch.context() as patch:
        patch.setattr(launcher, "_start", killed)
        with pytest.raises(KeyboardInterrupt):
            sweep(config(tmp_path), GRID, home=base)
    [found] = list_sweeps(base)
    assert [summary.status.state for summary in list_runs(base)] == ["interrupted"]
    resume_sweep(found.id, base)
    assert until_ended(found) == "done"
    assert len(list_runs(base)) == 3


def test_a_deleted_run_is_made_again_by_a_resume(base: Path, tmp_path: Path) -> None:
    (base / "nothing").parent.mkdir(parents=True)
    (base / "release").touch()
    found = sweep(config(tmp_path), {"selection.top_k": (1, 2)}, home=base)
    assert found.status().state == "done"
    gone = str(outcomes(found)[1].run)
    delete(gone, base)
    assert states(found) == ["done", "waiting"]
    found.update(state="failed")
    resume_sweep(found.id, base)
    assert until_ended(found) == "done"
    assert outcomes(found)[1].run not in (None, gone)


def test_in_the_foreground_a_stop_ends_the_runs_first(base: Path, tmp_path: Path) -> None:
    stop = StopFlag()
    made: list[SweepDirectory] = []
    thread = threading.Thread(
        target=lambda: sweep(config(tmp_path), GRID, home=base, stop=stop, on_start=made.append)
    )
    thread.start()
    until(lambda: bool(made) and states(made[0])[0] == "running", "the first run")
    stop.requested = True
    thread.join(60)
    assert not thread.is_alive()
    assert made[0].status().state == "stopped"
    assert states(made[0]) == ["stopped", "waiting", "waiting"]


def test_a_point_that_could_not_run_makes_no_sweep(base: Path, tmp_path: Path) -> None:
    """A method that learns from pairs, and a forget set without them."""
    (tmp_path / "forget.txt").write_text("One document.\n\nAnother one.")
    with pytest.raises(InputError, match="idkdpo"):
        launch_sweep(config(tmp_path), [{"method": ("npo", "idkdpo")}], home=base)
    assert not list_sweeps(base)
    assert not list_runs(base)


def test_ids_are_never_paths(base: Path) -> None:
    for name in ("../runs", "x" * 300, "20260101-000000-abcdef", "a\0b"):
        with pytest.raises(RunError, match="There is no sweep"):
            open_sweep(name, base)
