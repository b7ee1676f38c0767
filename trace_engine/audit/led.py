"""The runs that led to an audited model: how each ended, what it was evaluated on, and its forget
and utility figures on the way.

Read once, when the report is put together. A run that cannot be read is said to be so; of one that
recorded no fingerprint of its questions nobody may be able to say whether they are the audit's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from trace_engine.audit.names import shown_source
from trace_engine.bundled import is_bundled
from trace_engine.config import EvaluationConfig, UnlearnConfig
from trace_engine.errors import TraceError
from trace_engine.evaluation.outcome import Figure, forget_and_utility
from trace_engine.runs import RunDirectory, open_run
from trace_engine.runs.places import is_run_id

if TYPE_CHECKING:
    from trace_engine.audit.case import Case  # torch, which a page does without

Run = Mapping[str, Any]

SIDES: Final = {"forget": "forget questions", "utility": "all other questions together"}


def run_entry(name: str, case: Case) -> dict[str, Any]:
    """A run as the report has it."""
    shown = shown_source(name)
    try:
        run = open_run(name, case.base) if is_run_id(name) else RunDirectory(Path(name))
        status, facts, config = run.status(), run.facts(), run.config()
        rows = run.rows("eval")
    except TraceError as error:
        return {"run": shown, "state": "not readable", "message": str(error), "steps": None}
    asked = config.evaluation if isinstance(config, UnlearnConfig) else EvaluationConfig()
    kept = facts.get("kept")
    return {
        "run": shown,
        "state": status.state,
        "message": status.message,
        "steps": [status.step, status.max_steps],
        "same_questions": _same(asked.questions, facts.get("questions"), case),
        "kept_step": kept.get("step") if isinstance(kept, dict) else None,
        "evaluations": _evaluations(rows, asked.forget_category),
    }


def _same(source: str | None, recorded: Any, case: Case) -> bool | None:
    """Whether a run was evaluated on the audit's questions; None where nobody can say."""
    if source is None or case.config.questions is None:
        return False
    known = recorded.get("fingerprint") if isinstance(recorded, dict) else None
    if known is not None:
        return bool(known == case.questions_hash)
    # Of a version that recorded none; a bundled name stands for the same bytes everywhere.
    names = (source, case.config.questions)
    return names[0] == names[1] if all(map(is_bundled, names)) else None


def _evaluations(rows: Iterable[Mapping[str, Any]], category: str) -> list[dict[str, Any]]:
    """Per evaluation the step and both figures; none of a run that asked no questions, or whose
    rows are not what a run writes."""
    found = []
    for row in rows:
        try:
            figures = forget_and_utility(row.get("accuracy"), category)
        except (AttributeError, TypeError, ValueError, OverflowError):
            return []
        if all(figure.known for figure in figures):
            pair = zip(SIDES, figures, strict=True)
            found.append({"step": row["step"], **{side: _plain(figure) for side, figure in pair}})
    return found


def _plain(figure: Figure) -> dict[str, Any]:
    # An interval that is not known is not a number.
    return {name: None if value != value else value for name, value in asdict(figure).items()}


def told_questions(runs: Sequence[Run]) -> list[str]:
    """Which runs were evaluated on the questions that the audit asks; nothing of older reports."""
    same = [run["run"] for run in runs if run.get("same_questions")]
    unknown = [run["run"] for run in runs if run.get("same_questions", False) is None]
    said = []
    if same:
        said.append(
            f"Evaluated on the very questions of this audit: {', '.join(same)}. Settings "
            "or a step that were chosen by these evaluations make the figures on the same "
            "questions look better than they are: less is known of the forget set, and more is "
            "kept. Ask questions that no run was evaluated on."
        )
    if unknown:
        said.append(
            f"Whether these runs were evaluated on the questions of this audit is not known: "
            f"{', '.join(unknown)}."
        )
    return said


@dataclass(frozen=True, slots=True)
class Drawn:
    """One run's curves."""

    title: str
    curves: list[dict[str, Any]]
    """As a training attack's: a name (`model`) and points."""
    told: str


def drawn_runs(runs: Sequence[Run]) -> list[Drawn]:
    """Every run that has evaluations; none of older reports."""
    found = []
    for run in runs:
        rows = run.get("evaluations")
        if rows:
            curves = [
                {"model": name, "points": [{"step": row["step"], **row[side]} for row in rows]}
                for side, name in SIDES.items()
            ]
            found.append(Drawn(f"Run {run['run']}: forget and utility", curves, _told(run, rows)))
    return found


def _told(run: Run, rows: Sequence[Mapping[str, Any]]) -> str:
    n = {side: sorted({row[side]["n"] for row in rows}) for side in SIDES}
    counts = " and ".join(
        f"{of[0]:,}" if len(of) == 1 else f"{of[0]:,} to {of[-1]:,}" for of in n.values()
    )
    questions = {
        True: "the questions of this audit, as many as the run asked",
        False: "other questions than this audit's, so compare shapes rather than heights",
        None: "its own questions; whether they are this audit's is not known",
    }[run["same_questions"]]
    kept = "" if run["kept_step"] is None else f" It saved the model of step {run['kept_step']:,}."
    return (
        f"Measured by the run on its way, on {questions}: {counts} questions (forget and others), "
        f"Wilson's 95 % interval.{kept}"
    )


RUN_COLUMNS: Final = ("run", "step", "on", "value", "low", "high", "n")


def run_rows(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Every figure of the runs, a row each."""
    return [
        {"run": run["run"], "step": row["step"], "on": name, **row[side]}
        for run in runs
        for row in run.get("evaluations") or ()
        for side, name in SIDES.items()
    ]
