"""The list of runs is what the files say now, though finished runs' files are read once."""

import os
import sys
from pathlib import Path

import pytest

from tests.app.stored import eval_row, train_row, write_run
from trace_engine.runs import directory, launcher, list_runs, listing, resume


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the runs whose settings or rows are read from now on."""
    found: list[str] = []
    settings, status = directory.read_config, directory.RunDirectory.status

    def read_config(path: Path, **more: bool) -> object:
        found.append(path.parent.name)
        return settings(path, **more)

    def read_status(run: directory.RunDirectory) -> object:
        found.append(run.id)
        return status(run)

    monkeypatch.setattr(directory, "read_config", read_config)
    monkeypatch.setattr(directory.RunDirectory, "status", read_status)
    listing._ended.cache_clear()
    directory._settings.cache_clear()
    return found


def test_what_has_ended_is_read_once_and_what_lives_each_time(
    tmp_path: Path, reads: list[str]
) -> None:
    ended = {write_run(tmp_path, [train_row(1)], state).id for state in ("done", "failed")}
    live = write_run(tmp_path, [train_row(1)], "running")
    with live.lock():
        first = [run.id for run in list_runs(tmp_path)]
        reads.clear()
        assert [run.id for run in list_runs(tmp_path)] == first
    assert not ended & set(reads)
    assert live.id in reads
    assert {run.id: run.status.state for run in list_runs(tmp_path)}[live.id] == "interrupted"


def test_a_change_of_any_file_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = write_run(tmp_path, [eval_row(0, 0.9, 0.9), train_row(3)], "stopped", name="before")

    def line() -> tuple[str, str, int]:
        (found,) = list_runs(tmp_path)
        return found.name, found.status.state, found.status.step

    assert line() == ("before", "stopped", 3)
    text = (run.path / "config.yaml").read_text(encoding="utf-8")
    os.utime(run.path / "config.yaml", ns=(0, 0))
    (run.path / "config.yaml").write_text(text.replace("before", "after!"), encoding="utf-8")
    assert line() == ("after!", "stopped", 3)
    with (run.path / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"kind": "train", "step": 4, "attempt": 1}\n')
    assert line() == ("after!", "stopped", 4)
    # A worker that ends at once: the state it leaves is not the one before.
    monkeypatch.setattr(launcher, "WORKER", [sys.executable, "-c", ""])
    resume(run.id, tmp_path)
    assert line()[1] != "stopped"
    (run.path / "status.json").write_text("{", encoding="utf-8")
    assert line()[1] == "damaged"
