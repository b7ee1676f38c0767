"""Exports that a page asks for: written under the home by a process of their own.

A page must not copy gigabytes nor open a model; it starts this and looks. The finished folder is
the state `done`, a held lock is `running`. It accepts one export per run and form: a second press
opens the first.
"""

import argparse
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from trace_engine import formats
from trace_engine.disk import read_json, when_full, write_json
from trace_engine.errors import RunError, TraceError
from trace_engine.export.card import Form
from trace_engine.export.folder import check_exportable, export_run
from trace_engine.runs.asking import Asked, read_asked, write_asked
from trace_engine.runs.detach import start_detached
from trace_engine.runs.directory import RunDirectory
from trace_engine.runs.lock import FileLock, LockedError, is_held, is_locked
from trace_engine.runs.places import subfolder

WORKER = [sys.executable, "-m", "trace_engine.export.background"]


@dataclass(frozen=True, slots=True)
class ExportState:
    """How far a run's export is."""

    state: Literal["none", "running", "done", "failed"]
    folder: Path
    """Where it lies, or will."""
    message: str = ""
    """Why it failed."""


def export_state(run: RunDirectory, form: Form, home: Path | None = None) -> ExportState:
    """Look at a run's export without waiting."""
    folder = subfolder("exports", home) / f"{run.id}-{form}"
    lock, note = _beside(folder)
    if folder.is_dir():
        return ExportState("done", folder)
    if is_locked(lock):
        return ExportState("running", folder)
    told = read_json(note)
    if isinstance(told, dict):
        try:
            formats.require_known(told, formats.EXPORT_JOB, f"The note on {folder.name}", RunError)
        except RunError as error:
            return ExportState("failed", folder, str(error))
        if "message" in told:
            return ExportState("failed", folder, str(told["message"]))
    left = lock.exists()
    if folder.is_dir():  # it came while the rest was looked at
        return ExportState("done", folder)
    silent = "The export ended without a word. Start it again."
    return ExportState("failed", folder, silent) if left else ExportState("none", folder)


def start_export(
    run: RunDirectory, form: Form, home: Path | None = None, *, owner: str | None = None
) -> None:
    """Begin to write a run's export under the home; nothing happens while one is being written or
    is there. `owner` is a label of the person who asks. Raises RunError when the run cannot be
    exported in this form."""
    check_exportable(run, form)
    if export_state(run, form, home).state in ("running", "done"):
        return
    folder = subfolder("exports", home) / f"{run.id}-{form}"
    path, note = _beside(folder)
    try:
        lock = FileLock.take(path, "This export is being written.")
    except LockedError:
        return
    command = [*WORKER, str(run.path), str(folder), form]
    with lock.handing_over():
        if folder.is_dir():  # since the look, by another tab's press
            path.unlink(missing_ok=True)
            lock.release()
            return
        try:
            note.unlink(missing_ok=True)
            write_asked(note, owner, **{formats.FIELD: formats.EXPORT_JOB})
            start_detached(command, lock, folder.with_name(f".{folder.name}.log"), Path.cwd())
        except (OSError, RunError) as error:
            # Left there, it would look like an export that died.
            note.unlink(missing_ok=True)
            path.unlink()
            if isinstance(error, RunError):
                raise
            what = f"The export of run {run.id} could not be started"
            raise RunError(f"{what} ({error}).") from error


def exports_at_work(home: Path | None = None) -> list[tuple[str, Asked]]:
    """What is being written, as `RUN-FORM`, and who asked for it."""
    found = []
    for lock in sorted(subfolder("exports", home).glob(".*.lock")):
        if is_held(lock):
            name = lock.stem.removeprefix(".")
            found.append((name, read_asked(_beside(lock.with_name(name))[1], lock)))
    return found


def _beside(folder: Path) -> tuple[Path, Path]:
    """Lock and note of an export."""
    return folder.with_name(f".{folder.name}.lock"), folder.with_name(f".{folder.name}.json")


def _note_failure(note: Path, message: str) -> None:
    write_json(note, {formats.FIELD: formats.EXPORT_JOB, "message": message})


def main(arguments: list[str] | None = None) -> int:
    """Entry of the detached process: writes the folder, or the sentence why it could not."""
    parser = argparse.ArgumentParser(prog="python -m trace_engine.export.background")
    parser.add_argument("run", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("form", choices=get_args(Form))
    parser.add_argument("--lock", type=int, required=True, help="open file that holds the lock")
    options = parser.parse_args(arguments)
    path, note = _beside(options.folder)
    lock = FileLock.inherit(options.lock, path)
    try:
        export_run(options.run, options.folder, options.form)
    except TraceError as error:
        _note_failure(note, str(error))
        return 1
    except Exception as error:
        traceback.print_exc()
        bug = f"An unexpected {type(error).__name__}; the traceback is in {path.stem}.log."
        _note_failure(note, when_full(error, note.parent) or bug)
        return 1
    # A folder that is deleted later must not look like an export that died.
    note.unlink(missing_ok=True)
    path.unlink()
    lock.release()
    return 0


if __name__ == "__main__":
    sys.exit(main())
