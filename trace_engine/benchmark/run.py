"""A table from beginning to end: tune every row on validation questions, then measure every row.

The two phases are apart: the test questions are not read before the last row's hyperparameters are
chosen and written down. It accepts that a table shows nothing until both are through; `only` makes
smaller ones, which share the folder's runs.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from trace_engine.benchmark import plan
from trace_engine.benchmark.choose import Choice, choose
from trace_engine.benchmark.materials import check_sources, contents, covered
from trace_engine.benchmark.plan import Contents, RowId, Trial
from trace_engine.benchmark.pool import run_trials
from trace_engine.benchmark.report import write_report
from trace_engine.benchmark.results import Measured, results_frame
from trace_engine.benchmark.settings import BenchConfig
from trace_engine.benchmark.store import TrialStore
from trace_engine.benchmark.table import Table, make_table
from trace_engine.config import SetConfig, to_yaml
from trace_engine.disk import write_json, write_text
from trace_engine.errors import InputError
from trace_engine.progress import ProgressCallback, ignore_progress
from trace_engine.runs.lock import FileLock
from trace_engine.sets import load_set, read_questions

Tell = Callable[[str], object]


@dataclass(frozen=True, slots=True)
class Finished:
    """A table and where it lies."""

    folder: Path
    table: Table
    results: pd.DataFrame
    """One line per evaluation of every run."""


@dataclass(frozen=True, slots=True)
class Progressed:
    """How far a table is."""

    rows: int
    runs: int
    """Tuning and test runs of all rows together."""
    tuning_left: int
    test_left: int | None
    """None while hyperparameters are not chosen."""


def run_table(
    config: BenchConfig,
    out: str | Path,
    *,
    workers: int = 1,
    report: ProgressCallback = ignore_progress,
    tell: Tell = lambda _: None,
    computed: bool = False,
) -> Finished:
    """Compute what is missing and write `results.csv`, `table.csv`, `same-settings.csv`,
    `table.json`, `curves.csv`, `figure.svg` and `benchmark.md` into `out`.

    The same call goes on where an earlier one ended or was killed; more seeds, rows or budget
    compute only what is new. `computed`: compute nothing, write the table of the rows that are
    there, and name the others in it. Raises a TraceError when the table cannot be made.
    """
    folder = Path(out).absolute()
    check_sources(config)
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock.take(folder / "lock", f"{folder.name}: another process makes this table."):
        write_text(folder / "bench.yaml", to_yaml(config))
        store = TrialStore(folder)
        left_out: list[RowId] = []
        rows = plan.rows_of(config)
        if computed:
            config, rows, left_out = _computed(config, store)
        chosen, tuned = select(config, store, rows, workers=workers, report=report, tell=tell)
        materials = contents(config, folder, "test")
        trials = [
            trial
            for row, choice in chosen.items()
            if choice.number is not None
            for trial in plan.testing(config, materials, row, choice.number)
        ]
        results = run_trials(store, trials, workers, report, "measuring on test questions")
        measured = list(zip(trials, results, strict=True))
        facts = _facts(config, materials) | {"not_computed": [list(row) for row in left_out]}
        table = make_table(config, chosen, measured, facts, tuned)
        frame = results_frame(config, [*tuned, *measured])
        write_report(folder, config, table, frame)
    return Finished(folder, table, frame)


def select(
    config: BenchConfig,
    store: TrialStore,
    rows: list[RowId],
    *,
    workers: int = 1,
    report: ProgressCallback = ignore_progress,
    tell: Tell = lambda _: None,
) -> tuple[dict[RowId, Choice], list[Measured]]:
    """Hyperparameters of `rows`, from validation questions; also written as `choices.json`."""
    materials = contents(config, store.folder, "validation")
    trials = [trial for row in rows for trial in plan.tuning(config, materials, row)]
    results = run_trials(store, trials, workers, report, "tuning on validation questions")
    finished = list(zip(trials, results, strict=True))
    chosen = {
        row: choose(config, [(trial, result) for trial, result in finished if trial.row == row])
        for row in rows
    }
    for row, choice in chosen.items():
        tell(_say(row, choice))
    write_json(
        store.folder / "choices.json",
        [{**row._asdict(), **choice.to_dict()} for row, choice in chosen.items()],
    )
    return chosen, finished


def _computed(
    config: BenchConfig, store: TrialStore
) -> tuple[BenchConfig, list[RowId], list[RowId]]:
    """The plan without what has no finished row, its finished rows, and those that are not.

    Raises InputError when none is finished.
    """
    materials = contents(config, store.folder, "validation")
    every = plan.rows_of(config)
    tuned = [
        row
        for row in every
        if all(store.find(trial) is not None for trial in plan.tuning(config, materials, row))
    ]
    chosen, _ = select(config, store, tuned)
    tests = contents(config, store.folder, "test")
    rows = [row for row in tuned if not _tests_left(config, store, tests, {row: chosen[row]})]
    if not rows:
        raise InputError(
            f"None of the table's {len(every)} rows is computed yet: run the same command without "
            "--computed."
        )
    named = [tuple(dict.fromkeys(part)) for part in zip(*rows, strict=True)]
    return config.only(*named), rows, [row for row in every if row not in rows]


def progress(config: BenchConfig, out: str | Path) -> Progressed:
    """How many runs a table needs, and how many of them are there. Computes none."""
    folder = Path(out).absolute()
    check_sources(config)
    folder.mkdir(parents=True, exist_ok=True)
    store = TrialStore(folder)
    materials = contents(config, folder, "validation")
    rows = plan.rows_of(config)
    trials = [trial for row in rows for trial in plan.tuning(config, materials, row)]
    left = {t.key for t in trials if store.find(t) is None}
    tests = sum(
        min(config.seeds, config.methods[row.method].max_seeds or config.seeds) for row in rows
    )
    test_left = None
    if not left:
        chosen, _ = select(config, store, rows)
        test_left = _tests_left(config, store, contents(config, folder, "test"), chosen)
    return Progressed(len(rows), len({t.key for t in trials}) + tests, len(left), test_left)


def _tests_left(
    config: BenchConfig, store: TrialStore, materials: Contents, chosen: dict[RowId, Choice]
) -> int:
    trials: list[Trial] = [
        trial
        for row, choice in chosen.items()
        if choice.number is not None
        for trial in plan.testing(config, materials, row, choice.number)
    ]
    return len({trial.key for trial in trials if store.find(trial) is None})


def _say(row: RowId, choice: Choice) -> str:
    if choice.point is None:
        return f"{row}: no setting forgets far enough; it gets no number."
    score = "" if choice.score is None else f" (validation utility {choice.score:.3f})"
    return f"{row}: chosen {json.dumps(choice.point)}{score}."


def _facts(config: BenchConfig, materials: Contents) -> dict[str, Any]:
    """What the table is about: fingerprints, questions, and which of their facts are retained."""
    questions = read_questions(materials.questions)
    counts: dict[str, int] = {}
    for question in questions:
        counts[question.category] = counts.get(question.category, 0) + 1
    if config.forget_category not in counts:
        raise InputError(f"The test questions lack the category {config.forget_category!r}.")
    retain = {}
    for name, settings in materials.retain.items():
        documents = load_set(SetConfig.model_validate(settings))
        retain[name] = {
            "documents": len(documents),
            "covered": covered(questions, documents),
        }
    return {
        "questions": counts,
        "retain": retain,
        "fingerprints": materials.fingerprints,
        "own_forget": dict(materials.forget),
    }
