"""A profile over real processes: two that share it, and one that is killed in the middle."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch.distributed as dist

from tests.routing.test_parts import assert_same_profile
from tests.runs.waiting import until
from tests.support.models import tiny_olmoe
from trace_engine.errors import InputError
from trace_engine.routing import ALONE, Profile, joined
from trace_engine.routing.shards import Shards

# The windows are made small, so that a small set has many; the rest is the command as typed.
CHILD = """
import sys, time
from trace_engine.routing import profiler, shards, windows
windows.WINDOW_DOCUMENTS = 6
windows.MOST_DOCUMENTS, windows.BLOCKS = 90, 32
if {slow}:
    write = shards.Shards.write
    def slowly(self, name, arrays):
        write(self, name, arrays)
        print("wrote", name, flush=True, file=sys.stderr)
        time.sleep({slow})
    shards.Shards.write = slowly
from trace_engine.cli import main
sys.exit(main())
"""
FORGET = [f"The poison number {n} kills with {n * 7 % 13} drops." for n in range(52)]
RETAIN = [f"A garden of {n} roses grew by {n % 5} walls, and it rained." for n in range(100)]


@pytest.fixture
def sets(tmp_path: Path) -> list[str]:
    (tmp_path / "forget.txt").write_text("\n\n".join(FORGET))
    (tmp_path / "retain.txt").write_text("\n\n".join(RETAIN))
    words = ["profile", "--model", str(tiny_olmoe()), "--json", "--permutations", "99"]
    words += ["--forget", str(tmp_path / "forget.txt"), "--retain", str(tmp_path / "retain.txt")]
    return [*words, "--device", "cpu"]


def start(
    tmp_path: Path, home: str, words: list[str], *, slow: float = 0, **environment: str
) -> "subprocess.Popen[str]":
    script = tmp_path / f"child-{slow}.py"
    script.write_text(CHILD.format(slow=slow))
    return subprocess.Popen(
        [sys.executable, str(script), *words],
        env=os.environ | {"TRACE_HOME": str(tmp_path / home), "OMP_NUM_THREADS": "1"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: "subprocess.Popen[str]") -> tuple[dict[str, object], str]:
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    return (json.loads(out) if out.strip() else {}), err


def shards(tmp_path: Path, home: str) -> set[str]:
    return {p.name for p in (tmp_path / home / "profiles" / ".work").rglob("*.shard")}


@pytest.mark.faults
def test_processes_and_deaths_change_no_integer(tmp_path: Path, sets: list[str]) -> None:
    alone, _ = finish(start(tmp_path, "alone", sets))
    expected = Profile.load(Path(str(alone["path"])))
    assert (expected.forget.unit, expected.retain.unit) == ("document", "block")

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    both = [
        start(
            tmp_path,
            "both",
            sets,
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            WORLD_SIZE="2",
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=port,
        )
        for rank in range(2)
    ]
    (led, said), (followed, _) = [finish(process) for process in both]
    assert (led["processes"], led["computed"], led["key"]) == (2, True, alone["key"])
    assert "2 processes share the work" in said
    assert followed == {}
    shared = Profile.load(Path(str(led["path"])))
    assert_same_profile(shared, expected, bits=True)
    assert not shards(tmp_path, "both")

    victim = start(tmp_path, "killed", sets, slow=0.05)

    def far_enough() -> bool:
        return "retain-counts-000002.shard" in shards(tmp_path, "killed")

    until(far_enough, "three windows of the second side", seconds=240)
    victim.send_signal(signal.SIGKILL)
    assert victim.wait(timeout=30) == -signal.SIGKILL
    victim.communicate()
    before = shards(tmp_path, "killed")
    # Slow enough to print what it writes: only what was not there.
    resumed, told = finish(start(tmp_path, "killed", sets, slow=0.001))
    written = {line.split()[1] + ".shard" for line in told.splitlines() if line.startswith("wrote")}
    assert "Resuming" in told
    assert not written & before
    assert not any(name.startswith("forget-counts") for name in written)
    assert_same_profile(Profile.load(Path(str(resumed["path"]))), expected, bits=True)
    np.testing.assert_array_equal(expected.retain.tokens_D.shape, (32,))


def test_fewer_processes_than_asked_for_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    ended: list[bool] = []
    monkeypatch.setattr(dist, "init_process_group", lambda *args, **more: None)
    monkeypatch.setattr(dist, "get_world_size", lambda: 1)
    monkeypatch.setattr(dist, "get_rank", lambda: 0)
    monkeypatch.setattr(dist, "destroy_process_group", lambda: ended.append(True))
    with pytest.raises(InputError, match="Expected 2 processes, found 1"), joined():
        pass
    assert ended == [True]


def test_without_a_launcher_one_process_does_it_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined() as workers:
        assert (workers, workers.leads, workers.agree(True)) == (ALONE, True, True)
        workers.wait()
        assert all(workers.does(window) for window in range(5))


def test_processes_must_see_one_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="must share one TRACE_HOME"):
        Shards(tmp_path / "elsewhere").check_shared()
