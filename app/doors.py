"""What a page can start, stop, change or delete: each door asks the house's rules first.

Pages and views call these and never the engine's own; a test reads their imports. What they take
and return, and what they raise besides, is the engine's.
"""

from collections.abc import Sequence

from app import house
from app.inspecting import Inspecting
from trace_engine import runs, sweeps
from trace_engine.audit import background as audits
from trace_engine.audit.settings import AuditConfig, read_audit
from trace_engine.causal.settings import CausalConfig
from trace_engine.config import ModelConfig, ProfileConfig, UnlearnConfig
from trace_engine.export import Form
from trace_engine.export.background import start_export as _start_export
from trace_engine.runs import RunDirectory, evidence
from trace_engine.sets import DocumentSet
from trace_engine.sweeps.plan import Grid

_TRAINING = "this audit's relearning or recovery"


def launch(config: UnlearnConfig | ProfileConfig, *, token: str | None = None) -> str:
    """Start a run or a profile."""
    with house.starting(config) as owner:
        return runs.launch(config, token=token, owner=owner)


def resume(run: str) -> str:
    """Go on with a run."""
    house.may_change()
    with house.starting(runs.open_run(run).config()) as owner:
        return runs.resume(run, owner=owner)


def stop(run: str) -> None:
    """End a run after its step."""
    house.may_change()
    runs.stop(run)


def delete(run: str) -> None:
    """Delete a run's folder."""
    house.may_change()
    runs.delete(run)


def store_set(documents: DocumentSet) -> str:
    """Keep a set of one's own, and say where."""
    house.may_take(sum(len(document.text.encode()) for document in documents.documents))
    return runs.store_set(documents)


def launch_sweep(base: UnlearnConfig, grids: Sequence[Grid], name: str, *, token: str) -> str:
    """Start a sweep."""
    with house.starting(base, steps=max([base.max_steps, *_steps(grids)])) as owner:
        return sweeps.launch_sweep(base, grids, name, token=token, owner=owner)


def resume_sweep(sweep: str) -> None:
    """Make what a sweep lacks."""
    house.may_change()
    points = sweeps.open_sweep(sweep).points()
    with house.starting(steps=max((p.config.max_steps for p in points), default=0)) as owner:
        sweeps.resume_sweep(sweep, owner=owner)


def stop_sweep(sweep: str) -> None:
    """End a sweep and its runs."""
    house.may_change()
    sweeps.stop_sweep(sweep)


def delete_sweep(sweep: str) -> None:
    """Forget a sweep; its runs stay."""
    house.may_change()
    sweeps.delete_sweep(sweep)


def start_export(run: RunDirectory, form: Form) -> None:
    """Write a run's model as a folder."""
    with house.starting() as owner:
        _start_export(run, form, owner=owner)


def inspect(config: ModelConfig, *, trial: bool = False) -> Inspecting:
    """Look at a model in a process of its own."""
    with house.starting() as owner:
        return Inspecting(config, trial=trial, owner=owner)


def launch_audit(config: AuditConfig, *, token: str | None = None) -> str:
    """Start an audit."""
    with house.starting(steps=_trained(config), asking=_TRAINING) as owner:
        return audits.launch_audit(config, token=token, owner=owner)


def resume_audit(audit: str) -> None:
    """Compute the parts that an audit lacks."""
    house.may_change()
    config = read_audit(audits.audit_folder(audit) / "audit.yaml")
    with house.starting(steps=_trained(config), asking=_TRAINING) as owner:
        audits.resume_audit(audit, owner=owner)


def stop_audit(audit: str) -> None:
    """End an audit; its finished parts are kept."""
    house.may_change()
    audits.stop_audit(audit)


def start_evidence(config: CausalConfig) -> None:
    """Compute causal evidence."""
    with house.starting() as owner:
        evidence.start_evidence(config, owner=owner)


def stop_evidence(config: CausalConfig) -> None:
    """End it; what it has found is kept."""
    house.may_change()
    evidence.stop_evidence(config)


def _steps(grids: Sequence[Grid]) -> list[int]:
    return [int(value) for grid in grids for value in grid.get("max_steps", ())]


def _trained(config: AuditConfig) -> int:
    """Steps of the longest training of an audit."""
    trainings = {"relearning": config.relearning.steps, "recovery": config.recovery.steps}
    asked = config.parts
    return max((n for part, n in trainings.items() if asked is None or part in asked), default=0)
