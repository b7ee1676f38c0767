"""What an export reads of a run besides its files: whether it is finished, and what it noted.

A run's directory says so itself. The folder that `trace_engine.unlearn(config, out=...)` leaves has
no status; its facts tell when it is finished.
"""

from trace_engine.errors import RunError
from trace_engine.runs.directory import RunDirectory


def require_finished(run: RunDirectory) -> None:
    """Raise RunError, saying how far it is, unless the run is finished."""
    if _is_result(run):
        if "kept" not in run.facts():
            raise RunError(f"{run.id} is unfinished: its facts do not tell of an end.")
        return
    status = run.status()
    if status.state != "done":
        raise RunError(
            f"Run {run.id} is {status.state} at step {status.step} of {status.max_steps}; only a "
            "finished run has a model to export. Let it finish, or resume it."
        )


def notes_of(run: RunDirectory) -> list[str]:
    """What a reader of the run's numbers must know, in sentences."""
    if _is_result(run):
        from trace_engine.unlearning.facts import warnings_of  # loads torch, as the run had

        return warnings_of(run.facts())
    return list(run.status().notes)


def _is_result(run: RunDirectory) -> bool:
    """Whether Python's `unlearn` left the folder."""
    path = run.path
    return not (path / "status.json").exists() and (path / "facts.json").is_file()
