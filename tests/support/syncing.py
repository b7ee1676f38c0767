"""What a loss of power would leave: which bytes and which names have reached the disk.

The system calls that write are wrapped, and really done. A file is safe while it is as it was when
it was last synced; a folder is safe when no name but a temporary one appeared in it since. Accepted
trade-off: what Python writes is seen by a file's size and time of change, and a name that `open`
makes is missed, which is why a new folder counts as unsafe until it is synced itself.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trace_engine.disk import is_leftover

QUICK = "progress.json"
"""May be lost, and is replaced without waiting for the disk."""


def _stamp(path: Path) -> tuple[int, int, int]:
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


class Disk:
    """Knows what is durable; `look(name)` is called just before each rename to it and removal."""

    def __init__(self, look: Callable[[Path], None] = lambda path: None) -> None:
        self.look = look
        self.order: list[tuple[str, str]] = []
        """Syncs, renames and removals, each with the name that it was of."""
        self._files: set[tuple[int, int, int]] = set()
        self._unsafe: set[tuple[int, str]] = set()
        """Names, each with the inode of its folder; a new folder has one that stands for all."""

    def bytes_are_safe(self, path: Path) -> bool:
        return _stamp(path) in self._files

    def names_are_safe(self, folder: Path) -> bool:
        own = folder.stat().st_ino
        return not any(inode == own and not is_leftover(name) for inode, name in self._unsafe)

    def all_is_safe(self, folder: Path) -> bool:
        """Everything in a folder, and its names."""
        return self.names_are_safe(folder) and all(
            self.names_are_safe(path) if path.is_dir() else self.bytes_are_safe(path)
            for path in folder.rglob("*")
        )

    def watch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Wrap the calls of this process."""
        for name, watched in {
            "fsync": self._fsync,
            "replace": self._rename,
            "rename": self._rename,
            "mkdir": self._mkdir,
            "open": self._open,
            "unlink": self._remove,
            "remove": self._remove,
            "rmdir": self._remove,
        }.items():
            monkeypatch.setattr(os, name, self._watched(watched, name, getattr(os, name)))

    def _watched(
        self, watched: Callable[..., Any], name: str, call: Callable[..., Any]
    ) -> Callable[..., Any]:
        def do(*values: Any, **more: Any) -> Any:
            if more.get("dir_fd") is not None:  # rmtree's, below a name that it was asked for
                return call(*values, **more)
            return watched(name, lambda: call(*values, **more), *values)

        return do

    def _fsync(self, name: str, call: Callable[[], Any], descriptor: int) -> None:
        call()
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        self.order.append((name, path.name))
        if path.is_dir():
            own = path.stat().st_ino
            self._unsafe = {(inode, name) for inode, name in self._unsafe if inode != own}
        else:
            self._files.add(_stamp(path))

    def _rename(self, _: str, call: Callable[[], Any], source: Any, target: Any) -> None:
        source, target = Path(source), Path(target)
        self.look(target)
        self.order.append(("rename", target.name))
        if target.name != QUICK:
            safe = self.all_is_safe if source.is_dir() else self.bytes_are_safe
            assert safe(source), f"{target.name} appears before all of it is on the disk"
            self._unsafe.add((target.parent.stat().st_ino, target.name))
        call()

    def _mkdir(self, _: str, call: Callable[[], Any], path: Any, *__: Any) -> None:
        call()
        path = Path(path)
        self._unsafe |= {(path.stat().st_ino, ""), (path.parent.stat().st_ino, path.name)}

    def _open(self, _: str, call: Callable[[], Any], path: Any, flags: int, *__: Any) -> Any:
        new = flags & os.O_CREAT and not Path(path).exists()
        found = call()
        if new:
            self._unsafe.add((Path(path).parent.stat().st_ino, Path(path).name))
        return found

    def _remove(self, _: str, call: Callable[[], Any], path: Any) -> None:
        if Path(path).exists():
            self.look(Path(path))
            self.order.append(("remove", Path(path).name))
        call()
