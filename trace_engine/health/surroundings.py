"""Checks that need no torch: Python and packages, folders and locks, disk, memory, runs.

What is enough is our choice, from the bundled model: a run of it writes about 150 MB and takes
about 1 GB of memory.
"""

import os
import platform
import secrets
import stat
import sys
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import psutil  # type: ignore[import-untyped]
from packaging.requirements import Requirement

from trace_engine.bundled import PACK
from trace_engine.disk import read_json, sha256_file
from trace_engine.errors import TraceError
from trace_engine.health.machine import KINDS
from trace_engine.health.report import Check, State, looked
from trace_engine.limits import address_room, container_room
from trace_engine.runs import home, list_runs
from trace_engine.runs.lock import FileLock, is_locked
from trace_engine.runs.queue import capacity
from trace_engine.spelling import size
from trace_engine.threads import usable_processors

OLDEST_PYTHON = (3, 11)
DISTRIBUTION = "trace-moe"
SHOWN_PACKAGES = ("torch", "transformers", "streamlit")
DISK = (512 * 2**20, 5 * 2**30)
MEMORY = (2**30, 4 * 2**30)
"""Bytes: below the first it is a fault, below the second a warning."""


def surroundings(base: Path | None) -> Iterator[Check]:
    """All of them, in the order a person would repair them."""
    for name, look in (
        ("Python", python),
        ("Packages", packages),
        ("Bundled pack", bundled_pack),
        ("Data folder", lambda: data_folder(base)),
        ("Temporary folder", temporary_folder),
        ("Model cache", model_cache),
        ("Disk", lambda: disk(base)),
        ("Memory", memory),
        ("Processors", processors),
        ("Workers", workers),
        ("Runs", lambda: runs(base)),
    ):
        yield looked(name, look)


def python() -> Check:
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}."
    if sys.version_info < OLDEST_PYTHON:
        return Check("Python", "fault", found, "Install Python 3.11 or newer and run `make app`.")
    if sys.platform == "win32":
        return Check("Python", "fault", found, "Runs need POSIX locks: use Linux, macOS or WSL.")
    return Check("Python", "ok", found)


def packages() -> Check:
    """Installed versions against the tested ranges of requirements.txt."""
    name, advice = "Packages", "Install with `pip install -c constraints.txt -r requirements.txt`."
    try:
        declared = [Requirement(text) for text in metadata.requires(DISTRIBUTION) or []]
    except metadata.PackageNotFoundError:
        found = f"{DISTRIBUTION} is not installed, so the tested versions are not known."
        return Check(name, "warning", found, "Install it with `pip install --no-deps -e .`.")
    wanted = [need for need in declared if need.marker is None or need.marker.evaluate()]
    missing, outside, shown = [], [], []
    for need in wanted:
        try:
            version = metadata.version(need.name)
        except metadata.PackageNotFoundError:
            missing.append(need.name)
            continue
        if not need.specifier.contains(version, prereleases=True):
            outside.append(f"{need.name} {version} (tested: {need.specifier})")
        if need.name in SHOWN_PACKAGES:
            shown.append(f"{need.name} {version}")
    if missing:
        return Check(name, "fault", f"Missing: {', '.join(missing)}.", advice)
    if outside:
        return Check(name, "warning", f"Outside the tested range: {', '.join(outside)}.", advice)
    found = f"All {len(wanted)} are in their tested ranges ({', '.join(shown)})."
    return Check(name, "ok", found)


def bundled_pack() -> Check:
    """Whether the bundled sets and questions are those of the manifest."""
    name, advice = "Bundled pack", "Take the files from the repository or the package again."
    try:
        recorded = read_json(PACK / "manifest.json")
        if recorded is None:
            return Check(name, "fault", "There is no manifest.json.", advice)
        files = {str(file): str(entry["sha256"]) for file, entry in recorded["files"].items()}
    except TraceError as error:
        return Check(name, "fault", str(error), advice)
    except (AttributeError, KeyError, TypeError):
        found = "manifest.json is damaged: it does not say which files there are."
        return Check(name, "fault", found, advice)
    broken = [
        file
        for file, digest in files.items()
        if not (PACK / file).is_file() or sha256_file(PACK / file) != digest
    ]
    if broken:
        return Check(name, "fault", f"Missing or changed: {', '.join(broken)}.", advice)
    return Check(name, "ok", f"All {len(files)} files have their recorded hashes.")


def data_folder(base: Path | None) -> Check:
    """Whether runs can live under the home: writing, locking, and who can read it."""
    name = "Data folder"
    other = "Set TRACE_HOME to a folder of yours on a local disk."
    try:
        folder = home(base)
        probe = folder / f".doctor-{secrets.token_hex(4)}"
        try:
            with FileLock.take(probe, "busy"):
                holds = is_locked(probe)
        finally:
            probe.unlink(missing_ok=True)
    except TraceError as error:
        return Check(name, "fault", str(error), other)
    except OSError as error:
        where = error.filename or "The folder"
        return Check(name, "fault", f"{where} cannot be used ({error.strerror}).", other)
    if not holds:
        return Check(name, "fault", f"{folder}: its file system keeps no locks.", other)
    if stat.S_IMODE(folder.stat().st_mode) & 0o077:
        found = f"{folder} can be opened by other users of this machine, and holds texts of sets."
        return Check(name, "warning", found, f"chmod 700 {folder}")
    return Check(name, "ok", f"{folder} can be written, and locks hold there.")


def temporary_folder() -> Check:
    name, advice = "Temporary folder", "Set TMPDIR to a folder that can be written."
    try:
        folder = tempfile.gettempdir()
    except OSError as error:
        return Check(name, "fault", f"There is none ({error.strerror}).", advice)
    try:
        with tempfile.TemporaryFile() as file:
            file.write(b"x")
    except OSError as error:
        return Check(name, "fault", f"{folder} cannot be written ({error.strerror}).", advice)
    return Check(name, "ok", f"{folder} can be written.")


def model_cache() -> Check:
    """Where models of the hub are kept; only they need it."""
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE)
    offline = " The hub is switched off (HF_HUB_OFFLINE)." if constants.HF_HUB_OFFLINE else ""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not os.access(existing, os.W_OK | os.X_OK):
        found = f"{folder} cannot be written, so no model can be fetched from the hub.{offline}"
        return Check("Model cache", "warning", found, "Set HF_HOME to a folder of yours.")
    return Check("Model cache", "ok", f"{folder} can be written.{offline}")


def disk(base: Path | None) -> Check:
    try:
        free = psutil.disk_usage(str(home(base))).free
    except OSError as error:
        return Check("Disk", "fault", f"Free space is not known ({error.strerror}).")
    advice = "Delete runs that are not needed (`trace-moe runs delete`), or move TRACE_HOME."
    found = f"{size(free)} free for runs; each keeps two checkpoints of what it trains."
    return Check("Disk", _enough(free, DISK), found, advice if free < DISK[1] else "")


def memory() -> Check:
    free = min([int(psutil.virtual_memory().available), *container_room()])
    advice = "Close other programs, or raise the container's limit."
    limit = address_room()
    if limit is not None and limit < free:
        free, advice = limit, "Raise this shell's limit on memory (ulimit -v)."
    found = f"{size(free)} free. `trace-moe inspect MODEL` says what a model needs."
    return Check("Memory", _enough(free, MEMORY), found, advice if free < MEMORY[1] else "")


def _enough(free: int, bounds: tuple[int, int]) -> State:
    return "fault" if free < bounds[0] else "warning" if free < bounds[1] else "ok"


def processors() -> Check:
    return Check("Processors", "ok", f"{usable_processors()} usable.")


def workers() -> Check:
    """Whether the queue's size can be read."""
    try:
        found = ", ".join(f"{capacity(kind)} for {name}" for kind, name in KINDS.items())
    except TraceError as error:
        return Check("Workers", "fault", str(error), "Correct or remove TRACE_WORKERS.")
    return Check("Workers", "ok", f"At once: {found}.")


def runs(base: Path | None) -> Check:
    """Whether what was computed can be opened."""
    try:
        found = list_runs(base)
    except OSError as error:
        return Check("Runs", "fault", f"Runs cannot be listed ({error.strerror}).")
    damaged = [run for run in found if run.status.state == "damaged"]
    if damaged:
        told = "; ".join(f"{run.id}: {run.status.message}" for run in damaged[:3])
        advice = "Copy them from a backup, or delete them (`trace-moe runs delete`)."
        text = f"{len(damaged)} of {len(found)} cannot be opened. {told}"
        return Check("Runs", "warning", text, advice)
    return Check("Runs", "ok", f"{len(found)} on this machine, all can be opened.")
