"""How a worker records the end of a job: would a new attempt with the same settings fail again?"""

from pathlib import Path

import pytest
import torch

from tests.runs.fakes import settings
from trace_engine.disk import DiskFullError, read_json, write_json
from trace_engine.errors import CalibrationError, InputError, ModelError, NonFiniteLossError
from trace_engine.progress import ProgressCallback
from trace_engine.runs.directory import RunDirectory
from trace_engine.runs.lock import LockedError
from trace_engine.runs.stopping import StopFlag
from trace_engine.runs.worker import Job, work


def failing(error: Exception) -> Job:
    def job(run: RunDirectory, stop: StopFlag, report: ProgressCallback, base: Path | None) -> str:
        raise error

    return job


def succeeding(
    run: RunDirectory, stop: StopFlag, report: ProgressCallback, base: Path | None
) -> str:
    return "Done."


@pytest.mark.parametrize(
    ("error", "repeats"),
    [
        (InputError("no such set"), True),
        (ModelError("dense"), True),
        (CalibrationError("nothing selected"), True),
        (NonFiniteLossError("NaN at step 3"), True),
        (MemoryError(), True),
        (DiskFullError("disk full"), False),
        (LockedError("in use"), False),
        (OSError("unplugged"), False),
        (KeyError("a bug"), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_failure_says_whether_the_same_settings_meet_it_again(
    tmp_path: Path, error: Exception, repeats: bool
) -> None:
    run = RunDirectory(tmp_path / "run")
    with run.create(settings(tmp_path)):
        status = work(run, StopFlag(), base=tmp_path, job=failing(error))
        assert (status.state, status.resumable, status.repeats) == ("failed", True, repeats)
        assert status.to_dict()["repeats"] is repeats
        run.begin_attempt()
        assert not run.status().repeats
        assert not work(run, StopFlag(), base=tmp_path, job=succeeding).repeats


def test_a_run_of_before_does_not_claim_to_fail_again(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    with run.create(settings(tmp_path)):
        work(run, StopFlag(), base=tmp_path, job=failing(ModelError("dense")))
    recorded = read_json(run.path / "status.json")
    del recorded["repeats"]
    write_json(run.path / "status.json", recorded)
    assert run.status().state == "failed"
    assert not run.status().repeats


@pytest.mark.fault_row(13, simulated=True)
def test_a_gpu_without_room_names_the_settings_to_lower(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    with run.create(settings(tmp_path)):
        status = work(run, StopFlag(), base=tmp_path, job=failing(error))
    assert status.state == "failed"
    for setting in ("micro_batch_size", "max_length", "trainable.kind"):
        assert setting in status.message
    assert "CUDA" not in status.message
