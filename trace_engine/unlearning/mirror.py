"""Rows of a run mirrored to trackers as they come, through accelerate's tracker classes.

The run's own files stay the truth: what a tracker refuses becomes a note, and the run goes on
without it. Accepted trade-offs: a row that was written when the process was killed, and not yet
mirrored, is missing there; a tracker that hangs in a call holds the run up.
"""

import contextlib
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from trace_engine.config import TrackerName, UnlearnConfig
from trace_engine.disk import read_json, write_json

FOLDER = "trackers"
"""Inside the run's folder: TensorBoard's files, and what each tracker calls the run."""
PROJECT = "trace-moe"
_PROCESSES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
Row = Mapping[str, Any]


class Mirror:
    """The trackers of one attempt. Never raises but for what is not a tracker's fault."""

    def __init__(
        self,
        config: UnlearnConfig,
        folder: Path,
        run: str,
        earlier: Iterable[Row] = (),
        tell: Callable[[str], None] = lambda sentence: None,
    ) -> None:
        """`folder` is the run's, `run` its id; `earlier` the rows of attempts before this one,
        which a tracker that saw them is not given again. `tell` hears what went wrong."""
        self._tell = tell
        self._open: dict[str, Any] = {}
        rows = list(earlier)
        self._seen = {(row["kind"], row["step"]) for row in rows}
        self._replayed: set[str] = set()
        for name in config.trackers:
            self._guard(name, "could not be started", self._start, name, config, folder, run, rows)

    def __enter__(self) -> "Mirror":
        return self

    def __exit__(self, *_: object) -> None:
        for name in list(self._open):
            self._guard(name, "could not be closed", self._open[name].finish)
        self._open.clear()

    def log(self, row: Row) -> None:
        """Mirror a row, unless an attempt before this one did."""
        if (row["kind"], row["step"]) in self._seen:
            return
        for name in list(self._open):
            self._guard(name, "refused a row", self._log, name, row)

    def _log(self, name: str, row: Row) -> None:
        self._open[name].log(scalars(row), step=row["step"])

    def _start(
        self, name: TrackerName, config: UnlearnConfig, folder: Path, run: str, rows: list[Row]
    ) -> None:
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        _state_of_one_process()
        place = folder / FOLDER
        place.mkdir(exist_ok=True)
        known = read_json(place / f"{name}.json")
        kind = LOGGER_TYPE_TO_CLASS[name]
        tracker = kind(**_options(name, place, run, config.name or run, known or {}))
        # One process mirrors; accelerate need not ask which.
        tracker.main_process_only = False
        tracker.start()
        self._open[name] = tracker
        if known is not None:
            return
        tracker.store_init_configuration(flat(config.model_dump(mode="json")))
        for row in rows:
            self._log(name, row)
        write_json(place / f"{name}.json", {"run": run, "id": _id_of(name, tracker)})

    def _guard(self, name: str, what: str, action: Callable[..., object], *given: Any) -> None:
        try:
            action(*given)
        # A login that ends the process is a refusal too.
        except (Exception, SystemExit) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
            self._tell(
                f"Tracker {name} {what} ({reason[:200]}). The run goes on without it; its own "
                "files hold every row."
            )
            tracker = self._open.pop(name, None)
            if tracker is not None and what != "could not be closed":
                with contextlib.suppress(Exception):
                    tracker.finish()


def _state_of_one_process() -> None:
    """Give accelerate's logger the state it insists on, without what it does with torchrun's
    variables: join processes, and set the number of threads, which would change a run's bits."""
    from accelerate import PartialState

    hidden = {name: os.environ.pop(name) for name in _PROCESSES if name in os.environ}
    try:
        PartialState(cpu=True)
    finally:
        os.environ.update(hidden)


def _options(
    name: TrackerName, place: Path, run: str, label: str, known: dict[str, Any]
) -> dict[str, Any]:
    """What each class is built with, so that a later attempt continues the same run there."""
    if name == "tensorboard":
        return {"run_name": name, "logging_dir": str(place)}
    if name == "wandb":
        options = {"id": run, "name": label, "resume": "allow", "dir": str(place)}
        return {"run_name": PROJECT, **options}
    if name == "trackio":
        return {"run_name": PROJECT, "name": run, "resume": "allow"}
    return {"experiment_name": PROJECT, "run_name": label, "run_id": known.get("id")}


def _id_of(name: TrackerName, tracker: Any) -> str | None:
    """What MLflow calls the run; the others are called by names of ours."""
    return str(tracker.tracker.info.run_id) if name == "mlflow" else None


def scalars(row: Row) -> dict[str, float]:
    """The numbers of a row under names that trackers group: `train/loss`, `eval/accuracy/hazard`.

    What was not measured is left out: a tracker's 0 would be one.
    """
    kind = str(row["kind"])
    found: dict[str, Any] = {}
    for field, value in row.items():
        if field in ("step", "attempt", "picked"):
            continue
        if field == "accuracy":
            found |= {f"accuracy/{group}": cell["value"] for group, cell in value.items()}
        elif field == "drift":
            layers = zip(value["layers"], value["overlap"], strict=True)
            found |= {f"kept experts/layer {layer}": share for layer, share in layers}
        elif isinstance(value, dict):
            found[field] = value.get("value")
        else:
            found[field] = value
    return {
        f"{kind}/{name}": float(value)
        for name, value in found.items()
        if isinstance(value, int | float) and value == value and not isinstance(value, bool)
    }


def flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings as dotted names with values that every tracker takes."""
    found: dict[str, Any] = {}
    for name, value in data.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{name}.")
        else:
            simple = isinstance(value, bool | int | float | str)
            found[f"{prefix}{name}"] = value if simple else str(value)
    return found
