"""Audits as processes of their own: launched, looked at, stopped, gone on with."""

import os
import signal
import time
from pathlib import Path

import pytest

from tests.audit.cases import small
from trace_engine.audit.background import (
    AuditState,
    audit_folder,
    audit_state,
    launch_audit,
    list_audits,
    resume_audit,
    stop_audit,
)
from trace_engine.disk import read_json, sha256_file, write_json
from trace_engine.errors import RunError
from trace_engine.runs.lock import FileLock
from trace_engine.runs.places import new_run_id, subfolder


def until_ended(audit: str, home: Path, seconds: float = 150) -> AuditState:
    end = time.monotonic() + seconds
    while (found := audit_state(audit, home)).state == "running" and time.monotonic() < end:
        time.sleep(0.1)  # between two looks
    return found


def test_a_launched_audit_ends_with_its_report(tmp_path: Path) -> None:
    config = small(tmp_path / "sets", parts=["questions"])
    audit = launch_audit(config, tmp_path / "home", token="press")
    assert launch_audit(config, tmp_path / "home", token="press") == audit
    found = until_ended(audit, tmp_path / "home")
    assert (found.state, found.message, found.name) == ("done", "Undecided", "small")
    assert (found.report / "report.html").is_file()
    assert len(found.manifest_sha256) == 64
    assert [one.id for one in list_audits(tmp_path / "home")] == [audit]
    with pytest.raises(RunError, match="not at work"):
        stop_audit(audit, tmp_path / "home")
    # A tab that was opened before it ended still offers to go on with it.
    with pytest.raises(RunError, match="is done; there is nothing to resume"):
        resume_audit(audit, tmp_path / "home")
    assert audit_state(audit, tmp_path / "home") == found
    assert sha256_file(found.report / "manifest.json") == found.manifest_sha256


def test_an_audit_that_ended_between_look_and_lock_is_not_begun_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = subfolder("audits", tmp_path) / new_run_id()
    folder.mkdir()
    write_json(folder / "status.json", {"state": "stopped", "message": "Stopped."})
    take = FileLock.take
    said = {"state": "done", "message": "Undecided"}

    def late(path: Path, refusal: str) -> FileLock:
        write_json(folder / "status.json", said)  # by the process that another tab started
        return take(path, refusal)

    monkeypatch.setattr(FileLock, "take", late)
    monkeypatch.setattr(
        "trace_engine.audit.background.start_detached", lambda *_: pytest.fail("begun again")
    )
    for _ in range(2):  # the refusal frees the lock
        with pytest.raises(RunError, match="is done; there is nothing to resume"):
            resume_audit(folder.name, tmp_path)
    assert read_json(folder / "status.json") == said


@pytest.mark.slow
@pytest.mark.faults
def test_a_killed_audit_is_interrupted_and_goes_on(tmp_path: Path) -> None:
    home = tmp_path / "home"
    audit = launch_audit(small(tmp_path / "sets", parts=["questions", "measures"]), home)
    folder = audit_folder(audit, home)
    end = time.monotonic() + 150
    while not (folder / "report/parts/questions.json").exists() and time.monotonic() < end:
        time.sleep(0.05)
    process = (read_json(folder / "status.json") or {})["process"]["pid"]
    os.kill(process, signal.SIGKILL)
    found = until_ended(audit, home)
    assert found.state in ("interrupted", "done")
    if found.state == "interrupted":
        resume_audit(audit, home)
        assert until_ended(audit, home).state == "done"
    assert (folder / "report/report.json").is_file()


@pytest.mark.slow
def test_a_refusal_is_the_last_word(tmp_path: Path) -> None:
    config = small(tmp_path / "sets", questions=str(tmp_path / "gone.jsonl"))
    found = until_ended(launch_audit(config, tmp_path / "home"), tmp_path / "home")
    assert found.state == "failed"
    assert "no such questions file" in found.message


def test_what_is_no_audit_is_refused_and_what_is_damaged_is_said(tmp_path: Path) -> None:
    for name in ("../runs", "x" * 300, new_run_id()):
        with pytest.raises(RunError, match="There is no audit"):
            audit_folder(name, tmp_path)
    folder = subfolder("audits", tmp_path) / new_run_id()
    folder.mkdir()
    write_json(folder / "status.json", {"state": "done"})
    assert audit_state(folder.name, tmp_path).state == "damaged"
    assert [found.state for found in list_audits(tmp_path)] == ["damaged"]
