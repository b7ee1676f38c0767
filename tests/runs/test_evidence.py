"""Jobs of causal evidence: found again, stopped, killed, gone on with."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from tests.causal.cases import questions
from tests.support.models import tiny_olmoe
from trace_engine.causal.results import Scan
from trace_engine.causal.settings import CausalConfig
from trace_engine.config import Cell, ModelConfig
from trace_engine.disk import read_json, write_json
from trace_engine.errors import RunError
from trace_engine.runs import evidence
from trace_engine.runs.evidence import (
    EvidenceState,
    evidence_folder,
    evidence_state,
    start_evidence,
    stop_evidence,
    work,
)
from trace_engine.runs.lock import FileLock, is_locked
from trace_engine.runs.stopping import StopFlag


@pytest.fixture
def config(tmp_path: Path) -> CausalConfig:
    path = tmp_path / "questions.jsonl"
    rows = [
        {"question": q.question, "choices": q.choices, "answer": q.answer, "category": q.category}
        for q in questions()
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    model = ModelConfig(source=str(tiny_olmoe(layers=3, experts=64)))
    return CausalConfig(model=model, questions=str(path), permutations=99)


def wait(until: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def ended(config: CausalConfig, home: Path) -> EvidenceState:
    wait(lambda: evidence_state(config, home).state != "running")
    return evidence_state(config, home)


def kept(home: Path) -> int:
    return len(list((home / "ablations").rglob("*expert*.json")))


@pytest.mark.slow
@pytest.mark.faults
def test_a_killed_job_is_interrupted_and_goes_on_to_the_same_result(
    config: CausalConfig, tmp_path: Path
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    assert evidence_state(config, one).state == "none"
    assert start_evidence(config, one).state == "running"
    assert start_evidence(config, one).state == "running"  # a second press is the same job
    wait(lambda: kept(one) >= 5)
    process = read_json(evidence_folder(config, one) / "status.json")["process"]
    psutil.Process(process["pid"]).kill()
    assert ended(config, one).state == "interrupted"
    before = kept(one)
    assert 5 <= before < 192
    start_evidence(config, one)
    start_evidence(config, two)
    first, second = ended(config, one), ended(config, two)
    assert (first.state, second.state) == ("done", "done")
    result = (first.folder / "result.json").read_bytes()
    assert result == (second.folder / "result.json").read_bytes()
    assert first.result is not None
    assert len(Scan.from_dict(first.result).cells) == kept(one) == 192


@pytest.mark.slow
@pytest.mark.faults
def test_a_stopped_job_keeps_what_was_measured(config: CausalConfig, tmp_path: Path) -> None:
    start_evidence(config, tmp_path)
    wait(lambda: kept(tmp_path) >= 3)
    stop_evidence(config, tmp_path)
    found = ended(config, tmp_path)
    assert found.state == "stopped"
    assert "kept" in found.message
    assert found.result is None
    assert 3 <= kept(tmp_path) < 192
    with pytest.raises(RunError, match="nothing to stop"):
        stop_evidence(config, tmp_path)


def test_other_settings_and_changed_files_are_other_jobs(
    config: CausalConfig, tmp_path: Path
) -> None:
    first = evidence_folder(config, tmp_path)
    assert evidence_folder(config, tmp_path) == first
    assert evidence_folder(config.model_copy(update={"mode": "reroute"}), tmp_path) != first
    path = Path(config.questions)
    path.write_text(path.read_text() + "\n\n")
    assert evidence_folder(config, tmp_path) != first


@pytest.mark.slow
@pytest.mark.parametrize(
    ("update", "state", "words"),
    [
        ({"forget_category": "poison"}, "failed", "'poison'"),
        ({"cells": (Cell(9, 0),)}, "failed", "no routed experts in layer 9"),
    ],
)
def test_a_refusal_is_the_jobs_last_word(
    config: CausalConfig, tmp_path: Path, update: dict[str, object], state: str, words: str
) -> None:
    refused = config.model_copy(update=update)
    start_evidence(refused, tmp_path)
    found = ended(refused, tmp_path)
    assert found.state == state
    assert words in found.message


def test_a_bug_is_said_to_be_one(config: CausalConfig, tmp_path: Path) -> None:
    folder = evidence_folder(config, tmp_path)
    folder.mkdir()
    (folder / "settings.json").write_text(config.model_dump_json())

    def broken(*anything: object) -> object:
        raise ZeroDivisionError

    work(folder, StopFlag(), tmp_path, perform=broken)
    found = evidence_state(config, tmp_path)
    assert found.state == "failed"
    assert "unexpected ZeroDivisionError" in found.message


def test_a_job_that_ended_between_look_and_lock_is_not_begun_again(
    config: CausalConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, take = evidence_folder(config, tmp_path), FileLock.take

    def late(path: Path, refusal: str) -> FileLock:
        write_json(folder / "result.json", {"what": "scan"})  # by another tab's process
        write_json(folder / "status.json", {"state": "done"})
        return take(path, refusal)

    monkeypatch.setattr(FileLock, "take", late)
    monkeypatch.setattr(
        "trace_engine.runs.evidence.start_detached", lambda *_: pytest.fail("begun again")
    )
    assert start_evidence(config, tmp_path).state == "done"
    assert not is_locked(folder / "lock")
    assert not (folder / "settings.json").exists()


def finished(config: CausalConfig, home: Path) -> Path:
    """A job that is done, of a result that nobody computed."""
    folder = evidence_folder(config, home)
    folder.mkdir()
    (folder / "lock").touch()
    write_json(folder / "result.json", {"what": "scan"})
    write_json(folder / "status.json", {"format": 1, "state": "done", "message": ""})
    assert evidence_state(config, home).result == {"what": "scan"}
    return folder


@pytest.mark.parametrize("text", ["[1]", '"x"', "5", "{", "", '{"state": 5}', '{"state": [1]}'])
def test_a_status_that_no_job_writes_is_that_of_an_interrupted_one(
    config: CausalConfig, tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = finished(config, tmp_path)
    (folder / "status.json").write_text(text)
    found = evidence_state(config, tmp_path)
    assert (found.state, found.result) == ("interrupted", None)
    with pytest.raises(RunError, match="nothing to stop"):
        stop_evidence(config, tmp_path)
    assert begun(config, tmp_path, monkeypatch)
    with FileLock.take(folder / "lock", ""):
        (folder / "status.json").write_text(text)
        (folder / "progress.json").write_text(text)
        assert evidence_state(config, tmp_path).state == "running"
        with pytest.raises(RunError, match="only just starting"):
            stop_evidence(config, tmp_path)


@pytest.mark.parametrize("text", [None, "[1]", "{", "null"])
def test_one_that_is_done_without_its_result_is_made_again(
    config: CausalConfig, tmp_path: Path, text: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = finished(config, tmp_path) / "result.json"
    result.unlink() if text is None else result.write_text(text)
    found = evidence_state(config, tmp_path)
    assert found.state == "interrupted"
    assert "its result is missing or damaged" in found.message
    assert begun(config, tmp_path, monkeypatch)


@pytest.mark.timeout(30)
@pytest.mark.parametrize("name", ["status.json", "result.json"])
def test_a_pipe_in_a_jobs_file_is_not_waited_for(
    config: CausalConfig, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = finished(config, tmp_path) / name
    path.unlink()
    os.mkfifo(path)
    assert evidence_state(config, tmp_path).state == "interrupted"
    assert begun(config, tmp_path, monkeypatch)


def test_a_newer_versions_job_stays(config: CausalConfig, tmp_path: Path) -> None:
    folder = finished(config, tmp_path)
    write_json(folder / "status.json", {"format": 2, "state": "done"})
    for ask in (evidence_state, start_evidence):
        with pytest.raises(RunError, match="a newer version wrote it"):
            ask(config, tmp_path)


def begun(config: CausalConfig, home: Path, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether asking starts a process; none is started here."""
    started = []

    def start(command: list[str], lock: FileLock, *_: object) -> None:
        started.append(command)
        lock.release()

    monkeypatch.setattr(evidence, "start_detached", start)
    start_evidence(config, home)
    return len(started) == 1
