"""One sweep folder that cannot be read: the list has the others, and names it with the reason."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from trace_engine.cli import main
from trace_engine.disk import read_json, write_json
from trace_engine.runs.lock import FileLock
from trace_engine.sweeps import damaged_sweeps, list_sweeps, open_sweep

STORED = Path(__file__).parents[1] / "formats/v1/sweeps/20260101-000002-aaaaaa"
BAD = "20260101-000003-bbbbbb"


def _pipe(folder: Path, name: str) -> None:
    (folder / name).unlink()
    os.mkfifo(folder / name)


def _folder(folder: Path, name: str) -> None:
    (folder / name).unlink()
    (folder / name).mkdir()


def _points(folder: Path) -> None:
    points = read_json(folder / "points.json")
    points["points"][0]["config"] = {"kind": "profile"}
    write_json(folder / "points.json", points)


def _write(name: str, text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(text)


SPOILT: dict[str, Callable[[Path], object]] = {
    "a pipe for settings": lambda folder: _pipe(folder, "sweep.yaml"),
    "a folder for settings": lambda folder: _folder(folder, "sweep.yaml"),
    "a pipe for points": lambda folder: _pipe(folder, "points.json"),
    "a folder for points": lambda folder: _folder(folder, "points.json"),
    "a folder for the state": lambda folder: _folder(folder, "status.json"),
    "no points": lambda folder: (folder / "points.json").unlink(),
    "no settings": lambda folder: (folder / "sweep.yaml").unlink(),
    "points of another kind": _write("points.json", '{"points":5}'),
    "an empty list of points": _write("points.json", '{"points":[]}'),
    "points of a profile": _points,
    "settings that are refused": _write("sweep.yaml", "name: n\ngrids: []\nbase: {}\n"),
    "settings of a profile": _write("sweep.yaml", "name: n\ngrids: []\nbase: {kind: profile}\n"),
    "settings that are none": _write("sweep.yaml", "name: n\ngrids: []\nbase: 5\n"),
    "bytes": lambda folder: (folder / "sweep.yaml").write_bytes(b"\xff\xfe\x00"),
    "a state of another kind": _write("status.json", "[]"),
}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TRACE_HOME", str(tmp_path))
    for name in (STORED.name, BAD):
        shutil.copytree(STORED, tmp_path / "sweeps" / name)
    return tmp_path


@pytest.mark.timeout(30)
@pytest.mark.parametrize("how", SPOILT)
def test_the_others_are_listed_and_it_is_named(
    how: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert [found.id for found in list_sweeps(home)] == [BAD, STORED.name]
    assert damaged_sweeps(home) == {}
    SPOILT[how](home / "sweeps" / BAD)
    assert [found.id for found in list_sweeps(home)] == [STORED.name]
    [(name, reason)] = damaged_sweeps(home).items()
    assert name == BAD
    assert reason.endswith(".")
    assert reason.count(BAD) == 1

    assert main(["sweeps", "list"]) == 0
    told = capsys.readouterr()
    good, bad = told.out.splitlines()[1:]
    assert good.startswith(STORED.name)
    assert bad.split()[:2] == [BAD, "damaged"]
    assert reason in told.err
    assert main(["sweeps", "list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [one["id"] for one in listed] == [STORED.name, BAD]
    assert (listed[1]["state"], listed[1]["message"]) == ("damaged", reason)
    assert listed[0].keys() == listed[1].keys()

    assert main(["sweeps", "show", BAD]) == 2
    assert capsys.readouterr().err.strip()
    assert main(["sweeps", "delete", BAD]) == 0
    assert damaged_sweeps(home) == {}


def test_one_that_is_mended_is_listed_again(home: Path) -> None:
    points = home / "sweeps" / BAD / "points.json"
    kept = points.read_bytes()
    points.write_text('{"points":5}')
    assert list(damaged_sweeps(home)) == [BAD]
    points.write_bytes(kept)
    assert not damaged_sweeps(home)
    assert len(list_sweeps(home)) == 2


def test_one_that_is_being_made_is_not_damaged(home: Path) -> None:
    folder = home / "sweeps" / "20260101-000004-cccccc"
    folder.mkdir()
    assert damaged_sweeps(home) == {}
    with FileLock.take(folder / "lock", ""):
        (folder / "sweep.yaml").write_text("name: n\n")
        assert damaged_sweeps(home) == {}
    assert open_sweep(folder.name, home)
    assert len(list_sweeps(home)) == 2
