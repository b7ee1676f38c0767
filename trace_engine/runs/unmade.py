"""Folders of launches that were killed before there was anything in them: removed by a later one.

Accepted trade-off: what stood still for ten minutes between its folder and its lock is taken for
dead, and its launch ends in an error.
"""

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

from trace_engine.disk import delete_folder
from trace_engine.errors import RunError
from trace_engine.runs.lock import FileLock
from trace_engine.runs.places import is_run_id

OLD_SECONDS = 600.0
"""A launch takes its lock within milliseconds of making its folder."""


def remove_unmade(folder: Path, unmade: Callable[[Path], bool]) -> None:
    """Remove what is `unmade` among the jobs in `folder`, old, and held by no process. What cannot
    be removed stays, and is in nobody's way."""
    for path in list(folder.iterdir()):
        with contextlib.suppress(OSError, RunError):
            if not is_run_id(path.name) or path.is_symlink() or not path.is_dir():
                continue
            if time.time() - path.stat().st_mtime < OLD_SECONDS or not unmade(path):
                continue
            with FileLock.take(path / "lock", "It is being made."):
                if unmade(path):
                    delete_folder(path)
