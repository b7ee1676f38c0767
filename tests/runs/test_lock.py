"""The lock tells a live process, survives exec, and readers never disturb it."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from trace_engine.runs.lock import FileLock, LockedError, is_locked

HOLDER = """
import sys
from pathlib import Path
from trace_engine.runs.lock import FileLock
path = Path(sys.argv[1])
lock = FileLock.inherit(int(sys.argv[2]), path) if len(sys.argv) > 2 else FileLock.take(path, "no")
print("held", flush=True)
sys.stdin.read()
"""


def hold(path: Path, *more: str, fds: tuple[int, ...] = ()) -> "subprocess.Popen[str]":
    child = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path), *more],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        pass_fds=fds,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "held\n"
    return child


def test_take_refuse_release(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert not is_locked(path)
    with FileLock.take(path, "first"):
        assert is_locked(path)
        with pytest.raises(LockedError, match="taken, sorry"):
            FileLock.take(path, "taken, sorry")
    assert not is_locked(path)


def test_one_that_is_leaving_is_waited_for_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    child = hold(path)
    with pytest.raises(LockedError, match="at work"):
        FileLock.take_over(path, "at work", lambda: False)
    looks: list[bool] = []

    def leaving() -> bool:
        looks.append(is_locked(path))
        if len(looks) == 3:
            child.communicate()  # its end
        return True

    with FileLock.take_over(path, "at work", leaving):
        assert is_locked(path)
    assert looks == [True, True, True]


@pytest.mark.fault_row(1)
@pytest.mark.faults
def test_kill_9_frees_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    child = hold(path)
    assert is_locked(path)
    child.kill()
    assert child.wait() == -9
    assert not is_locked(path)
    child.communicate()


@pytest.mark.faults
def test_a_lock_is_handed_on_without_a_gap(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    lock = FileLock.take(path, "")
    child = hold(path, str(lock.descriptor), fds=(lock.descriptor,))
    lock.disown()
    assert is_locked(path)
    child.communicate()
    assert child.returncode == 0
    assert not is_locked(path)


def test_inherit_refuses_a_descriptor_of_another_file(tmp_path: Path) -> None:
    with (
        FileLock.take(tmp_path / "a", "") as other,
        FileLock.take(tmp_path / "b", ""),
        pytest.raises(LockedError, match="was not handed the lock"),
    ):
        FileLock.inherit(other.descriptor, tmp_path / "b")
    with pytest.raises(LockedError, match="was not handed the lock"):
        FileLock.inherit(999, tmp_path / "b")


@pytest.mark.fault_row(11)
def test_readers_never_keep_a_writer_out(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.touch()
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            is_locked(path)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    try:
        for _ in range(100):
            FileLock.take(path, "a reader kept the writer out").release()
    finally:
        done.set()
        for reader in readers:
            reader.join()
