"""A profile over real processes: two that share it, and one that is killed in the middle."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch.distributed as dist

from tests.routing.test_parts import assert_same_profile
from tests.runs.waiting import until
from tests.support.models import tiny_olmoe
from trace_engine.config import ModelConfig, ProfileConfig, SetConfig
from trace_engine.errors import InputError
from trace_engine.progress import ignore_progress
from trace_engine.routing import ALONE, Profile, joined, windows
from trace_engine.routing.shards import Shards
from trace_engine.routing.storage import Arrays
from trace_engine.runs.profiles import ProfileAnswer

SMALL = {"WINDOW_DOCUMENTS": 6, "MOST_DOCUMENTS": 90, "BLOCKS": 32}
"""Windows and blocks that make a small set a large one; the rest is the command as typed."""
CHILD = """
import sys, time
from trace_engine.routing import shards, windows
for name, number in {small}.items():
    setattr(windows, name, number)
if {slow}:
    write = shards.Shards.write
    def slowly(self, name, arrays):
        write(self, name, arrays)
        time.sleep({slow})
    shards.Shards.write = slowly
from trace_engine.cli import main
sys.exit(main())
"""
FORGET = [f"The poison number {n} kills with {n * 7 % 13} drops." for n in range(52)]
RETAIN = [f"A garden of {n} roses grew by {n % 5} walls, and it rained." for n in range(100)]


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ProfileConfig:
    for name, number in SMALL.items():
        monkeypatch.setattr(windows, name, number)
    sources = {}
    for side, texts in (("forget", FORGET), ("retain", RETAIN)):
        path = tmp_path / f"{side}.txt"
        path.write_text("\n\n".join(texts))
        sources[side] = SetConfig(source=str(path))
    model = ModelConfig(source=str(tiny_olmoe()), device="cpu")
    return ProfileConfig(model=model, permutations=99, **sources)


@pytest.fixture
def expected(asked: ProfileConfig, tmp_path: Path) -> Profile:
    folder, was_there = ProfileAnswer(asked).get(ignore_progress, tmp_path / "alone")
    assert not was_there
    found = Profile.load(folder)
    assert (found.forget.unit, found.retain.unit) == ("document", "block")
    assert found.retain.tokens_D.shape == (32,)
    return found


def start(
    folder: Path, home: str, asked: ProfileConfig, *, slow: float = 0, **environment: str
) -> "subprocess.Popen[str]":
    script = folder / "child.py"
    script.write_text(CHILD.format(slow=slow, small=SMALL))
    words = ["profile", "--json", "--permutations", "99", "--device", "cpu"]
    words += ["--model", asked.model.source]
    words += ["--forget", asked.forget.source, "--retain", asked.retain.source]
    return subprocess.Popen(
        [sys.executable, str(script), *words],
        env=os.environ | {"TRACE_HOME": str(folder / home), "OMP_NUM_THREADS": "1"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def shards(home: Path) -> set[str]:
    return {path.stem for path in (home / "profiles" / ".work").rglob("*.shard")}


@pytest.mark.slow
@pytest.mark.faults
def test_two_processes_give_the_integers_of_one(
    tmp_path: Path, asked: ProfileConfig, expected: Profile
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    # What torchrun sets; its own agent would only add seconds.
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    both = [
        start(tmp_path, "both", asked, RANK=str(rank), LOCAL_RANK=str(rank), **shared)
        for rank in range(2)
    ]
    ended = [process.communicate(timeout=240) for process in both]
    assert [process.returncode for process in both] == [0, 0], ended
    (out, err), (silent, _) = ended
    led = json.loads(out)
    assert (led["processes"], led["computed"], silent) == (2, True, "")
    assert (led["forget"]["blocks"], led["retain"]["blocks"]) == (None, 32)
    assert "2 processes share the work" in err
    assert_same_profile(Profile.load(led["path"]), expected, bits=True)
    assert not shards(tmp_path / "both")


def ended_together(
    tmp_path: Path, asked: ProfileConfig, homes: tuple[str, str], *, wrong: str = ""
) -> list[tuple[int, str, str]]:
    """Exit code, stdout and stderr of two processes of one job, each with its own home."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    if wrong:
        asked = asked.model_copy(update={"model": ModelConfig(source=wrong)})
    both = [
        start(tmp_path, home, asked, RANK=str(rank), LOCAL_RANK=str(rank), **shared)
        for rank, home in enumerate(homes)
    ]
    said = [process.communicate(timeout=100) for process in both]
    return [(p.returncode, out, err) for p, (out, err) in zip(both, said, strict=True)]


@pytest.mark.slow
@pytest.mark.faults
def test_what_all_processes_refuse_the_first_one_says(tmp_path: Path, asked: ProfileConfig) -> None:
    first, second = ended_together(tmp_path, asked, ("one", "one"), wrong=str(tmp_path / "nowhere"))
    sentence = f"trace-moe: There is no folder {tmp_path / 'nowhere'}."
    assert first[:2] == (2, "")
    assert first[2].startswith(sentence)
    assert first[2].count("\n") == 1
    assert second == (2, "", "")


@pytest.mark.slow
@pytest.mark.faults
def test_what_one_process_refuses_ends_the_other_too(tmp_path: Path, asked: ProfileConfig) -> None:
    (code, out, err), (other, silent, said) = ended_together(tmp_path, asked, ("one", "two"))
    assert (code, out, other, silent) == (2, "", 2, "")
    assert "all of them must share one TRACE_HOME. Nothing was profiled." in said
    assert "trace-moe:" not in err
    assert "Traceback" not in err + said


@pytest.mark.slow
@pytest.mark.faults
def test_a_killed_profile_goes_on_and_loses_at_most_a_part(
    tmp_path: Path, asked: ProfileConfig, expected: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "killed"
    victim = start(tmp_path, "killed", asked, slow=0.1)

    def far_enough() -> bool:
        assert victim.poll() is None, victim.communicate()
        return "retain-counts-000002" in shards(home)

    until(far_enough, "three parts of the second side", seconds=200)
    victim.send_signal(signal.SIGKILL)
    assert victim.wait(timeout=30) == -signal.SIGKILL
    victim.communicate()
    before = shards(home)
    written: list[str] = []
    write = Shards.write

    def listed(self: Shards, name: str, arrays: Arrays) -> None:
        written.append(name)
        write(self, name, arrays)

    monkeypatch.setattr(Shards, "write", listed)
    said: list[str] = []
    folder, was_there = ProfileAnswer(asked).get(ignore_progress, home, say=said.append)
    assert not was_there
    assert said == ["Resuming: finished parts of an interrupted profile found."]
    # Nothing that was finished is computed again; what was in hand when it died, is.
    assert not set(written) & before
    assert not any(name.startswith("forget") for name in written)
    counted = {name for name in before | set(written) if name.startswith("retain-counts")}
    assert len(counted) >= 8
    assert_same_profile(Profile.load(folder), expected, bits=True)
    assert not shards(home)


SHORT = """
import resource, sys
import psutil
from trace_engine.cli import main
from trace_engine.runs import profiles
profile = profiles.profile_in_parts
def with_little_left(*what):
    taken = psutil.Process().memory_info().vms
    resource.setrlimit(resource.RLIMIT_AS, (taken + 120 * 2**20, -1))
    return profile(*what)
profiles.profile_in_parts = with_little_left
sys.exit(main())
"""


@pytest.mark.slow
@pytest.mark.faults
def test_memory_that_really_runs_out_while_profiling_is_one_sentence(tmp_path: Path) -> None:
    text = "\n\n".join(f"{n} " + "garden rose poison " * 30 for n in range(60))
    for side in ("forget", "retain"):
        (tmp_path / f"{side}.txt").write_text(text.replace("0", side))
    (tmp_path / "child.py").write_text(SHORT)
    words = ["profile", "--model", str(tiny_olmoe(hidden=128, experts=16, top_k=8))]
    words += ["--forget", str(tmp_path / "forget.txt"), "--retain", str(tmp_path / "retain.txt")]
    words += ["--permutations", "99", "--device", "cpu", "--tokens-per-batch", "60000"]
    ended = subprocess.run(
        [sys.executable, str(tmp_path / "child.py"), *words],
        env=os.environ | {"TRACE_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=110,
    )
    last = ended.stderr.splitlines()[-1]
    assert ended.returncode == 2, ended.stderr
    assert "memory ran out while profiling, where a batch of 60,000 tokens takes about" in last
    assert "raise this process's limit (ulimit -v), lower tokens_per_batch" in last
    assert "Traceback" not in ended.stderr


def test_fewer_processes_than_asked_for_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    ended: list[bool] = []
    monkeypatch.setattr(dist, "rendezvous", lambda *args: iter([(dist.HashStore(), 0, 2)]))
    monkeypatch.setattr("trace_engine.routing.workers._GRACE_SECONDS", 0.0)
    monkeypatch.setattr("trace_engine.routing.workers.signal.signal", lambda *_: None)
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
