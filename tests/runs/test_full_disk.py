"""Row 7: a disk that is really full, whichever write meets it first."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.audit.cases import small as small_audit
from tests.export.test_background import stored_run
from tests.runs import light_worker, real
from tests.support.disks import fill, make_room, small
from tests.support.kills import fork
from trace_engine.audit import background as audits
from trace_engine.causal.settings import CausalConfig
from trace_engine.config import ModelConfig
from trace_engine.disk import DiskFullError
from trace_engine.errors import RunError
from trace_engine.export import background as exports
from trace_engine.runs import detach, evidence, launcher
from trace_engine.runs.directory import RunDirectory
from trace_engine.runs.lock import FileLock, is_locked
from trace_engine.runs.places import run_path, subfolder
from trace_engine.sweeps import launcher as sweep_launcher
from trace_engine.sweeps import open_sweep

pytestmark = pytest.mark.faults

FREE = range(0, 120_000, 4096)
"""So much is left: each further write is the one that fails, and in the end none does."""


@pytest.fixture
def home(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """On the small disk; its workers end at once, so that a lock that stays is this process's."""
    monkeypatch.setattr(launcher, "WORKER", ["/bin/true"])
    monkeypatch.setattr(sweep_launcher, "WORKER", ["/bin/true"])
    folder = small_disk / "home"
    for kind in ("runs", "sweeps"):
        subfolder(kind, folder)
    return folder


@pytest.fixture
def big_disk(tmp_path: Path) -> Iterator[Path]:
    """One that a run of the tiny model fits on."""
    with small(tmp_path / "disk", "32m") as folder:
        yield folder


def nobody_holds(home: Path) -> None:
    for child in detach._children:
        child.wait()
    locks = [path for path in home.rglob("*") if path.name == "lock" or path.suffix == ".lock"]
    assert [path for path in locks if is_locked(path)] == []


def with_less_and_less_full(home: Path, act: Callable[[], object]) -> tuple[int, int]:
    """How often a disk refused the act, always in its sentence and without a lock that stays, and
    how often it had room."""
    refused = done = 0
    for free in FREE:
        fill(home.parent, but=free)
        try:
            act()
            done += 1
        except DiskFullError:
            refused += 1
        finally:
            make_room(home.parent)
        nobody_holds(home)
    return refused, done


@pytest.mark.fault_row(7)
def test_a_launch_without_room_is_refused_and_holds_nothing(home: Path, tmp_path: Path) -> None:
    settings = light_worker.config(tmp_path)
    refused, done = with_less_and_less_full(home, lambda: launcher.launch(settings, home))
    assert refused > 15  # the 64 kB of a last word alone
    assert done > 0


@pytest.mark.fault_row(7)
def test_a_resume_without_room_changes_nothing_and_holds_nothing(
    home: Path, tmp_path: Path
) -> None:
    run = RunDirectory(run_path(launcher.launch(light_worker.config(tmp_path), home), home))
    nobody_holds(home)
    with run.lock():
        run.update(state="stopped", message="Stopped at step 3.")

    def resume() -> None:
        before = run.status()
        try:
            launcher.resume(run.id, home, owner="somebody")
        except RunError:
            after = run.status()
            assert (after.state, after.message) == ("stopped", before.message)
            assert after.attempt == 1
            assert run.owner() != "somebody"
            raise
        nobody_holds(home)
        with run.lock():
            run.update(state="stopped", attempt=1, message="Stopped at step 3.")
            run._set_owner("")
            (run.path / ".reserve.tmp").unlink()

    refused, done = with_less_and_less_full(home, resume)
    assert refused > 15
    assert done > 0


@pytest.mark.fault_row(7)
def test_a_sweep_without_room_is_refused_and_holds_nothing(home: Path, tmp_path: Path) -> None:
    settings, grid = light_worker.config(tmp_path), [{"selection.top_k": (1, 2)}]
    refused, done = with_less_and_less_full(
        home, lambda: sweep_launcher.launch_sweep(settings, grid, home=home)
    )
    assert refused > 15
    assert done > 0
    sweep = open_sweep(sweep_launcher.launch_sweep(settings, grid, home=home), home)
    nobody_holds(home)
    sweep.end("stopped", "Stopped.")

    def resume() -> None:
        try:
            sweep_launcher.resume_sweep(sweep.id, home, owner="somebody")
        except RunError:
            assert (sweep.status().state, sweep.owner) == ("stopped", None)
            raise
        nobody_holds(home)
        sweep.end("stopped", "Stopped.")
        sweep.update(owner=None)

    refused, done = with_less_and_less_full(home, resume)
    assert refused > 15
    assert done > 0


@pytest.mark.fault_row(7)
def test_a_worker_that_cannot_be_started_on_a_full_disk_holds_nothing(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_and_gone(command: list[str], lock: FileLock, log: Path, folder: Path) -> None:
        fill(home.parent)
        detach.start_detached(["/nonexistent"], lock, log, folder)

    monkeypatch.setattr(launcher, "start_detached", full_and_gone)
    with pytest.raises(RunError, match="could not be started"):
        launcher.launch(light_worker.config(tmp_path), home)
    nobody_holds(home)
    [path] = subfolder("runs", home).iterdir()
    status = RunDirectory(path).status()
    assert status.state == "failed"
    assert "could not be started" in status.message


@pytest.mark.fault_row(7)
def test_other_jobs_without_room_are_refused_and_hold_nothing(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (audits, evidence, exports):
        monkeypatch.setattr(module, "WORKER", ["/bin/true"])
    for kind in ("audits", "exports", evidence.FOLDER):
        subfolder(kind, home)
    run = stored_run(home)
    audit, scan = small_audit(tmp_path / "sets"), CausalConfig(model=ModelConfig(source="gone"))
    resumed = audits.launch_audit(audit, home)
    acts: list[Callable[[], object]] = [
        lambda: exports.start_export(run, "merged", home),
        lambda: audits.launch_audit(audit, home),
        lambda: audits.resume_audit(resumed, home),
        lambda: evidence.start_evidence(scan, home),
    ]
    for act in acts:
        refused, done = with_less_and_less_full(home, act)
        assert refused > 0
        assert done > 0
    assert "damaged" not in {found.state for found in audits.list_audits(home)}


def _work(directory: Path, base: Path) -> None:
    sys.exit(light_worker.main([str(directory), "--home", str(base)], job=light_worker.job))


@pytest.mark.fault_row(7)
def test_a_disk_that_fills_before_the_worker_is_there_fails_the_run_in_its_sentence(
    small_disk: Path, tmp_path: Path
) -> None:
    run = RunDirectory(small_disk / "run")
    run.create(light_worker.config(tmp_path)).release()
    fill(small_disk)
    process = fork(_work, run.path, tmp_path / "home")
    process.join(60)
    assert process.exitcode == 0
    status = run.status()
    assert status.state == "failed"
    assert status.message.startswith("disk full, "), status.message
    assert not status.repeats


@pytest.mark.fault_row(7)
def test_a_run_that_ended_without_a_word_on_a_full_disk_says_so(
    small_disk: Path, tmp_path: Path
) -> None:
    run = RunDirectory(small_disk / "run")
    run.create(light_worker.config(tmp_path)).release()
    assert "killed" in run.status().message
    fill(small_disk)
    assert "its disk is full, with 0 B free" in run.status().message
    assert "killed" not in run.status().message


@pytest.mark.fault_row(7)
@pytest.mark.parametrize(
    ("full_at", "kept"), [("000006", [3]), (r"\.model\.\w+\.tmp", [9, 10])], ids=["step", "end"]
)
def test_tensors_that_meet_a_full_disk_fail_the_run_and_lose_nothing(
    tmp_path: Path, full_at: str, kept: list[int], big_disk: Path
) -> None:
    real.write_sets(tmp_path)
    run, base = RunDirectory(big_disk / "run"), tmp_path / "home"
    run.create(real.settings(tmp_path)).release()
    process = real.start(run, base, full_at)
    process.join(120)
    assert process.exitcode == 0
    status = run.status()
    assert status.state == "failed", (status, run.log_tail())
    assert status.message.startswith("disk full, "), status.message
    assert " needed, " in status.message
    assert not status.repeats
    assert [checkpoint.step for checkpoint in run.checkpoints()] == kept
    make_room(big_disk)
    real.start(run, base).join(120)
    assert run.status().state == "done", (run.status(), run.log_tail())
