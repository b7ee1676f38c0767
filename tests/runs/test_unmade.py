"""What a launch left that was killed before it was one goes with a later launch, and nothing else
does."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.app.stored import unlearn_config
from tests.audit.cases import small
from trace_engine.audit import background
from trace_engine.audit.background import launch_audit, list_audits
from trace_engine.config import to_yaml
from trace_engine.disk import write_json
from trace_engine.runs import launcher, list_runs
from trace_engine.runs.directory import RunDirectory
from trace_engine.runs.lock import FileLock
from trace_engine.runs.places import subfolder
from trace_engine.sweeps import damaged_sweeps, list_sweeps
from trace_engine.sweeps import launcher as sweeping
from trace_engine.sweeps.directory import SweepDirectory

ID = "20260101-000000-abcdef"


@pytest.fixture(autouse=True)
def nothing_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here computes."""

    def started(command: object, lock: FileLock, *_: object) -> None:
        lock.release()

    for module in (launcher, sweeping, background):
        monkeypatch.setattr(module, "start_detached", started)


def launch_run(home: Path) -> str:
    return launcher.launch(unlearn_config(), home)


def launch_sweep(home: Path) -> str:
    return sweeping.launch_sweep(unlearn_config(), [{"selection.top_k": (1, 2)}], home=home)


def audit(home: Path) -> str:
    return launch_audit(small(home / "of"), home)


LAUNCH: dict[str, Callable[[Path], str]] = {
    "runs": launch_run,
    "sweeps": launch_sweep,
    "audits": audit,
}
kinds = pytest.mark.parametrize("kind", LAUNCH)


def listed(kind: str, home: Path) -> list[str]:
    if kind == "runs":
        return [run.id for run in list_runs(home)]
    if kind == "audits":
        return [audit.id for audit in list_audits(home)]
    return [*damaged_sweeps(home), *(sweep.id for sweep in list_sweeps(home))]


def left(kind: str, home: Path, *names: str) -> Path:
    folder = subfolder(kind, home) / ID
    folder.mkdir()
    for name in names:
        (folder / name).write_text("{}")
    return folder


def age(folder: Path, seconds: float = 3600) -> None:
    then = time.time() - seconds
    os.utime(folder, (then, then))


@kinds
@pytest.mark.parametrize("names", [(), ("lock",), (".reserve.tmp",), ("lock", ".x.0a1b.tmp")])
def test_it_is_not_listed_and_goes_with_a_later_launch(
    kind: str, names: tuple[str, ...], tmp_path: Path
) -> None:
    folder = left(kind, tmp_path, *names)
    assert listed(kind, tmp_path) == []
    first = LAUNCH[kind](tmp_path)
    assert folder.exists()  # it may be a launch that is just starting
    age(folder)
    with FileLock.take(folder / "lock", ""):
        age(folder)
        second = LAUNCH[kind](tmp_path)
        assert folder.exists()  # its process lives
    age(folder)
    third = LAUNCH[kind](tmp_path)
    here = {path.name for path in folder.parent.iterdir()}
    assert here == {first, second, third}
    assert set(listed(kind, tmp_path)) == here


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("runs", ("lock", "config.yaml", "launch.json")),
        ("sweeps", ("lock", "sweep.yaml")),
        ("audits", ("lock", "launch.json", "status.json", "log.txt")),
    ],
)
def test_what_came_further_and_holds_nothing_goes_too(
    kind: str, names: tuple[str, ...], tmp_path: Path
) -> None:
    age(folder := left(kind, tmp_path, *names))
    LAUNCH[kind](tmp_path)
    assert not folder.exists()


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("runs", ("config.yaml",)),
        ("runs", ("lock", "config.yaml", "status.json")),
        ("runs", ("lock", "notes.txt")),
        ("sweeps", ("sweep.yaml", "points.json")),
        ("sweeps", ("lock", "sweep.yaml", "points.json")),  # damaged ones
        ("sweeps", ("lock", "status.json")),
        ("audits", ("audit.yaml",)),
        ("audits", ("lock", "report")),
        ("audits", ("notes.txt",)),
    ],
)
def test_what_holds_something_stays(kind: str, names: tuple[str, ...], tmp_path: Path) -> None:
    age(folder := left(kind, tmp_path, *names))
    before = sorted(path.name for path in folder.iterdir())
    LAUNCH[kind](tmp_path)
    assert sorted(path.name for path in folder.iterdir()) == before


@kinds
def test_links_and_other_names_stay(kind: str, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    age(elsewhere)
    folder = subfolder(kind, tmp_path)
    (folder / ID).symlink_to(elsewhere)
    (folder / "mine").mkdir()
    age(folder / "mine")
    LAUNCH[kind](tmp_path)
    assert elsewhere.is_dir()
    assert (folder / ID).is_symlink()
    assert (folder / "mine").is_dir()


def test_a_sweep_with_a_run_stays_though_its_state_is_gone(tmp_path: Path) -> None:
    for run in (ID, None):
        made = SweepDirectory(tmp_path / "sweeps" / launch_sweep(tmp_path))
        made.record_run(0, run) if run is not None else None
        (made.path / "status.json").unlink()
        age(made.path)
        launch_sweep(tmp_path)
        assert made.path.exists() == (run is not None)
        assert (made.id in damaged_sweeps(tmp_path)) == (run is not None)


def test_an_audit_whose_lock_is_a_link_is_damaged_and_listed(tmp_path: Path) -> None:
    folder = left("audits", tmp_path, "launch.json")
    (folder / "audit.yaml").write_text(to_yaml(small(tmp_path / "of")))
    (folder / "lock").symlink_to(tmp_path / "elsewhere")
    write_json(folder / "status.json", {"state": "done"})
    [found] = list_audits(tmp_path)
    assert (found.id, found.state) == (ID, "damaged")
    assert "lock" in found.message


def test_a_run_that_was_killed_between_its_folder_and_its_lock_blocks_no_launch(
    tmp_path: Path,
) -> None:
    age(left("runs", tmp_path))
    made = launch_run(tmp_path)
    assert RunDirectory(tmp_path / "runs" / made).status().state == "interrupted"
