"""Starting, stopping, continuing and deleting runs: what a page or a shell may do.

It never computes and never imports torch. Launching takes the run's lock first and hands it to the
worker, so there is no moment in which a starting run looks dead or could be started twice.
"""

import contextlib
import hashlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from trace_engine.config import ProfileConfig, UnlearnConfig, identity_of
from trace_engine.disk import delete_folder, free_last_words, remove_leftovers
from trace_engine.errors import RunError
from trace_engine.runs import places
from trace_engine.runs.checkpoints import require_same
from trace_engine.runs.detach import start_detached
from trace_engine.runs.directory import RunDirectory
from trace_engine.runs.lock import FileLock, LockedError
from trace_engine.runs.process import ProcessName
from trace_engine.runs.unmade import remove_unmade
from trace_engine.sets import check_answers
from trace_engine.trackers import check_trackers

WORKER = [sys.executable, "-X", "faulthandler", "-m", "trace_engine.runs.worker"]
"""How a worker is started; the run's directory and options are appended."""
_STALE_SECONDS = 24 * 3600.0
"""No import or upload takes so long: what is older was left by a kill."""


def launch(
    config: ProfileConfig | UnlearnConfig,
    home: Path | None = None,
    token: str | None = None,
    *,
    sweep: str | None = None,
    owner: str | None = None,
) -> str:
    """Start a detached worker on `config` and return the run's id.

    The same settings (name aside, source files untouched) that an active run already computes
    return that run's id: two tabs, or two clicks, are one run. With `token` (one per press of a
    button) the same settings and token return the same run even after it has ended. `sweep` and
    `owner` are labels: the sweep, and the person, that ask for it. Raises RunError when no process
    starts, InputError for a forget set that the method cannot work on, or a tracker without its
    package.
    """
    if isinstance(config, UnlearnConfig):
        check_answers(config)
        check_trackers(config.trackers)
    question = _question(config)
    with _launching(home):
        _tidy(home)
        known = _known(question, token, home)
        if known is not None:
            return known
        run = RunDirectory(places.subfolder("runs", home) / places.new_run_id())
        asked = {"question": question, "token": token, "sweep": sweep, "owner": owner}
        lock = run.create(config, asked)
        _start(run, lock, home, Path.cwd())
    return run.id


def resume(run_id: str, home: Path | None = None, *, owner: str | None = None) -> str:
    """Continue a stopped, failed or interrupted run as a new attempt; returns its id. With `owner`
    it is that person's from now on.

    Raises LockedError while a worker has it, RunError when it is done or its settings were changed.
    """
    resume_directory(RunDirectory(places.run_path(run_id, home)), home, owner=owner)
    return run_id


def resume_directory(
    run: RunDirectory, home: Path | None = None, *, owner: str | None = None
) -> None:
    """`resume` for a run directory anywhere."""
    folder = run.launch_folder()
    _start(run, reopen(run, owner), home, folder)


def reopen(run: RunDirectory, owner: str | None = None) -> FileLock:
    """Take a run that ended and open its next attempt. Raises as `resume` does; then nothing was
    changed."""
    lock = run.lock()
    with lock.handing_over():
        recorded = run.facts().get("identity", {}).get("config")
        if recorded is not None:
            require_same({"config": recorded}, {"config": identity_of(run.config())})
        run.begin_attempt(owner)
    return lock


def stop(run_id: str, home: Path | None = None, *, force: bool = False) -> None:
    """Ask a run's worker to finish its step, save and end; asking twice is asking once.

    `force` sends the second signal, which ends it at once (interrupted, resumable). Raises RunError
    when the run is not active or its worker is still being started.
    """
    stop_directory(RunDirectory(places.run_path(run_id, home)), force=force)


def stop_directory(run: RunDirectory, *, force: bool = False) -> None:
    """`stop` for a run directory anywhere on this machine."""
    status = run.status()
    if not status.active:
        raise RunError(f"Run {run.id} is {status.state}; there is nothing to stop.")
    request = run.path / f"stop-{status.attempt:03d}"
    if status.process is None:
        raise RunError(f"Run {run.id} is only just starting. Stop it in a moment.")
    process = ProcessName.of(status.process)
    if not process.alive():
        raise RunError(f"Run {run.id} is held by a process of another machine, or is just ending.")
    try:
        request.touch(exist_ok=False)
    except FileExistsError:
        if not force:
            return
    process.terminate()


def delete(run_id: str, home: Path | None = None) -> None:
    """Remove a run's directory. Raises LockedError while its worker lives."""
    delete_directory(RunDirectory(places.run_path(run_id, home)))


def delete_directory(run: RunDirectory) -> None:
    """`delete` for a run directory anywhere."""
    try:
        lock = run.lock()
    except LockedError:
        raise LockedError(
            f"Run {run.id} is in use by its worker. Stop it first; nothing was deleted."
        ) from None
    with lock:
        delete_folder(run.path)


@contextlib.contextmanager
def _launching(home: Path | None) -> Iterator[None]:
    """One launch at a time per home: otherwise two tabs would both find no run yet."""
    path = places.home(home) / "launch.lock"
    deadline = time.monotonic() + 10
    while True:
        try:
            lock = FileLock.take(path, "Another launch is under way. Try again.")
            break
        except LockedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
    with lock:
        yield


def _tidy(home: Path | None) -> None:
    """Remove what killed processes left in the home: gigabytes, if it was a delete. The caller
    holds the lock of launches. What cannot be removed stays, and is in nobody's way."""
    with contextlib.suppress(OSError):
        remove_leftovers(places.subfolder("runs", home), of="deleted-")
        for kind in ("runs", "sets"):  # imports and sets may be written now
            remove_leftovers(places.subfolder(kind, home), older_than=_STALE_SECONDS)
        remove_unmade(places.subfolder("runs", home), lambda path: RunDirectory(path).unmade())


def _question(config: ProfileConfig | UnlearnConfig) -> str:
    """Hash of the settings and of the state of the files they name."""
    files = []
    for source in (config.model.source, config.forget.source, config.retain.source):
        path = Path(source)
        if path.exists():
            stat = path.stat()
            files.append([str(path.absolute()), stat.st_mtime_ns, stat.st_size])
    text = json.dumps([identity_of(config), files], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _known(question: str, token: str | None, home: Path | None) -> str | None:
    """The run that already answers this question: active, or of the same press of the button."""
    for path in sorted(places.subfolder("runs", home).iterdir(), reverse=True):
        listed = places.is_run_id(path.name) and path.is_dir()
        if listed and _answers(RunDirectory(path), question, token):
            return path.name
    return None


def _answers(run: RunDirectory, question: str, token: str | None) -> bool:
    """Whether the run answers the question; a damaged one, perhaps a stranger's, answers none."""
    try:
        record = run.launched()
        if record.get("question") != question:
            return False
        if run.unmade():  # a launch that was killed
            return False
        return (token is not None and record.get("token") == token) or run.status().active
    except (RunError, OSError):
        return False


def _start(run: RunDirectory, lock: FileLock, home: Path | None, folder: Path) -> None:
    """Hand the lock to a new detached worker process."""
    with lock.handing_over():
        command = [*WORKER, str(run.path), "--home", str(places.home(home))]
        try:
            start_detached(command, lock, run.path / "log.txt", folder)
        except OSError as error:
            free_last_words(run.path)
            with contextlib.suppress(RunError):
                run.update(state="failed", message=f"the worker could not be started ({error}).")
            raise RunError(f"The worker of run {run.id} could not be started ({error}).") from error
