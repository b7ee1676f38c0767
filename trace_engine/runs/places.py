"""Where runs, profiles, uploads and slots live under one home, and the names that may appear there.

Ids are made here, from the clock and chance; what a person types is a label inside the settings and
never part of a path. It accepts that ids are ugly.
"""

import os
import re
import secrets
import time
from pathlib import Path

from trace_engine.bundled import bundled_profile
from trace_engine.disk import write_text
from trace_engine.errors import InputError, RunError
from trace_engine.sets import DocumentSet, to_jsonl

_RUN_ID = re.compile(r"[0-9]{8}-[0-9]{6}-[0-9a-f]{6}")
_KEY = re.compile(r"[0-9a-f]{16,64}")


def home(path: Path | None = None) -> Path:
    """The folder of runs, profiles and uploads: `path`, else TRACE_HOME, else ~/.trace-moe; made
    0700. Raises InputError for a `~` that stands for nobody."""
    asked = path or os.environ.get("TRACE_HOME")
    try:
        folder = Path(asked or "~/.trace-moe").expanduser().absolute()
    except RuntimeError:
        # Pages show it, to visitors too: without the value.
        whose = "it" if path else "TRACE_HOME" if asked else "~/.trace-moe"
        raise InputError(
            f"The data folder is not known: {whose} starts with ~, and this machine knows no home "
            "folder for it. Set TRACE_HOME to a whole path."
        ) from None
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def subfolder(name: str, base: Path | None = None) -> Path:
    """A folder of the home (`runs`, `profiles`, `sets`, `slots`), made when missing."""
    folder = home(base) / name
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def new_run_id() -> str:
    """A fresh id, sortable by time (UTC) to the second: 20260314-150926-a1b2c3."""
    return time.strftime("%Y%m%d-%H%M%S", time.gmtime()) + "-" + secrets.token_hex(3)


def is_run_id(name: str) -> bool:
    """Whether a name has the form of an id that `new_run_id` makes."""
    return _RUN_ID.fullmatch(name) is not None


def run_path(run_id: str, base: Path | None = None) -> Path:
    """The directory of an existing run. Raises RunError for anything but the id of one."""
    if not isinstance(run_id, str) or not is_run_id(run_id):
        shown = repr(run_id) if len(repr(run_id)) <= 60 else repr(run_id)[:60] + "…"
        raise RunError(f"{shown} is not a run id; `trace-moe runs list` shows the ids there are.")
    path = subfolder("runs", base) / run_id
    if path.is_symlink() or not path.is_dir():
        raise RunError(f"There is no run {run_id}; `trace-moe runs list` shows the ids there are.")
    return path


def profile_path(key: str, base: Path | None = None) -> Path:
    """Where the profile with this content address is, or would be. Raises RunError for a bad
    key."""
    if not _KEY.fullmatch(key):
        raise RunError(f"{key[:60]!r} is not a profile key.")
    return subfolder("profiles", base) / key


def find_profile(key: str, base: Path | None = None) -> Path | None:
    """The folder of the cached or bundled profile with this key, or None.

    Raises RunError when it is not a key.
    """
    path = profile_path(key, base)
    return path if path.is_dir() else bundled_profile(key)


def store_set(documents: DocumentSet, base: Path | None = None) -> str:
    """Keep a set (an upload, text from the editor) under its fingerprint; returns the path to use
    as source.

    The file is JSON lines, readable by its owner only; the same set stored twice is one file.
    """
    path = subfolder("sets", base) / f"{documents.fingerprint}.jsonl"
    if not path.exists():
        write_text(path, to_jsonl(documents.documents).decode(), mode=0o600)
    return str(path)
