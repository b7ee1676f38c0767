"""The examination finds what it should, one line a check, and a broken torch does not end it."""

import json
import sys
from pathlib import Path

import pytest

import trace_engine
from trace_engine import health
from trace_engine.cli import main
from trace_engine.health import examine, surroundings
from trace_engine.health.report import Check, Report
from trace_engine.runs import RunDirectory
from trace_engine.runs.places import new_run_id, subfolder

GIB = 2**30


def states(report: Report) -> dict[str, str]:
    return {check.name: check.state for check in report.checks}


def test_the_self_test_profiles_and_trains_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    heard: list[Check] = []
    report = trace_engine.doctor(tmp_path / "home", on_check=heard.append)
    assert list(report.checks) == heard
    assert report.ok, report.to_dict()
    (tested,) = [check for check in report.checks if check.name == "Self-test"]
    assert tested.state == "ok"
    assert "trained 3 steps" in tested.found
    assert list(temporary.iterdir()) == []
    assert sorted(path.name for path in (tmp_path / "home").iterdir()) == ["runs"]


@pytest.mark.parametrize(
    ("program", "sentence"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGILL)", "ended by SIGILL"),
        ("raise ImportError('libtorch.so: no such file')", "libtorch.so: no such file"),
        ("import time; time.sleep(60)", "did not end within 1 s"),
    ],
)
def test_a_broken_torch_is_a_line_of_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, sentence: str
) -> None:
    monkeypatch.setattr(examine, "PROBE", [sys.executable, "-c", program])
    report = health.doctor(tmp_path / "home", timeout=1)
    last = report.checks[-1]
    assert (last.name, last.state) == ("Torch", "fault")
    assert sentence in last.found
    assert last.advice
    assert not report.ok


def test_a_self_test_that_fails_after_torch_was_found_is_its_own_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = {"stage": "torch", "version": "2", "cuda": None, "gpus": [], "threads": 1}
    program = f"print({json.dumps(said)!r}); raise RuntimeError('3 choices were counted')"
    monkeypatch.setattr(examine, "PROBE", [sys.executable, "-c", program])
    found = states(health.doctor(tmp_path / "home"))
    assert (found["Torch"], found["Self-test"]) == ("ok", "fault")


def test_a_gpu_that_torch_cannot_use_is_a_warning_that_names_the_build() -> None:
    cpu = {"gpus": [], "cuda": None}
    assert examine.gpu(cpu, has_nvidia=False).state == "ok"
    assert "a build of torch for CUDA" in examine.gpu(cpu, has_nvidia=True).advice
    assert "its driver" in examine.gpu(cpu | {"cuda": "13.0"}, has_nvidia=True).advice
    one = {"name": "H100", "free": 70 * GIB, "total": 80 * GIB}
    found = examine.gpu({"gpus": [one], "cuda": "13.0"}, has_nvidia=True)
    assert (found.state, "H100" in found.found) == ("ok", True)


@pytest.mark.parametrize(
    ("free", "state"), [(GIB - 1, "fault"), (GIB, "warning"), (4 * GIB - 1, "warning")]
)
def test_little_memory_is_said_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, free: int, state: str
) -> None:
    monkeypatch.setattr(surroundings, "container_room", lambda: [free])
    found = surroundings.memory()
    assert found.state == state
    assert found.advice
    monkeypatch.setattr(surroundings, "container_room", lambda: [400 * GIB])
    monkeypatch.setattr(surroundings, "address_room", lambda: 100 * 2**20)
    assert "ulimit -v" in surroundings.memory().advice


def test_versions_outside_the_tested_range_and_missing_packages_are_told_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def wants(*lines: str) -> Check:
        monkeypatch.setattr(surroundings.metadata, "requires", lambda name: list(lines))
        return surroundings.packages()

    assert wants("numpy>=2", 'absent; extra == "trackers"').state == "ok"
    outside = wants("numpy>=999")
    assert (outside.state, "numpy" in outside.found) == ("warning", True)
    missing = wants("numpy>=999", "no-such-package-of-anyone")
    assert (missing.state, missing.found) == ("fault", "Missing: no-such-package-of-anyone.")


def test_a_home_that_others_can_open_is_a_warning(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    assert surroundings.data_folder(home).state == "ok"
    home.chmod(0o755)
    found = surroundings.data_folder(home)
    assert (found.state, found.advice) == ("warning", f"chmod 700 {home}")
    assert list(home.iterdir()) == []


def test_a_home_that_cannot_be_written_or_locked_is_a_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    found = surroundings.data_folder(tmp_path / "file" / "home")
    assert (found.state, "TRACE_HOME" in found.advice) == ("fault", True)
    monkeypatch.setattr(surroundings, "is_locked", lambda path: False)
    assert "no locks" in surroundings.data_folder(tmp_path / "home").found


def test_damaged_runs_and_a_bad_queue_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunDirectory(subfolder("runs", tmp_path) / new_run_id())
    run.path.mkdir()
    (run.path / "config.yaml").write_text("{")
    found = surroundings.runs(tmp_path)
    assert (found.state, run.id in found.found) == ("warning", True)
    monkeypatch.setenv("TRACE_WORKERS", "many")
    assert surroundings.workers().state == "fault"


def test_a_changed_file_of_the_pack_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(surroundings, "PACK", tmp_path)
    assert surroundings.bundled_pack().state == "fault"
    entry = {"sha256": "0" * 64, "rows": 1}
    (tmp_path / "manifest.json").write_text(json.dumps({"files": {"sets/a.jsonl": entry}}))
    (tmp_path / "sets").mkdir()
    (tmp_path / "sets" / "a.jsonl").write_text("{}")
    assert surroundings.bundled_pack().found == "Missing or changed: sets/a.jsonl."


def test_the_command_ends_with_1_only_for_a_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TRACE_HOME", str(tmp_path / "home"))
    said = {"stage": "torch", "version": "2", "cuda": None, "gpus": [], "threads": 1}
    monkeypatch.setattr(examine, "PROBE", [sys.executable, "-c", f"print({json.dumps(said)!r})"])
    assert main(["doctor", "--no-self-test"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(line.split()[0] in ("ok", "warning") for line in lines)
    assert any(line.split()[1] == "GPU" for line in lines)
    monkeypatch.setenv("TRACE_WORKERS", "0")
    assert main(["doctor", "--no-self-test", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is False
    assert [c["name"] for c in report["checks"] if c["state"] == "fault"] == ["Workers"]
