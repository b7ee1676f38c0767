"""Unlearning as one Python call: the same loop as the page's worker and the CLI, without a run
directory.

For runs that must survive a crash use `runs.launch` or `trace-moe unlearn`; here rows are kept in
memory, and written to `out` only when one is named.
"""

import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trace_engine.config import UnlearnConfig, to_yaml
from trace_engine.errors import InputError
from trace_engine.progress import Meter, ProgressCallback, ignore_progress
from trace_engine.routing import ALONE, Profile, Workers
from trace_engine.sets import check_answers
from trace_engine.trackers import check_trackers
from trace_engine.unlearning.facts import warnings_of
from trace_engine.unlearning.loop import Row, drive
from trace_engine.unlearning.mirror import Mirror
from trace_engine.unlearning.session import Session
from trace_engine.unlearning.setup import ProfileStore


@dataclass(frozen=True, slots=True)
class UnlearnResult:
    """A finished run."""

    rows: list[Row]
    """Train and eval rows in the order they came."""
    facts: dict[str, Any]
    """What was decided before training, and at its end: `ended` and `kept`."""
    session: Session
    """Still open: `session.opened.model` is the unlearned model; `session.close()` releases it."""
    kept: dict[str, Any]
    """`step` whose weights the model has by `config.keep`, and the `sentence` that says why."""

    @property
    def notes(self) -> list[str]:
        """What must be known to read the result, in sentences; also warned of when it began."""
        return warnings_of(self.facts)

    @property
    def evaluations(self) -> list[Row]:
        """The eval rows, first the start model's, last that of the last step."""
        return [row for row in self.rows if row["kind"] == "eval"]


def unlearn(
    config: UnlearnConfig,
    *,
    out: str | Path | None = None,
    profile: Profile | None = None,
    profiles: ProfileStore | None = None,
    report: ProgressCallback = ignore_progress,
    on_row: Callable[[Row], None] | None = None,
    workers: Workers = ALONE,
) -> UnlearnResult:
    """Run `config` to its end in this process. Raises a TraceError when it cannot.

    `out`, a folder that does not exist yet or is empty, gets `config.yaml`, `facts.json`,
    `metrics.jsonl` (row by row) and `model/`. `on_row` sees each row as it comes; `report` gets
    progress of profiling and training. `profiles` keeps a computed profile for the next call, as
    `runs.profiles.ProfileCache` does. Of several `workers` (`with joined() as workers`, started by
    torchrun) each calls this and gets the same result; the leading one writes `out`.
    """
    check_answers(config)
    check_trackers(config.trackers)
    if config.trackers and out is None:
        raise InputError("trackers write beside the result: name a folder with out.")
    folder = None if out is None or not workers.leads else _empty_folder(Path(out))
    session = Session(config, profile=profile, profiles=profiles, workers=workers, report=report)
    try:
        return _run(session, folder, report, on_row, told=workers.leads)
    except BaseException:
        session.close()
        raise


def _run(
    session: Session,
    folder: Path | None,
    report: ProgressCallback,
    on_row: Callable[[Row], None] | None,
    *,
    told: bool,
) -> UnlearnResult:
    facts = session.facts()
    for sentence in warnings_of(facts) if told else ():
        warnings.warn(sentence, stacklevel=3)
    if folder is not None:
        (folder / "config.yaml").write_text(to_yaml(session.config), encoding="utf-8")
        _write_facts(folder, facts)
    rows: list[Row] = []
    meter = Meter("unlearning", session.config.max_steps, "steps", report)

    def keep(row: Row) -> None:
        rows.append(row)
        if folder is not None:
            with (folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(row, allow_nan=False) + "\n")
        if row["kind"] == "train":
            meter.add(1)
        if on_row is not None:
            on_row(row)

    with _mirror(session.config, folder) as mirror:

        def mirrored(row: Row) -> None:
            keep(row)
            mirror.log(row)

        drive(session, on_row=mirrored)
    kept = session.keep()
    facts |= {"ended": session.ended, "kept": kept}
    if folder is not None:
        _write_facts(folder, facts)
        session.save_model(folder / "model")
    return UnlearnResult(rows, facts, session, kept)


def _mirror(config: UnlearnConfig, folder: Path | None) -> Mirror:
    """The trackers of the leading process; a mirror of nothing elsewhere."""
    asked = config if folder is not None else config.model_copy(update={"trackers": ()})
    where = folder or Path()
    return Mirror(asked, where, where.name, tell=lambda note: warnings.warn(note, stacklevel=3))


def _write_facts(folder: Path, facts: dict[str, Any]) -> None:
    text = json.dumps(facts, ensure_ascii=False, indent=1, allow_nan=False)
    (folder / "facts.json").write_text(text, encoding="utf-8")


def _empty_folder(folder: Path) -> Path:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(
            f"{folder}: expected a new or empty folder for the result. Nothing was written; name "
            "another one."
        )
    folder.mkdir(parents=True, exist_ok=True)
    return folder
