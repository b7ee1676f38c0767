"""What the machine does now, from locks and directories; and a run's log, from its events."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

import trace_engine
from app import machine_view
from tests.app import conftest as app_fixtures
from tests.runs.light_worker import config
from trace_engine.cli import main
from trace_engine.disk import write_json
from trace_engine.errors import InputError, RunError
from trace_engine.health import status
from trace_engine.runs import RunDirectory
from trace_engine.runs.lock import FileLock
from trace_engine.runs.places import new_run_id, subfolder

saved_profile = app_fixtures.saved_profile
trace_home = app_fixtures.trace_home
bundled = app_fixtures.bundled
open_page = app_fixtures.open_page


def begin(home: Path, state: str, **changes: object) -> tuple[RunDirectory, FileLock]:
    run = RunDirectory(subfolder("runs", home) / new_run_id())
    lock = run.create(config(home, name="mine", max_steps=9))
    run.update(state=state, **changes)
    return run, lock


def test_runs_slots_and_room_are_what_is_there(tmp_path: Path) -> None:
    waiting, first = begin(tmp_path, "queued", message="Waiting: 1 job is ahead.", created=1.0)
    running, second = begin(tmp_path, "running", step=4, started=100.0)
    ended, third = begin(tmp_path, "stopped")
    third.release()
    with first, second, FileLock.take(subfolder("slots", tmp_path) / "unlearn-0.lock", "busy"):
        found = trace_engine.status(tmp_path)
    assert [(run.id, run.state, run.step) for run in found.active] == [
        (running.id, "running", 4),
        (waiting.id, "queued", 0),
    ]
    assert found.active[0].age_seconds < found.active[1].age_seconds
    assert {kind: (at.busy, at.total) for kind, at in found.slots.items()} == {
        "unlearn": (1, 1),
        "profile": (0, 1),
        "evidence": (0, 1),
    }
    assert (found.queued, found.ended) == (1, {"stopped": 1})
    assert 0 < found.disk_free <= found.disk_total
    assert 0 < found.memory_free <= found.memory_total
    # No process ids: they are nobody's business, and nothing can be done with them.
    assert "pid" not in json.dumps(found.to_dict())
    assert ended.id not in json.dumps(found.to_dict())
    assert list(machine_view.frame(found.active)["step"]) == ["4 / 9", "0 / 9"]


def test_a_bad_number_of_workers_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRACE_WORKERS", "hf_secret")
    with pytest.raises(InputError, match="TRACE_WORKERS") as refused:
        status(tmp_path)
    assert "hf_secret" not in str(refused.value)  # pages show it to visitors too


def test_the_commands_print_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TRACE_HOME", str(tmp_path))
    run, lock = begin(tmp_path, "running")
    run.event("checkpoint", step=4)
    job = subfolder("evidence", tmp_path) / "0123456789abcdef"
    job.mkdir()
    write_json(job / "settings.json", {"what": "scan"})
    write_json(job / "launch.json", {"owner": "somebody", "began": time.time() - 100})
    write_json(job / "progress.json", {"phase": "p", "done": 3, "total": 64, "unit": "experts"})
    with lock, FileLock.take(job / "lock", "busy"):
        assert main(["status", "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
        assert main(["status"]) == 0
    (active,), (evidence,) = told["active"], told["jobs"]
    assert (active["id"], active["name"], active["max_steps"]) == (run.id, "mine", 9)
    assert (evidence["id"], evidence["kind"], evidence["name"]) == (
        job.name[:12],
        "evidence",
        "scan",
    )
    assert "owner" not in evidence
    printed = " ".join(capsys.readouterr().out.split())
    assert "0123456789ab evidence running 3/64 experts 1 min 40 s scan" in printed
    assert "0 of 1 for causal evidence. Waiting: 0." in printed
    (job / "launch.json").write_text("{", encoding="utf-8")  # damaged, and listed all the same
    with FileLock.take(job / "lock", "busy"):
        assert [(one.owner, one.age_seconds < 60) for one in status(tmp_path).jobs] == [
            (None, True)
        ]
    assert main(["runs", "log", run.id, "--json"]) == 0
    events = json.loads(capsys.readouterr().out)
    assert [event["event"] for event in events] == ["starting", "running", "checkpoint"]
    assert main(["runs", "log", run.id]) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith("checkpoint  step 4")
    assert main(["runs", "log", new_run_id()]) == 2


def test_the_page_shows_machine_and_log(
    bundled: object, trace_home: Path, open_page: Callable[..., AppTest]
) -> None:
    run, lock = begin(trace_home, "stopped", message="<b>Stopped</b> at step 3.")
    lock.release()
    app = open_page("unlearn", run=run.id)
    assert not app.exception
    assert "What happened and when" in [expander.label for expander in app.expander]
    assert "This machine: idle" in [link.proto.label for link in app.get("page_link")]
    tables = [table.value for table in app.dataframe if "event" in table.value]
    assert list(tables[0]["event"]) == ["starting", "stopped"]


def test_a_run_without_events_says_so(tmp_path: Path) -> None:
    run, lock = begin(tmp_path, "stopped")
    lock.release()
    (run.path / "events.jsonl").unlink()
    assert run.events() == []
    (run.path / "events.jsonl").write_text("{\n")
    with pytest.raises(RunError, match="line 1 is damaged"):
        run.events()
