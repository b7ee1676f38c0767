"""A training session made durable: rows appended, checkpoints saved, and continued where they end.

The loop is `unlearning.drive`, the same for every door; here is only what happens to its rows and
states, in an order that any kill can interrupt. It accepts that a kill after the last step repeats
the final profile.
"""

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from trace_engine import formats
from trace_engine.config import UnlearnConfig, identity_of
from trace_engine.disk import Appender, fsync_path, place_folder, require_space, write_json
from trace_engine.progress import Progress, ProgressCallback
from trace_engine.routing import ALONE, Workers
from trace_engine.runs.checkpoints import load_state, newest_sound, require_same, save_checkpoint
from trace_engine.runs.directory import RunDirectory
from trace_engine.runs.stopping import StopFlag, StopRequestedError
from trace_engine.unlearning import drive
from trace_engine.unlearning.facts import warnings_of
from trace_engine.unlearning.mirror import Mirror

if TYPE_CHECKING:
    from torch import Tensor


class Trainee(Protocol):
    """The part of `unlearning.Session` that durability needs: any training loop will do."""

    step: int
    ended: str | None

    @property
    def config(self) -> UnlearnConfig: ...
    @property
    def finished(self) -> bool: ...
    def train_step(self) -> dict[str, Any]: ...
    def evaluate(self) -> dict[str, Any]: ...
    def state(self) -> tuple[dict[str, "Tensor"], dict[str, Any]]: ...
    def load_state(self, tensors: dict[str, "Tensor"], data: dict[str, Any]) -> None: ...
    def facts(self) -> dict[str, Any]: ...
    def keep(self) -> dict[str, Any]: ...
    def save_model(self, folder: Path) -> object: ...
    def model_bytes(self) -> int: ...
    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Opened:
    """A session that is ready, with what the directory records about it."""

    session: Trainee
    fingerprints: dict[str, str]
    """Of the model and both sets: what a resume must find again."""
    profile_before: Path
    """The cached profile's folder."""
    save_profile_after: Callable[[Path], object]
    """Profiles the model as it is and fills the folder."""


class Interruptible:
    """Progress that ends the work at once when asked to stop, while nothing is lost by that."""

    def __init__(self, stop: StopFlag, report: ProgressCallback) -> None:
        self.armed = True
        self._stop, self._report = stop, report

    def __call__(self, progress: Progress) -> None:
        if self.armed:
            self._stop.check()
        self._report(progress)


def train(
    run: RunDirectory,
    config: UnlearnConfig,
    stop: StopFlag,
    report: Interruptible,
    opened: Opened,
    workers: Workers = ALONE,
) -> str:
    """Bring the run to its end from wherever it is; returns the sentence of its end.

    Of several `workers` the leading one calls this, and the others `train_along`. Raises
    StopRequestedError when stopped (saved at the step it names), RunError when the run's directory
    belongs to another question, and whatever the session raises.
    """
    session, attempt = opened.session, run.status().attempt
    identity = {"config": identity_of(config), **opened.fingerprints}
    _continue(run, session, identity, workers)
    if run.profile_before() is None:
        place_folder(
            run.path / "profile-before", lambda to: shutil.copytree(opened.profile_before, to)
        )
    facts = session.facts()
    _warn(run, warnings_of(facts))
    write_json(run.path / "facts.json", facts | {"identity": identity})
    _preflight(run, session)
    stop.check()
    mirror = Mirror(config, run.path, run.id, run.rows(), lambda note: _warn(run, [note]))
    rows = Appender(run.path / "metrics.jsonl")
    first, started = session.step, time.monotonic()

    def on_row(row: dict[str, Any]) -> None:
        rows.append({"attempt": attempt, **row})
        mirror.log(row)
        if row["kind"] == "train":
            done, elapsed = int(row["step"]), time.monotonic() - started
            rate = (done - first) / elapsed if elapsed > 0 else None
            eta = (config.max_steps - done) / rate if rate else None
            report(Progress("unlearning", done, config.max_steps, "steps", rate, eta))

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
        run.event("checkpoint", step=session.step)

    report.armed = False
    try:
        with mirror:
            reason = drive(
                session,
                on_row=on_row,
                on_checkpoint=on_checkpoint,
                should_stop=lambda: workers.any(stop.requested),
            )
        rows.sync()
    finally:
        rows.close()
    run.update(step=session.step)
    if reason == "stopped":
        raise StopRequestedError(f"Stopped at step {session.step} of {config.max_steps}; saved.")
    # From here on everything can be repeated from the last checkpoint.
    report.armed = True
    kept = session.keep()
    outcome = {"ended": session.ended, "kept": kept}
    write_json(run.path / "facts.json", facts | {"identity": identity} | outcome)
    place_folder(run.path / "model", session.save_model)
    place_folder(run.path / "profile-after", opened.save_profile_after)
    _write_report(run, outcome)
    return " ".join(filter(None, [_end(session), kept["sentence"]]))


def train_along(session: Trainee, stop: StopFlag, report: Interruptible, workers: Workers) -> None:
    """What another process than the leading one does meanwhile: its share of every step.

    It writes nothing. Raises StopRequestedError when the run is stopped.
    """
    found = workers.share(lambda: None)
    if found is not None:
        tensors, state = load_state(Path(found))
        session.load_state(tensors, state)
    session.facts()
    report.armed = False
    reason = drive(
        session, on_row=lambda row: None, should_stop=lambda: workers.any(stop.requested)
    )
    if reason == "stopped":
        raise StopRequestedError


def _end(session: Trainee) -> str:
    """Why a run is done."""
    if session.ended is None:
        return f"All {session.step} steps done."
    return f"Ended early, at step {session.step} of {session.config.max_steps}: {session.ended}."


def _continue(
    run: RunDirectory, session: Trainee, identity: dict[str, Any], workers: Workers
) -> None:
    """Load the newest sound checkpoint, if any, and say what was passed over.

    Raises RunError when the run was begun on another question.
    """
    checkpoint, notes = newest_sound(run.path / "checkpoints")
    recorded = checkpoint.identity if checkpoint else run.facts().get("identity")
    if recorded:
        require_same(recorded, identity)
    workers.share(lambda: None if checkpoint is None else str(checkpoint.path))
    if checkpoint is not None:
        tensors, state = checkpoint.load()
        session.load_state(tensors, state)
    status = run.status()
    if status.attempt > 1:
        start = f"step {checkpoint.step}" if checkpoint else "the beginning"
        notes.append(f"Attempt {status.attempt} continued from {start}.")
    for note in notes:
        run.log(note)
    run.update(step=session.step, notes=[*status.notes, *notes])


def _warn(run: RunDirectory, sentences: list[str]) -> None:
    """Put what every attempt finds again among the run's notes, once."""
    notes = run.status().notes
    new = [sentence for sentence in sentences if sentence not in notes]
    for sentence in new:
        run.log(sentence)
    if new:
        run.update(notes=[*notes, *new])


def _preflight(run: RunDirectory, session: Trainee) -> None:
    """Refuse to start what could not be saved: twice a checkpoint must be free, and the model that
    the run ends with. Raises DiskFullError."""
    tensors, _ = session.state()
    size = sum(t.numel() * t.element_size() for t in tensors.values())
    # Before the first update a state lacks AdamW's two moments of everything that trains, and the
    # best weights.
    later = 3 + (session.config.keep.which == "best")
    model = session.model_bytes() if run.model_folder() is None else 0
    require_space(run.path, 2 * size * (later if session.step == 0 else 1) + model)


def _write_report(run: RunDirectory, outcome: dict[str, Any]) -> None:
    """report/summary.json: the start's evaluation, that of the saved model, and what was paid, for
    lists and comparisons."""
    evaluations, training = run.rows("eval"), run.rows("train")
    saved = outcome["kept"]["step"]
    folder = run.path / "report"
    folder.mkdir(exist_ok=True)
    fsync_path(run.path)
    summary = {
        formats.FIELD: formats.RUN,
        "run": run.id,
        "start": evaluations[0] if evaluations else None,
        "end": next((r for r in reversed(evaluations) if r["step"] <= saved), None),
        **outcome,
        "steps": training[-1]["step"] if training else 0,
        "train_seconds": sum(row["seconds"] for row in training),
        "attempts": run.status().attempt,
    }
    write_json(folder / "summary.json", summary)
