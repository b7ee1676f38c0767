"""Rows 9 and 10 with second processes that are real: a server of the app, another one, a shell."""

import contextlib
import multiprocessing
import os
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from tests.runs.light_worker import COMMAND, config
from tests.runs.waiting import until, until_state
from tests.support.kills import fork
from trace_engine.cli.main import main
from trace_engine.errors import RunError
from trace_engine.runs import (
    LockedError,
    RunDirectory,
    delete,
    launch,
    launcher,
    list_runs,
    open_run,
    resume,
)
from trace_engine.runs.places import new_run_id, subfolder

pytestmark = pytest.mark.faults

ROUNDS = 6
REFUSED, GONE = "refused by the lock", "refused: it is not there"
Act = Callable[[Path, str], str]
"""In a home, with a run's id or what a round of launches asks for; returns the id that it got."""


def launched(home: Path, asked: str) -> str:
    return launch(config(home, seed=int(asked)), home)


def resumed(home: Path, run_id: str) -> str:
    return resume(run_id, home)


def deleted(home: Path, run_id: str) -> str:
    delete(run_id, home)
    return "deleted"


def _command(home: Path, run_id: str, action: str, done: str) -> str:
    os.environ["TRACE_HOME"] = str(home)
    said = home / f"said-{os.getpid()}"
    with said.open("w") as file, contextlib.redirect_stderr(file):
        code = main(["runs", action, run_id])
    text = said.read_text()
    assert "Traceback" not in text
    if code == 0:
        return done
    return REFUSED if "in use by" in text else GONE if code == 2 else f"{code}: {text}"


def resumed_by_command(home: Path, run_id: str) -> str:
    return _command(home, run_id, "resume", run_id)


def deleted_by_command(home: Path, run_id: str) -> str:
    return _command(home, run_id, "delete", "deleted")


def _process(act: Act, home: Path, rounds: list[str], barrier: Barrier, tell: Connection) -> None:
    launcher.WORKER = COMMAND
    for each in rounds:
        barrier.wait(60)
        try:
            tell.send(act(home, each))
        except LockedError:
            tell.send(REFUSED)
        except RunError:
            tell.send(GONE)
        except BaseException as error:
            tell.send(repr(error))
            raise


def at_once(home: Path, rounds: list[str], *acts: Act) -> list[list[str]]:
    """What each process got in each round; in a round they begin together."""
    barrier = multiprocessing.get_context("forkserver").Barrier(len(acts))
    heard, processes = [], []
    for act in acts:
        hear, tell = multiprocessing.Pipe(duplex=False)
        processes.append(fork(_process, act, home, rounds, barrier, tell))
        tell.close()
        heard.append(hear)
    found = [[hear.recv() for hear in heard] for _ in rounds]
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert len({process.pid for process in processes} | {os.getpid()}) == len(acts) + 1
    return found


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "home"
    subfolder("runs", folder)
    yield folder
    (folder / "release").touch()  # nothing is left at work
    for summary in list_runs(folder):
        until(lambda: not open_run(summary.id, folder).status().active, summary.id)  # noqa: B023


def stopped(home: Path) -> str:
    run = RunDirectory(subfolder("runs", home) / new_run_id())
    with run.create(config(home)):
        run.update(state="stopped", message="Stopped.")
    return run.id


@pytest.mark.fault_row(9)
def test_processes_that_launch_the_same_at_once_get_one_run(home: Path) -> None:
    found = at_once(home, [str(n) for n in range(ROUNDS)], launched, launched, launched)
    for ids in found:
        assert len(set(ids)) == 1, ids
    assert {summary.id for summary in list_runs(home)} == {ids[0] for ids in found}
    assert len(list_runs(home)) == ROUNDS


@pytest.mark.fault_row(10)
def test_processes_that_resume_one_run_at_once_make_one_attempt(home: Path) -> None:
    runs = [stopped(home) for _ in range(ROUNDS)]
    found = at_once(home, runs, resumed, resumed, resumed_by_command)
    for run_id, got in zip(runs, found, strict=True):
        assert sorted(got) == sorted([run_id, REFUSED, REFUSED])
        assert open_run(run_id, home).status().attempt == 2
    (home / "release").touch()
    for run_id in runs:
        run = open_run(run_id, home)
        assert until_state(run, "done").attempt == 2
        assert [each["event"] for each in run.events()].count("running") == 1


@pytest.mark.fault_row(10)
@pytest.mark.parametrize("second", [deleted, deleted_by_command])
def test_a_run_that_is_deleted_while_it_is_resumed_is_whole_or_gone(
    home: Path, second: Act
) -> None:
    runs = [stopped(home) for _ in range(ROUNDS)]
    found = at_once(home, runs, resumed, second)
    (home / "release").touch()
    for run_id, (first, other) in zip(runs, found, strict=True):
        if first == run_id:
            assert other == REFUSED
            assert until_state(open_run(run_id, home), "done").attempt == 2
        else:
            assert (first in (REFUSED, GONE), other) == (True, "deleted"), (first, other)
            assert not (home / "runs" / run_id).exists()
    assert not list((home / "runs").glob(".deleted-*"))
