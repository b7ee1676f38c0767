"""Jobs of causal evidence: a folder each, named by what was asked, filled by a process of its own.

The same settings of the same files are one job: asking again finds it, at work or done, and goes on
with one that ended before it was done. A held lock means that its process lives. Loads no torch; it
accepts that a job says nothing about files that a hub or a folder of questions holds.
"""

import argparse
import contextlib
import hashlib
import json
import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from trace_engine.bundled import PACK, resolve_source
from trace_engine.causal.settings import CausalConfig, parse_causal
from trace_engine.disk import (
    Stamp,
    free_last_words,
    read_json,
    reserve_last_words,
    saying_when_full,
    stamp,
    when_full,
    write_json,
    write_json_quickly,
)
from trace_engine.errors import RunError, TraceError
from trace_engine.exhaustion import ran_out
from trace_engine.formats import FIELD, require_known
from trace_engine.progress import Progress, ProgressCallback
from trace_engine.runs.asking import write_asked
from trace_engine.runs.detach import start_detached
from trace_engine.runs.lock import FileLock, LockedError, is_locked
from trace_engine.runs.places import subfolder
from trace_engine.runs.process import ProcessName
from trace_engine.runs.queue import slot
from trace_engine.runs.stopping import StopFlag, StopRequestedError

FORMAT = 1
BUNDLED = PACK / "scan"
"""The scan that comes along: of the bundled model, by the bundled profile, with the defaults."""
FOLDER, KEPT = "evidence", "ablations"
WORKER = [sys.executable, "-X", "faulthandler", "-m", "trace_engine.runs.evidence"]
FINAL_STATES = ("done", "stopped", "failed")
_SILENT = "The process ended without a word: killed, often out of memory. Start it again."
_LOST = "It was done, but its result is missing or damaged. Start it again."
State = Literal["none", "running", "done", "stopped", "failed", "interrupted"]
Perform = Callable[[CausalConfig, Path | None, ProgressCallback], Any]


@dataclass(frozen=True, slots=True)
class EvidenceState:
    """How far a job is."""

    state: State
    message: str
    """Why it ended otherwise than done; empty while it works."""
    progress: dict[str, Any] | None
    folder: Path

    @property
    def bundled(self) -> bool:
        """Whether it came along and was not computed here."""
        return self.folder == BUNDLED

    @property
    def result(self) -> dict[str, Any] | None:
        """What it found, as the result's `to_dict`; None before it is done."""
        return read_json(self.folder / "result.json") if self.state == "done" else None


def evidence_folder(config: CausalConfig, home: Path | None = None) -> Path:
    """Where the job of these settings lies, or would."""
    return subfolder(FOLDER, home) / _key(config)


def evidence_state(config: CausalConfig, home: Path | None = None) -> EvidenceState:
    """Look at the job of these settings. Raises RunError where a newer version wrote it."""
    folder = evidence_folder(config, home)
    locked = is_locked(folder / "lock")
    if not locked and not os.path.lexists(folder / "status.json"):
        if _is_bundled(config):
            return EvidenceState("done", "", None, BUNDLED)
        return EvidenceState("none", "", None, folder)
    told = _told(folder)
    if not locked and told.get("state") not in FINAL_STATES:
        told = _told(folder)  # it may have ended between the two looks
    state: Any = told.get("state")
    message = str(told.get("message", ""))
    if state not in FINAL_STATES:
        state = "running" if locked else "interrupted"
        message = "" if locked else _SILENT
    elif state == "done" and not _has_result(folder):
        state, message = "interrupted", _LOST
    progress = _progress(folder) if state == "running" else None
    return EvidenceState(state, message, progress, folder)


def _told(folder: Path) -> dict[str, Any]:
    """The job's status, empty where it is missing or damaged: such a job is made again. Raises
    RunError where a newer version wrote it, or where a folder is in its place."""
    path = folder / "status.json"
    try:
        found = read_json(path)
    except RunError:
        if path.is_dir():  # nothing can be written there either
            raise
        return {}
    if not isinstance(found, dict):
        return {}
    require_known(found, FORMAT, "This job of causal evidence", RunError)
    return found


def _progress(folder: Path) -> dict[str, Any] | None:
    try:
        found = read_json(folder / "progress.json")
    except RunError:  # damaged, and at work all the same
        return None
    return found if isinstance(found, dict) else None


def _has_result(folder: Path) -> bool:
    path = folder / "result.json"
    try:
        return _is_mapping(path, stamp(path))
    except RunError:
        return False


@lru_cache(maxsize=256)
def _is_mapping(path: Path, stamp: Stamp | None) -> bool:
    """Once for as long as the file stays as it is: a page looks at every click."""
    return isinstance(read_json(path), dict)


def start_evidence(
    config: CausalConfig, home: Path | None = None, *, owner: str | None = None
) -> EvidenceState:
    """Begin, or go on with, the job of these settings; one that works or is done is left alone.

    `owner` is a label of the person who asks. Raises RunError when no process starts.
    """
    found = evidence_state(config, home)
    if found.state in ("running", "done"):
        return found
    folder = found.folder
    with saying_when_full(folder.parent):
        folder.mkdir(mode=0o700, exist_ok=True)
    try:
        lock = FileLock.take(folder / "lock", "This job is at work already.")
    except LockedError:
        return evidence_state(config, home)
    with lock.handing_over():
        done = _told(folder).get("state") == "done" and _has_result(folder)
    if done:  # since the look, by another tab's press
        lock.release()
        return evidence_state(config, home)
    with lock.handing_over():
        (folder / "progress.json").unlink(missing_ok=True)
        reserve_last_words(folder)
        write_json(folder / "settings.json", config.model_dump(mode="json"))
        write_asked(folder / "launch.json", owner, **{FIELD: FORMAT})
        _tell(folder, "running")
        command = [*WORKER, str(folder), "--home", str(folder.parent.parent)]
        try:
            start_detached(command, lock, folder / "log.txt", Path.cwd())
        except OSError as error:
            with contextlib.suppress(RunError):
                _end(folder, "failed", f"its process could not be started ({error}).")
            raise RunError(f"The job could not be started ({error}).") from error
    return evidence_state(config, home)


def stop_evidence(config: CausalConfig, home: Path | None = None) -> None:
    """Ask a job to end; experts that were measured stay. Raises RunError when it is not at work."""
    found = evidence_state(config, home)
    told = _told(found.folder)
    if found.state != "running":
        raise RunError(f"This job is {found.state}; there is nothing to stop.")
    if not isinstance(told.get("process"), dict):
        raise RunError("This job is only just starting. Stop it in a moment.")
    ProcessName.of(told["process"]).terminate()


def _is_bundled(config: CausalConfig) -> bool:
    """Whether the scan that comes along answers these settings."""
    asked = (
        config.profile is not None
        and Path(config.profile).resolve() == (PACK / "profile").resolve()
    )
    usual = config.model_copy(update={"profile": None}) == CausalConfig()
    return asked and usual and (BUNDLED / "result.json").is_file()


def _key(config: CausalConfig) -> str:
    files = []
    sources = [config.questions, config.profile]
    sources += [m.source for m in (config.model, config.before, config.reference) if m is not None]
    for source in filter(None, sources):
        path = Path(resolve_source(source))
        inner = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
        files += [[str(p), p.stat().st_mtime_ns, p.stat().st_size] for p in inner if p.is_file()]
    text = json.dumps([config.model_dump(mode="json"), files], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _tell(folder: Path, state: str, message: str = "", **more: Any) -> None:
    write_json(folder / "status.json", {FIELD: FORMAT, "state": state, "message": message} | more)


def _end(folder: Path, state: str, message: str = "") -> None:
    free_last_words(folder)
    _tell(folder, state, message)


def default_perform(config: CausalConfig, folder: Path | None, report: ProgressCallback) -> Any:
    """What the settings ask for."""
    from trace_engine.causal.perform import perform  # torch and transformers: seconds

    return perform(config, folder, report)


def work(
    folder: Path, stop: StopFlag, home: Path | None = None, perform: Perform = default_perform
) -> None:
    """Do a job and record how it ended. The caller holds its lock."""

    def report(progress: Progress) -> None:
        stop.check()
        write_json_quickly(folder / "progress.json", progress.to_dict())

    def waiting(ahead: int) -> None:
        write_json_quickly(
            folder / "progress.json",
            Progress(f"waiting, {ahead} ahead", 0, 1, "jobs", None, None).to_dict(),
        )

    try:
        _tell(folder, "running", process=ProcessName.own().to_dict())
        config = parse_causal(read_json(folder / "settings.json"))
        with slot("evidence", stop, waiting, home):
            found = perform(config, subfolder(KEPT, home), report)
            write_json(folder / "result.json", found.to_dict())
        _end(folder, "done")
    except StopRequestedError:
        _end(folder, "stopped", "Stopped. Experts that were measured are kept: go on any time.")
    except TraceError as error:
        _end(folder, "failed", str(error))
    except Exception as error:
        traceback.print_exc()
        _end(folder, "failed", _explained(folder, error))


def _explained(folder: Path, error: Exception) -> str:
    full = when_full(error, folder)
    if full is not None:
        return full
    if ran_out(error):
        return "Memory ran out. Close other programs, or take a machine with more."
    return f"An unexpected {type(error).__name__}; this is a bug. The traceback is in log.txt."


def main(arguments: list[str] | None = None) -> int:
    """Entry of the detached process; `status.json` says how the job ended."""
    stop = StopFlag()
    stop.install()
    parser = argparse.ArgumentParser(prog="python -m trace_engine.runs.evidence")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--lock", type=int, required=True, help="open file that holds the lock")
    options = parser.parse_args(arguments)
    with (
        FileLock.inherit(options.lock, options.folder / "lock"),
        contextlib.suppress(KeyboardInterrupt),
    ):
        work(options.folder, stop, options.home)
    return 0


if __name__ == "__main__":
    sys.exit(main())
