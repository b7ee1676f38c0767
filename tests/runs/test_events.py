"""The structured log: every change of state once, in order; nothing that the directory does not
hold already; and never a reason for a run to end."""

import json
import os
from pathlib import Path

import pytest

from tests.runs.fakes import fake_job, settings, write_script
from trace_engine.disk import Appender, DiskFullError
from trace_engine.progress import Progress, ProgressCallback
from trace_engine.runs import events
from trace_engine.runs.directory import RunDirectory
from trace_engine.runs.stopping import StopFlag
from trace_engine.runs.worker import work


def names(run: RunDirectory) -> list[str]:
    return [str(event["event"]) for event in run.events()]


def test_a_run_tells_its_story(tmp_path: Path) -> None:
    write_script(tmp_path)
    run = RunDirectory(tmp_path / "run")
    with run.create(settings(tmp_path, max_steps=10, checkpoint_every=5)):
        assert work(run, StopFlag(), base=tmp_path, job=fake_job).state == "done"
    assert names(run) == ["starting", "running", "phase", *["checkpoint"] * 2, "usage", "done"]
    times = [event["time"] for event in run.events()]
    assert times == sorted(times)
    found = {event["event"]: event for event in run.events()}
    assert found["done"]["step"] == 10
    assert found["done"]["message"] == "All 10 steps done."
    assert found["usage"]["peak_memory"] > 10**7
    assert {event["attempt"] for event in run.events()} == {1}


def test_a_failure_and_the_next_attempt_are_told_once_each(tmp_path: Path) -> None:
    write_script(tmp_path, nan_at=3)
    run = RunDirectory(tmp_path / "run")
    with run.create(settings(tmp_path, max_steps=4, checkpoint_every=2)):
        work(run, StopFlag(), base=tmp_path, job=fake_job)
        write_script(tmp_path)
        run.begin_attempt()
        work(run, StopFlag(), base=tmp_path, job=fake_job)
    story = [(event["attempt"], event["event"]) for event in run.events()]
    assert (1, "failed") in story
    assert story.index((1, "failed")) < story.index((2, "starting")) < story.index((2, "note"))
    assert story[-1] == (2, "done")
    failed = next(event for event in run.events() if event["event"] == "failed")
    assert (failed["step"], failed["message"]) == (2, "loss became NaN at step 3.")


def test_no_path_and_no_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    write_script(tmp_path, bug_at=2)
    run = RunDirectory(tmp_path / "run")
    with run.create(settings(tmp_path)):
        work(run, StopFlag(), base=tmp_path, job=fake_job)
    text = (run.path / events.NAME).read_text()
    assert "failed" in text
    for secret in (str(tmp_path), os.getcwd(), "hunter2", "secret-detail", "Traceback"):
        assert secret not in text


def test_phases_are_told_the_first_time_only(tmp_path: Path) -> None:
    def job(run: RunDirectory, stop: StopFlag, report: ProgressCallback, base: Path | None) -> str:
        for phase in ("opening", "evaluating", "unlearning", "evaluating", "unlearning"):
            report(Progress(phase, 1, 1, "", None, None))
        return ""

    run = RunDirectory(tmp_path / "run")
    with run.create(settings(tmp_path)):
        work(run, StopFlag(), base=tmp_path, job=job)
    told = [event["message"] for event in run.events() if event["event"] == "phase"]
    assert told == ["opening", "evaluating", "unlearning"]


def test_a_full_disk_loses_events_and_not_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunDirectory(tmp_path / "run")
    with run.create(settings(tmp_path)):

        def full(self: Appender, row: dict[str, object]) -> None:
            raise DiskFullError("disk full")

        monkeypatch.setattr(Appender, "append", full)
        run.update(state="running")
        assert run.status().state == "running"


@pytest.mark.fault_row(11, simulated=True)
def test_a_torn_line_is_cut_by_the_next_event(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    with run.create(settings(tmp_path)):
        with (run.path / events.NAME).open("a") as file:
            file.write('{"time": "20')
        assert names(run) == ["starting"]
        run.event("checkpoint", step=1)
        assert names(run) == ["starting", "checkpoint"]
    lines = (run.path / events.NAME).read_text().splitlines()
    assert [json.loads(line)["event"] for line in lines] == ["starting", "checkpoint"]
