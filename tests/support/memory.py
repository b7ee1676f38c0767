"""A limit of memory that the kernel enforces by its killer, on the process that is put under it."""

import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

_CGROUPS = Path("/sys/fs/cgroup")
_SECONDS = 10.0


@dataclass(frozen=True)
class Group:
    """A control group with a limit, of either version."""

    path: Path

    def hold(self, pid: int) -> None:
        """What the process takes from now on counts."""
        (self.path / "cgroup.procs").write_text(str(pid))

    def killed(self) -> int:
        """How many the kernel killed for going over the limit."""
        old = self.path / "memory.oom_control"
        told = (old if old.exists() else self.path / "memory.events").read_text()
        return int(dict(line.split() for line in told.splitlines())["oom_kill"])


def _parent() -> Path:
    """Where a group with a limit may be made: below this process's own, in version 1."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, own = line.split(":", 2)
        if "memory" in controllers.split(","):
            there = _CGROUPS / "memory" / own.lstrip("/")
            return there if there.is_dir() else _CGROUPS / "memory"
    return _CGROUPS


@contextmanager
def limited(size: int) -> Iterator[Group]:
    """A group of so many bytes, without swap; skips where nobody may make one."""
    group = Group(_parent() / f"trace-test-{os.getpid()}-{secrets.token_hex(4)}")
    try:
        group.path.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made here ({error.strerror})")
    try:
        first = group.path / "memory.limit_in_bytes"
        limit = first if first.exists() else group.path / "memory.max"
        if not limit.exists():
            pytest.skip("control groups here have no limit of memory")
        limit.write_text(str(size))
        for name, most in (("memory.memsw.limit_in_bytes", size), ("memory.swap.max", 0)):
            if (group.path / name).exists():
                (group.path / name).write_text(str(most))
        yield group
    finally:
        end = time.monotonic() + _SECONDS
        while group.path.exists() and time.monotonic() < end:
            with suppress(OSError):  # a process that died a moment ago is still in it
                group.path.rmdir()
