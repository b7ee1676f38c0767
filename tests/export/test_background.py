"""Exports of the page and the command: a real process writes them, whole or with a sentence."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from tests.app import conftest as app_fixtures
from tests.app.stored import eval_row, train_row, write_run
from tests.runs.waiting import until
from trace_engine.cli import main
from trace_engine.errors import RunError
from trace_engine.export import background
from trace_engine.export.background import export_state, start_export
from trace_engine.formats import EXPORT_JOB
from trace_engine.runs import RunDirectory
from trace_engine.runs.lock import FileLock, is_locked

bundled, open_page = app_fixtures.bundled, app_fixtures.open_page
saved_profile, trace_home = app_fixtures.saved_profile, app_fixtures.trace_home
ROWS = [eval_row(0, 0.9, 0.8), train_row(10), eval_row(20, 0.3, 0.7)]


def stored_run(home: Path, **changes: object) -> RunDirectory:
    run = write_run(home, ROWS, **changes)  # type: ignore[arg-type]
    model = run.path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_bytes(bytes(1000))
    return run


def ended(run: RunDirectory, home: Path) -> None:
    until(lambda: export_state(run, "merged", home).state != "running", "the export to end", 60)


def test_written_by_another_process(tmp_path: Path) -> None:
    run = stored_run(tmp_path)
    assert export_state(run, "merged", tmp_path).state == "none"
    start_export(run, "merged", tmp_path)
    start_export(run, "merged", tmp_path)  # a second press is the first
    ended(run, tmp_path)
    found = export_state(run, "merged", tmp_path)
    assert found.state == "done", found.message
    assert found.folder == tmp_path / "exports" / f"{run.id}-merged"
    assert (found.folder / "model.safetensors").read_bytes() == bytes(1000)
    assert "0.300 [0.200, 0.400]" in (found.folder / "README.md").read_text()


def test_a_refusal_inside_becomes_its_sentence_and_can_be_tried_again(tmp_path: Path) -> None:
    run = stored_run(tmp_path)
    pickle = run.path / "model" / "weights.bin"
    pickle.write_bytes(b"\x80")
    start_export(run, "merged", tmp_path)
    ended(run, tmp_path)
    found = export_state(run, "merged", tmp_path)
    assert found.state == "failed"
    assert "model/weights.bin is a pickle" in found.message
    note = json.loads((tmp_path / "exports" / f".{run.id}-merged.json").read_text())
    assert note["format"] == EXPORT_JOB
    pickle.unlink()
    start_export(run, "merged", tmp_path)
    ended(run, tmp_path)
    assert export_state(run, "merged", tmp_path).state == "done"


@pytest.mark.faults
def test_a_killed_export_leaves_no_folder_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A worker that holds its lock and is killed: what a kill -9 in the middle of copying leaves.
    code = "import os, signal; open('pid', 'w').write(str(os.getpid())); signal.pause()"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(background, "WORKER", [background.WORKER[0], "-c", code])
    run = stored_run(tmp_path)
    start_export(run, "merged", tmp_path)
    until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text() != "", "it to run")
    assert export_state(run, "merged", tmp_path).state == "running"
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
    lock = tmp_path / "exports" / f".{run.id}-merged.lock"
    until(lambda: not is_locked(lock), "the lock to be freed")
    found = export_state(run, "merged", tmp_path)
    assert (found.state, found.folder.exists()) == ("failed", False)
    assert "ended without a word" in found.message


def test_what_has_no_model_never_starts_a_process(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no model folder"):
        start_export(write_run(tmp_path, ROWS), "merged", tmp_path)
    with pytest.raises(RunError, match="only a finished run"):
        start_export(stored_run(tmp_path, state="stopped"), "merged", tmp_path)
    with pytest.raises(RunError, match="has no adapter"):
        start_export(stored_run(tmp_path), "adapter", tmp_path)
    assert not (tmp_path / "exports").exists()


def test_the_command_says_where_and_how_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TRACE_HOME", str(tmp_path / "home"))
    run = stored_run(tmp_path / "home")
    assert main(["export", run.id, "--out", str(tmp_path / "out"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["form"] == "merged"
    assert told["files"]["model.safetensors"] == 1000
    assert set(told["files"]) == {path.name for path in (tmp_path / "out").iterdir()}
    assert main(["export", run.id, "--out", str(tmp_path / "out")]) == 2
    assert "expected a new or empty folder" in capsys.readouterr().err
    assert main(["export", str(run.path), "--out", str(tmp_path / "b"), "--adapter"]) == 2
    assert "has no adapter" in capsys.readouterr().err


def test_the_page_of_a_finished_run_exports(
    bundled: object, trace_home: Path, open_page: Callable[..., AppTest]
) -> None:
    run = stored_run(trace_home)
    app = open_page("unlearn", run=run.id)
    assert any(run.id in str(block.value) and "export" in str(block.value) for block in app.code)
    app.button(key="export_start").click().run()
    assert not app.exception
    ended(run, trace_home)
    app.run()
    assert not app.exception
    folder = trace_home / "exports" / f"{run.id}-merged"
    assert str(folder) in [str(block.value) for block in app.code]
    assert any("3 files" in str(box.value) for box in app.success)


@pytest.mark.slow
def test_a_lora_run_offers_its_adapter_and_says_why_it_failed(
    bundled: object, trace_home: Path, open_page: Callable[..., AppTest]
) -> None:
    run = stored_run(trace_home, trainable={"kind": "lora"})
    app = open_page("unlearn", run=run.id)
    app.radio(key="export_form").set_value("adapter").run()
    assert any("--adapter" in str(block.value) for block in app.code)
    app.button(key="export_start").click().run()
    until(lambda: export_state(run, "adapter", trace_home).state != "running", "it to end", 60)
    app.run()
    assert not app.exception
    # A stored run has no checkpoint, so its adapter is nowhere.
    assert any("checkpoint of its last step (10) is missing" in str(e.value) for e in app.error)
    app.radio(key="export_form").set_value("merged").run()
    assert app.button(key="export_start")


def test_a_run_without_a_model_offers_no_export(
    bundled: object, trace_home: Path, open_page: Callable[..., AppTest]
) -> None:
    app = open_page("unlearn", run=write_run(trace_home, ROWS, state="stopped").id)
    assert not [button for button in app.button if button.key == "export_start"]


def test_an_export_that_ended_between_look_and_lock_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, take = stored_run(tmp_path), FileLock.take
    folder = tmp_path / "exports" / f"{run.id}-merged"

    def late(path: Path, refusal: str) -> FileLock:
        folder.mkdir()  # by another tab's process
        return take(path, refusal)

    monkeypatch.setattr(FileLock, "take", late)
    monkeypatch.setattr(
        "trace_engine.export.background.start_detached", lambda *_: pytest.fail("begun again")
    )
    start_export(run, "merged", tmp_path)
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
