"""The examination is wanted where much is broken: every check is a line, whatever it meets."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import disks
from trace_engine import health
from trace_engine.cli import main
from trace_engine.disk import DiskFullError, write_text
from trace_engine.errors import InputError, TraceError
from trace_engine.health import busy, examine, surroundings
from trace_engine.health.report import Check, looked
from trace_engine.runs.lock import FileLock
from trace_engine.runs.places import home, new_run_id, subfolder
from trace_engine.runs.queue import MOST_WORKERS, capacity

NAMES = [
    *("Python", "Packages", "Bundled pack", "Data folder", "Temporary folder", "Model cache"),
    *("Disk", "Memory", "Processors", "Workers", "Runs", "Torch"),
]
NO_TORCH = [sys.executable, "-c", "raise ImportError('none here')"]


def command(words: str, limits: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", "-c", f'{limits} exec "$0" -m trace_engine.cli {words}', sys.executable],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def checks(said: subprocess.CompletedProcess[str]) -> dict[str, dict[str, str]]:
    assert "Traceback" not in said.stderr, said.stderr
    return {check["name"]: check for check in json.loads(said.stdout)["checks"]}


def test_without_a_usable_temporary_folder_every_check_is_a_line(tmp_path: Path) -> None:
    """No byte can be written to any file, so Python finds no folder to use."""
    said = command(
        "doctor --no-self-test --json", "ulimit -f 0;", TRACE_HOME=str(tmp_path / "home")
    )
    found = checks(said)
    assert list(found) == NAMES
    assert said.returncode == 1
    assert "No usable temporary directory" in found["Temporary folder"]["found"]
    assert "TMPDIR" in found["Temporary folder"]["advice"]
    assert found["Torch"]["advice"] == "See Temporary folder."


def test_without_inodes_it_is_said_and_every_check_is_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(examine, "PROBE", NO_TORCH)
    with disks.small(tmp_path / "disk", "256k,nr_inodes=8") as disk:
        base = home(disk / "home")
        for number in range(100):
            try:
                (base / f"file{number}").touch()
            except OSError:
                break
        assert os.statvfs(disk).f_favail == 0
        with pytest.raises(DiskFullError, match=r"out of inodes.* with 2.* kB free"):
            write_text(base / "new", "a few bytes")
        report = health.doctor(base)
    assert [check.name for check in report.checks] == NAMES
    found = {check.name: check for check in report.checks}
    assert found["Data folder"].state == "fault"
    assert "out of inodes" in found["Data folder"].found
    assert found["Runs"].state == "fault"


@pytest.mark.parametrize("words", ["doctor --no-self-test --json", "status", "runs list"])
def test_a_home_of_nobody_is_a_sentence(words: str) -> None:
    said = command(words, TRACE_HOME="~nosuchuser/x")
    assert said.returncode == (1 if words.startswith("doctor") else 2)
    assert "Traceback" not in said.stderr
    if words.startswith("doctor"):
        found = checks(said)
        assert list(found)[: len(NAMES)] == NAMES
        assert "TRACE_HOME starts with ~" in found["Data folder"]["found"]
    else:
        assert "TRACE_HOME starts with ~" in said.stderr
        assert "nosuchuser" not in said.stderr


@pytest.mark.parametrize("text", ["{", "[]", '{"files": [1]}', '{"files": {"a": {}}}', "null"])
def test_a_damaged_manifest_of_the_pack_is_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setattr(surroundings, "PACK", tmp_path)
    (tmp_path / "manifest.json").write_text(text)
    found = surroundings.bundled_pack()
    assert (found.state, "manifest.json" in found.found) == ("fault", True)
    assert found.advice


def _fails(error: Exception) -> Callable[[], Check]:
    def look() -> Check:
        raise error

    return look


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (TraceError("A sentence."), "A sentence."),
        (PermissionError(13, "Permission denied", "/x"), "/x cannot be looked at (Permission"),
        (ValueError("odd"), "an unexpected ValueError (odd)"),
    ],
)
def test_whatever_a_check_raises_is_its_line(error: Exception, sentence: str) -> None:
    found = looked("Memory", _fails(error))
    assert (found.name, found.state) == ("Memory", "fault")
    assert sentence in found.found


@pytest.mark.timeout(20)
@pytest.mark.parametrize("workers", ["100000000", "9" * 5000, "0", "-1", "", "٣" * 20, "257"])
def test_an_absurd_number_of_workers_is_refused_at_once(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    workers: str,
) -> None:
    monkeypatch.setenv("TRACE_WORKERS", workers)
    monkeypatch.setenv("TRACE_HOME", str(tmp_path))
    with pytest.raises(InputError, match=r"TRACE_WORKERS must be .* up to 256"):
        capacity("unlearn")
    assert main(["status"]) != 0
    assert "TRACE_WORKERS" in capsys.readouterr().err
    monkeypatch.setenv("TRACE_WORKERS", str(MOST_WORKERS))
    assert capacity("unlearn") == MOST_WORKERS
    assert health.status(tmp_path).slots["unlearn"].total == MOST_WORKERS


@pytest.mark.parametrize("kind", ["audits", "evidence", "sweeps", "slots", "exports"])
def test_a_lock_that_cannot_be_read_hides_nothing_else(tmp_path: Path, kind: str) -> None:
    """A worker holds what it could open, so nobody can be at work behind it."""
    name = {"slots": "unlearn-0.lock", "exports": ".run-full.lock"}.get(kind, "lock")
    folder = subfolder(kind, tmp_path)
    if name == "lock":
        folder /= new_run_id()
        folder.mkdir()
    (folder / name).symlink_to(folder / name)
    held = subfolder("evidence", tmp_path) / "0123456789abcdef"
    held.mkdir()
    with FileLock.take(held / "lock", ""):
        assert [job.kind for job in health.status(tmp_path).jobs] == ["evidence"]
        assert busy.at_work(None, tmp_path) == 1
