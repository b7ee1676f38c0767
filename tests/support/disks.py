"""Disks that are really full: a small file system of their own, so that every call finds it so."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

FILLER = "filler"


@contextmanager
def small(folder: Path, size: str) -> Iterator[Path]:
    """A new disk at `folder`; the test is skipped where nobody may mount one."""
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(words, check=False).returncode:
        pytest.skip("mounting a small disk needs root")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path, but: int = 0) -> None:
    """Somebody else writes until it is full, up to so many bytes."""
    with (disk / FILLER).open("wb", buffering=0) as file:
        with suppress(OSError):
            while True:
                file.write(b"x" * 4096)
        os.truncate(disk / FILLER, max(0, file.tell() - but))


def make_room(disk: Path) -> None:
    """They clean up."""
    (disk / FILLER).unlink(missing_ok=True)
