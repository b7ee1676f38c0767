"""What a worker does with its slot: make a profile, or unlearn.

Both compute through the engine's public functions; this module only puts results where a run
directory keeps them, in an order that any kill can interrupt. It accepts that a kill after the last
step repeats the final profile.
"""

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from trace_engine.config import ProfileConfig, UnlearnConfig
from trace_engine.progress import Progress, ProgressCallback
from trace_engine.routing import Profile
from trace_engine.runs.checkpoints import newest_sound, require_same, save_checkpoint
from trace_engine.runs.directory import RunDirectory
from trace_engine.runs.disk import Appender, write_json
from trace_engine.runs.identity import identity_of
from trace_engine.runs.places import find_profile
from trace_engine.runs.profiles import ProfileAnswer, keep_profile, place_folder
from trace_engine.runs.stopping import StopFlag, StopRequestedError
from trace_engine.unlearning import Session, drive

_PACKAGES = ("torch", "transformers", "trace-moe")


class Savable(Protocol):
    def save(self, folder: Path) -> object: ...


class Trainee(Protocol):
    """The part of `unlearning.Session` that durability needs."""

    step: int

    @property
    def finished(self) -> bool: ...
    def train_step(self) -> dict[str, Any]: ...
    def evaluate(self) -> dict[str, Any]: ...
    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]: ...
    def load_state(self, tensors: dict[str, Tensor], data: dict[str, Any]) -> None: ...
    def facts(self) -> dict[str, Any]: ...
    def save_model(self, folder: Path) -> object: ...
    def profile_after(self) -> Savable: ...
    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Opened:
    """A session that is ready, with what the directory records about it."""

    session: Trainee
    fingerprints: dict[str, str]
    """Of the model and both sets: what a resume must find again."""
    profile_before: Path
    """The cached profile's folder."""


OpenSession = Callable[[UnlearnConfig, ProgressCallback, Path | None], Opened]


def open_session(config: UnlearnConfig, report: ProgressCallback, base: Path | None) -> Opened:
    """The engine's session, its profile taken from the cache or put there."""

    def cached(key: str) -> Profile | None:
        folder = find_profile(key, base)
        return None if folder is None else Profile.load(folder)

    session = Session(config, find_profile=cached, report=report)
    setup = session.setup
    fingerprints = {
        "model": setup.opened.info.fingerprint,
        "forget": setup.forget.documents.fingerprint,
        "retain": setup.retain.documents.fingerprint,
    }
    return Opened(session, fingerprints, keep_profile(session.profile_key, session.profile, base))


def perform(
    run: RunDirectory,
    stop: StopFlag,
    report: ProgressCallback,
    base: Path | None,
    opener: OpenSession = open_session,
) -> str:
    """Do what the run's settings ask for; returns the sentence of its end. Raises
    StopRequestedError."""
    config = run.config()
    if isinstance(config, ProfileConfig):
        return _profile(run, config, stop, report, base)
    return _unlearn(run, config, stop, report, base, opener)


def _interruptible(stop: StopFlag, report: ProgressCallback) -> ProgressCallback:
    def listen(progress: Progress) -> None:
        stop.check()
        report(progress)

    return listen


def _profile(
    run: RunDirectory,
    config: ProfileConfig,
    stop: StopFlag,
    report: ProgressCallback,
    base: Path | None,
) -> str:
    answer = ProfileAnswer(config)
    folder, was_there = answer.get(_interruptible(stop, report), base)
    facts = {
        "identity": {"config": identity_of(config), **answer.fingerprints},
        "profile_key": answer.key,
        "model": answer.model.to_dict(),
        "versions": {name: version(name) for name in _PACKAGES},
    }
    write_json(run.path / "facts.json", facts)
    return f"Profile {folder.name[:12]} was {'already there' if was_there else 'computed'}."


class _Reports:
    """Progress that may end the work while nothing is lost by it, and must not while a step is
    made."""

    def __init__(self, stop: StopFlag, report: ProgressCallback) -> None:
        self.interruptible = True
        self._stop, self._report = stop, report

    def __call__(self, progress: Progress) -> None:
        if self.interruptible:
            self._stop.check()
        self._report(progress)


def _unlearn(
    run: RunDirectory,
    config: UnlearnConfig,
    stop: StopFlag,
    report: ProgressCallback,
    base: Path | None,
    opener: OpenSession,
) -> str:
    reports = _Reports(stop, report)
    opened = opener(config, reports, base)
    try:
        return _train(run, config, stop, reports, opened)
    finally:
        opened.session.close()


def _train(
    run: RunDirectory, config: UnlearnConfig, stop: StopFlag, reports: _Reports, opened: Opened
) -> str:
    session, attempt = opened.session, run.status().attempt
    identity = {"config": identity_of(config), **opened.fingerprints}
    _continue(run, session, identity)
    if run.profile_before() is None:
        place_folder(
            run.path / "profile-before", lambda to: shutil.copytree(opened.profile_before, to)
        )
    facts = session.facts() | {
        "identity": identity,
        "profile_key": opened.profile_before.name,
        "versions": {name: version(name) for name in _PACKAGES},
    }
    write_json(run.path / "facts.json", facts)
    stop.check()
    rows = Appender(run.path / "metrics.jsonl")
    first, started = session.step, time.monotonic()

    def on_row(row: dict[str, Any]) -> None:
        rows.append({"attempt": attempt, **row})
        if row["kind"] == "train":
            done, elapsed = int(row["step"]), time.monotonic() - started
            rate = (done - first) / elapsed if elapsed > 0 else None
            eta = (config.max_steps - done) / rate if rate else None
            reports(Progress("unlearning", done, config.max_steps, "steps", rate, eta))

    def on_checkpoint() -> None:
        # The curve first: a checkpoint must never be ahead of the rows that led to it.
        rows.sync()
        tensors, state = session.state()
        save_checkpoint(
            run.path / "checkpoints",
            tensors,
            state,
            step=session.step,
            attempt=attempt,
            identity=identity,
        )

    reports.interruptible = False
    try:
        reason = drive(
            session,
            on_row=on_row,
            on_checkpoint=on_checkpoint,
            should_stop=lambda: stop.requested,
        )
    finally:
        rows.close()
    if reason == "stopped":
        raise StopRequestedError(f"Stopped at step {session.step} of {config.max_steps}; saved.")
    # From here on everything is repeatable from the last checkpoint.
    reports.interruptible = True
    place_folder(run.path / "model", session.save_model)
    place_folder(run.path / "profile-after", session.profile_after().save)
    write_report(run)
    return f"All {config.max_steps} steps done."


def _continue(run: RunDirectory, session: Trainee, identity: dict[str, Any]) -> None:
    """Load the newest sound checkpoint, if any; refuse one of another question; say what was passed
    over."""
    checkpoint, notes = newest_sound(run.path / "checkpoints")
    recorded = checkpoint.identity if checkpoint else run.facts().get("identity")
    if recorded:
        require_same(recorded, identity)
    if checkpoint is not None:
        tensors, state = checkpoint.load()
        session.load_state(tensors, state)
    attempt = run.status().attempt
    if attempt > 1:
        start = f"step {checkpoint.step}" if checkpoint else "the beginning"
        notes.append(f"Attempt {attempt} continued from {start}.")
    for note in notes:
        run.log(note)
    run.update(step=session.step, notes=[*run.status().notes, *notes])


def write_report(run: RunDirectory) -> None:
    """report/summary.json: the first and last evaluation and what was paid, for lists and
    comparisons."""
    evaluations, training = run.rows("eval"), run.rows("train")
    folder = run.path / "report"
    folder.mkdir(exist_ok=True)
    summary = {
        "run": run.id,
        "start": evaluations[0] if evaluations else None,
        "end": evaluations[-1] if evaluations else None,
        "steps": training[-1]["step"] if training else 0,
        "train_seconds": sum(row["seconds"] for row in training),
        "attempts": run.status().attempt,
    }
    write_json(folder / "summary.json", summary)
