"""The folder that a run names as its own is where its paths start, never where code comes from."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.runs.waiting import until
from trace_engine.runs import launcher
from trace_engine.runs.detach import start_detached
from trace_engine.runs.lock import FileLock


@pytest.mark.parametrize("path", [None, "."])
def test_nothing_is_imported_from_the_folder_of_a_run(
    path: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, marker = tmp_path / "planted", tmp_path / "ran"
    code = f"open({str(marker)!r}, 'w').write('planted')\n"
    (folder / "trace_engine" / "runs").mkdir(parents=True)
    for name in (
        "trace_engine/__init__.py",
        "trace_engine/runs/__init__.py",
        "random.py",
        "yaml.py",
    ):
        (folder / name).write_text(code)
    if path is None:
        monkeypatch.delenv("PYTHONPATH", raising=False)
    else:
        # Where the app was started from, not where the worker is.
        monkeypatch.setenv("PYTHONPATH", path)
    log = tmp_path / "log"
    lock = FileLock.take(tmp_path / "lock", "taken")
    start_detached([*launcher.WORKER, str(tmp_path / "no-run")], lock, log, folder)
    until(lambda: "no-run" in log.read_text() or marker.exists(), "the worker's word on its run")
    assert not marker.exists()


def test_the_plant_would_have_run(tmp_path: Path) -> None:
    """Without the guard, Python looks beside the process first."""
    (tmp_path / "trace_engine").mkdir()
    (tmp_path / "trace_engine" / "__init__.py").write_text("print('planted')\n")
    words = [sys.executable, "-m", "trace_engine"]
    told = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "planted" in told.stdout
