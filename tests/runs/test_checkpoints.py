"""A checkpoint's folder holds what its manifest vouches for, whatever a kill left there."""

import time
from pathlib import Path

import pytest
import torch

from tests.support.kills import fork
from trace_engine.runs.checkpoints import list_checkpoints, save_checkpoint

pytestmark = pytest.mark.faults
LARGE = 64 * 2**20


def save(folder: Path, numbers: int) -> None:
    tensors = {"x": torch.zeros(numbers)}
    save_checkpoint(folder, tensors, {}, step=3, attempt=1, identity={})


@pytest.mark.fault_row(2)
def test_what_a_kill_inside_a_save_of_tensors_left_is_not_kept(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    target = folder / "000003"
    for _ in range(20):
        process = fork(save, folder, LARGE)
        while process.is_alive() and not list(target.glob(".tmp*")):
            time.sleep(0.0005)
        process.kill()
        process.join(10)
        left = [path.name for path in target.iterdir()]
        if any(name.startswith(".tmp") for name in left):  # safetensors' own
            break
        for path in target.iterdir():
            path.unlink()
    else:
        pytest.fail("no kill came inside a save")
    assert list_checkpoints(folder) == []
    save(folder, 8)
    assert sorted(path.name for path in target.iterdir()) == [
        *("manifest.json", "state.json", "tensors.safetensors"),
    ]
