"""Audits that a page asks for: a process of their own under the home, which survives the page.

`HOME/audits/ID/` holds the settings, the state, and `report/`, the folder that the command would
have written. A held lock is `running`; a free one without a last word is `interrupted`, and the
same audit goes on from its finished parts. It loads no torch but in the process itself.
"""

import argparse
import contextlib
import shutil
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from trace_engine import formats
from trace_engine.audit.manifest import NAME
from trace_engine.audit.record import CONFIG
from trace_engine.audit.report_file import read_report
from trace_engine.audit.settings import AuditConfig, read_audit
from trace_engine.bundled import AUDIT, resolve_report
from trace_engine.config import to_yaml
from trace_engine.disk import (
    free_last_words,
    is_leftover,
    read_json,
    reserve_last_words,
    saying_when_full,
    sha256_file,
    when_full,
    write_json,
    write_json_quickly,
    write_text,
)
from trace_engine.errors import RunError, TraceError
from trace_engine.progress import Progress
from trace_engine.runs.asking import write_asked
from trace_engine.runs.detach import start_detached
from trace_engine.runs.lock import FileLock, is_locked
from trace_engine.runs.places import is_run_id, new_run_id, subfolder
from trace_engine.runs.process import ProcessName
from trace_engine.runs.stopping import StopFlag, StopRequestedError
from trace_engine.runs.unmade import remove_unmade

WORKER = [sys.executable, "-m", "trace_engine.audit.background"]
BUNDLED = "bundled"
"""Id of the finished audit that comes along: of the model that the bundled run ended with."""
_WITHOUT_VALUE = frozenset({"lock", "launch.json", "status.json", "progress.json", "log.txt"})
"""What may lie around an audit that has neither settings nor a report."""
State = Literal["running", "done", "failed", "stopped", "interrupted", "damaged"]


@dataclass(frozen=True, slots=True)
class AuditState:
    """How far an audit is."""

    id: str
    name: str
    """The label; show it as text."""
    state: State
    message: str
    progress: dict[str, Any] | None
    """What the process does now."""
    report: Path
    """The folder of the report, or what will be it."""
    manifest_sha256: str = ""


def launch_audit(
    config: AuditConfig,
    home: Path | None = None,
    token: str | None = None,
    *,
    owner: str | None = None,
) -> str:
    """Start an audit in a detached process; returns its id. One `token` (a press of a button) is
    one audit; `owner` is a label of the person. Raises RunError when no process starts."""
    for known in list_audits(home) if token is not None else ():
        if known.state != "damaged" and _token(known) == token:
            return known.id
    remove_unmade(subfolder("audits", home), lambda path: _names(path) <= _WITHOUT_VALUE)
    folder = subfolder("audits", home) / new_run_id()
    with saying_when_full(folder.parent):
        folder.mkdir(mode=0o700)
    try:
        write_text(folder / "audit.yaml", to_yaml(config), mode=0o600)
        asked = {formats.FIELD: formats.AUDIT_JOB, "token": token, "folder": str(Path.cwd())}
        write_json(folder / "launch.json", asked)
    except BaseException:
        shutil.rmtree(folder)  # it never began
        raise
    _start(folder, owner)
    return folder.name


def resume_audit(audit_id: str, home: Path | None = None, *, owner: str | None = None) -> None:
    """Make what is missing of an audit that ended before it was done; with `owner` it is that
    person's from now on.

    Raises LockedError while it is at work, RunError when it is done: its report may be evidence
    that somebody holds the hash of.
    """
    _start(audit_folder(audit_id, home), owner)


def stop_audit(audit_id: str, home: Path | None = None) -> None:
    """Ask an audit to end; finished parts stay. Raises RunError when it is not at work."""
    folder = audit_folder(audit_id, home)
    status = _told(folder, "status.json")
    if not is_locked(folder / "lock") or "process" not in status:
        raise RunError(f"Audit {audit_id} is not at work; there is nothing to stop.")
    ProcessName.of(status["process"]).terminate()


def audit_folder(audit_id: str, home: Path | None = None) -> Path:
    """Raises RunError for anything but the id of an audit that is there."""
    folder = subfolder("audits", home) / audit_id if is_run_id(audit_id) else None
    if folder is None or folder.is_symlink() or not folder.is_dir():
        raise RunError(f"There is no audit {audit_id[:40]!r}.")
    return folder


def audit_state(audit_id: str, home: Path | None = None) -> AuditState:
    """Look at an audit without waiting."""
    if audit_id == BUNDLED:
        return bundled_audit()
    folder = audit_folder(audit_id, home)
    report = folder / "report"
    try:
        # The lock first: a process that ends between the two looks has left its last word.
        busy = is_locked(folder / "lock")
        name = read_audit(folder / "audit.yaml").name
        _told(folder, "launch.json")
        status = _told(folder, "status.json")
        said = read_json(folder / "progress.json") if busy else None
        progress = said if isinstance(said, dict) else None
    except TraceError as error:
        return AuditState(audit_id, "", "damaged", str(error), None, report)
    state = status.get("state")
    message = _text(status, "message")
    if busy:
        return AuditState(audit_id, name, "running", message, progress, report)
    if state not in ("done", "failed", "stopped"):
        lost = "Its process ended without a word; finished parts are kept."
        return AuditState(audit_id, name, "interrupted", lost, None, report)
    digest = _text(status, "manifest_sha256")
    return AuditState(audit_id, name, state, message, None, report, digest)


def bundled_audit() -> AuditState:
    """The audit that comes along. It is in no home: nothing stops or resumes it."""
    report = resolve_report(AUDIT)
    title = str(read_report(report)["finding"]["title"])
    name = read_audit(report / CONFIG).name
    digest = sha256_file(report / NAME)
    return AuditState(BUNDLED, name, "done", title, None, report, digest)


def list_audits(home: Path | None = None) -> list[AuditState]:
    """All audits of a home, newest first, damaged ones with the reason; the bundled one is in none,
    and neither is a launch that has come to nothing yet or was killed so early."""
    names = [path.name for path in subfolder("audits", home).iterdir() if is_run_id(path.name)]
    found = []
    for name in sorted(names, reverse=True):
        try:
            state = audit_state(name, home)
            if state.state == "damaged" and _names(state.report.parent) <= {"lock"}:
                continue
        except (RunError, OSError):  # no folder, or deleted just now
            continue
        found.append(state)
    return found


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not is_leftover(path.name)}


def _start(folder: Path, owner: str | None) -> None:
    _told(folder, "status.json")  # refuses a newer version's before anything is changed
    where = Path(str(_told(folder, "launch.json").get("folder", folder)))
    lock = FileLock.take(folder / "lock", f"Audit {folder.name} is at work already.")
    command = [*WORKER, str(folder)]
    with lock.handing_over():
        # Under the lock: another tab may have gone on with it, and it may have ended since.
        if _told(folder, "status.json").get("state") == "done":
            raise RunError(f"Audit {folder.name} is done; there is nothing to resume.")
        reserve_last_words(folder)
        write_asked(folder / "launch.json", owner, **{formats.FIELD: formats.AUDIT_JOB})
        (folder / "status.json").unlink(missing_ok=True)
        try:
            start_detached(command, lock, folder / "log.txt", where if where.is_dir() else folder)
        except OSError as error:
            message = f"its process could not be started ({error})."
            with contextlib.suppress(RunError):
                _end(folder, "failed", message)
            raise RunError(f"Audit {folder.name}: {message}") from error


def _text(status: dict[str, Any], name: str) -> str:
    """What a status says, without halves of surrogate pairs, which no page takes."""
    return str(status.get(name, "")).encode("utf-8", "replace").decode()


def _token(audit: AuditState) -> str | None:
    found = _told(audit.report.parent, "launch.json").get("token")
    return found if isinstance(found, str) else None


def _told(folder: Path, name: str) -> dict[str, Any]:
    """A file of the job, empty where it is not there yet. Raises RunError for a newer version's,
    and for what no version wrote."""
    found = read_json(folder / name)
    found = {} if found is None else found
    if not isinstance(found, dict):
        raise RunError(f"Audit {folder.name} is damaged: {name} holds what no audit writes there.")
    formats.require_known(found, formats.AUDIT_JOB, f"Audit {folder.name}", RunError)
    return found


def main(arguments: list[str] | None = None) -> int:
    """Entry of the detached process: writes the report, or the sentence why it could not."""
    parser = argparse.ArgumentParser(prog="python -m trace_engine.audit.background")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--lock", type=int, required=True, help="open file that holds the lock")
    options = parser.parse_args(arguments)
    folder: Path = options.folder
    with FileLock.inherit(options.lock, folder / "lock"):
        return _work(folder)


def _work(folder: Path) -> int:
    stop = StopFlag()
    stop.install()
    process = ProcessName.own().to_dict()
    running = {formats.FIELD: formats.AUDIT_JOB, "state": "running", "process": process}

    def report(progress: Progress) -> None:
        stop.check()
        write_json_quickly(folder / "progress.json", progress.to_dict())

    def tell(sentence: str) -> None:
        stop.check()
        write_json_quickly(folder / "status.json", running | {"message": sentence})

    try:
        write_json(folder / "status.json", running)
        from trace_engine.audit.run import run_audit

        found = run_audit(
            read_audit(folder / "audit.yaml"),
            folder / "report",
            base=folder.parent.parent,
            report=report,
            tell=tell,
        )
    except StopRequestedError:
        return _end(folder, "stopped", "Stopped; finished parts are kept.")
    except TraceError as error:
        return _end(folder, "failed", str(error))
    except Exception as error:
        traceback.print_exc()
        bug = f"An unexpected {type(error).__name__}; the traceback is in log.txt."
        return _end(folder, "failed", when_full(error, folder) or bug)
    digest = sha256_file(found.folder / NAME)
    return _end(folder, "done", found.finding.title, manifest_sha256=digest)


def _end(folder: Path, state: State, message: str, **facts: str) -> int:
    free_last_words(folder)
    said = {formats.FIELD: formats.AUDIT_JOB, "state": state, "message": message}
    write_json(folder / "status.json", said | facts)
    return 0 if state == "done" else 1


if __name__ == "__main__":
    sys.exit(main())
