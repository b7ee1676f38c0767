"""Who asked for a background job that is no run, and when: a small file beside its lock.

Whoever starts the job writes it, under the lock, at every start. It accepts a file of an earlier
version that says neither.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trace_engine.disk import read_json, write_json
from trace_engine.errors import RunError


@dataclass(frozen=True, slots=True)
class Asked:
    owner: str | None
    """A label of the person; None where nobody had to say who they are."""
    began: float
    """Seconds since the epoch."""


def write_asked(path: Path, owner: str | None, **more: Any) -> None:
    """Note who asks now; `owner` None keeps whom the file names."""
    known = _known(path)
    write_json(path, known | more | {"owner": owner or known.get("owner"), "began": time.time()})


def read_asked(path: Path, lock: Path) -> Asked:
    """What is noted; an earlier version's job began when its lock was made."""
    known = _known(path)
    owner, began = known.get("owner"), known.get("began")
    if isinstance(began, bool) or not isinstance(began, int | float):
        try:
            began = lock.stat().st_mtime
        except OSError:
            began = time.time()
    return Asked(owner if isinstance(owner, str) else None, began)


def _known(path: Path) -> dict[str, Any]:
    try:
        found = read_json(path)
    except RunError:  # damaged: nobody's, and at work all the same
        return {}
    return found if isinstance(found, dict) else {}
