"""The one loop that page, CLI and Python share; what differs is only what they do with rows and
checkpoints.

An evaluation comes before the checkpoint of the same step, so that a resumed run never lacks a row.
"""

from collections.abc import Callable
from typing import Any, Literal, Protocol

from trace_engine.config import UnlearnConfig

Row = dict[str, Any]
Reason = Literal["done", "stopped"]


class Drivable(Protocol):
    """The part of a `Session` that the loop needs."""

    step: int

    @property
    def config(self) -> UnlearnConfig: ...
    @property
    def finished(self) -> bool: ...
    def train_step(self) -> Row: ...
    def evaluate(self) -> Row: ...


def drive(
    session: Drivable,
    *,
    on_row: Callable[[Row], None],
    on_checkpoint: Callable[[], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Reason:
    """Train until the run is finished or `should_stop()` says so between two steps.

    `on_row` gets every train and eval row; the start is evaluated unless the session was resumed.
    `on_checkpoint` is called every `checkpoint_every` updates, at the end, and when stopped,
    unless nothing changed since the last one.
    """
    evaluate_every = session.config.evaluation.every
    checkpoint_every = session.config.checkpoint_every
    saved = session.step
    if session.step == 0:
        on_row(session.evaluate())
    while not session.finished:
        if should_stop is not None and should_stop():
            if on_checkpoint is not None and session.step != saved:
                on_checkpoint()
            return "stopped"
        on_row(session.train_step())
        if session.step % evaluate_every == 0 or session.finished:
            on_row(session.evaluate())
        if on_checkpoint is not None and (session.step % checkpoint_every == 0 or session.finished):
            on_checkpoint()
            saved = session.step
    return "done"
