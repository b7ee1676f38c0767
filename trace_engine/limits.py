"""Memory limits below the machine's own: control groups (v1 and v2) and the address space that a
shell's `ulimit -v` leaves.

Trade-off: reads the kernel's files where they usually are; a limit kept elsewhere is not seen, and
then an allocation fails later, with a sentence all the same.
"""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path

import psutil  # type: ignore[import-untyped]

_CGROUP = Path("/sys/fs/cgroup")
_GROUPS = Path("/proc/self/cgroup")
_UNLIMITED = 2**60
"""v1 writes the largest page-aligned number instead of a word."""
_FILES = {
    2: ("memory.max", "memory.current", "inactive_file"),
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}
"""Limit, use, and the entry of memory.stat that holds file cache, by version."""


def container_room() -> list[int]:
    """Bytes left under each control group that this process is in, its parents included."""
    found = (_room(folder, version) for folder, version in dict.fromkeys(_folders()))
    return [room for room in found if room is not None]


def address_room() -> int | None:
    """Bytes of address space left under RLIMIT_AS; None where it is unlimited."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return None
    return max(0, limit - int(psutil.Process().memory_info().vms))


def _folders() -> Iterator[tuple[Path, int]]:
    """The process's groups and those above them, each with its version."""
    try:
        lines = _GROUPS.read_text().splitlines()
    except OSError:
        lines = ["0::/"]
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        version = 1 if controllers else 2
        for mount in [_CGROUP / "memory"] if version == 1 else [_CGROUP, _CGROUP / "unified"]:
            # A container sees its own group as the mount, whatever the path says.
            inside = mount / path.lstrip("/")
            yield from ((f, version) for f in (inside, *inside.parents) if f.is_relative_to(mount))


def _room(folder: Path, version: int) -> int | None:
    limit_file, used_file, cache_name = _FILES[version]
    try:
        limit = (folder / limit_file).read_text().strip()
        if limit == "max" or int(limit) >= _UNLIMITED:
            return None
        used = int((folder / used_file).read_text())
        stats = (folder / "memory.stat").read_text().split()
        # File cache counts as used, but is given back when memory is asked for.
        cache = int(stats[stats.index(cache_name) + 1])
    except (OSError, ValueError, IndexError):
        return None
    return max(0, int(limit) - used + cache)
