"""Background jobs that are no runs (audits, causal evidence, exports, sweeps), and how many of all
are a person's.

Made from lock files at every look: a held lock is a job at work. Accepted trade-off: what the
command line computes in a folder of its own is not seen.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from trace_engine.audit.background import audit_state
from trace_engine.disk import read_json
from trace_engine.errors import TraceError
from trace_engine.export.background import exports_at_work
from trace_engine.runs import RunDirectory, list_runs
from trace_engine.runs.asking import read_asked
from trace_engine.runs.evidence import FOLDER
from trace_engine.runs.lock import is_held
from trace_engine.runs.places import is_run_id, subfolder
from trace_engine.sweeps import open_sweep


@dataclass(frozen=True, slots=True)
class ActiveJob:
    """A job that a process holds now."""

    id: str
    name: str
    """What it is about; show it as text."""
    kind: Literal["audit", "evidence", "export", "sweep"]
    state: Literal["starting", "queued", "running"]
    progress: dict[str, Any] | None
    """As `Progress.to_dict` gives it; None where nothing is known."""
    age_seconds: float
    """Since it was last started."""
    owner: str | None
    """Who asked, a label; None where nobody had to say who they are."""


def jobs(base: Path | None = None) -> tuple[ActiveJob, ...]:
    """All of them, oldest first."""
    now = time.time()
    found = [*_audits(base, now), *_evidence(base, now), *_exports(base, now), *_sweeps(base, now)]
    return tuple(sorted(found, key=lambda job: -job.age_seconds))


def at_work(owner: str | None = None, base: Path | None = None) -> int:
    """How many runs and other jobs wait or compute, of one person or, with None, of everybody.

    A sweep counts by its runs, and as one while none of them is active.
    """
    folder = subfolder("runs", base)
    runs = [RunDirectory(folder / run.id) for run in list_runs(base) if run.status.active]
    sweeps = {run.sweep() for run in runs}
    owners = [run.owner() for run in runs]
    owners += [job.owner for job in jobs(base) if job.kind != "sweep" or job.id not in sweeps]
    return sum(owner is None or other == owner for other in owners)


def _audits(base: Path | None, now: float) -> list[ActiveJob]:
    found = []
    for folder in _held("audits", base):
        if not is_run_id(folder.name):
            continue
        try:
            state = audit_state(folder.name, base)
        except TraceError:
            continue  # deleted just now
        asked = read_asked(folder / "launch.json", folder / "lock")
        found.append(
            ActiveJob(
                folder.name,
                state.name,
                "audit",
                "running" if state.message or state.progress else "starting",
                state.progress,
                max(0.0, now - asked.began),
                asked.owner,
            )
        )
    return found


def _evidence(base: Path | None, now: float) -> list[ActiveJob]:
    found = []
    for folder in _held(FOLDER, base):
        progress = _mapping(folder / "progress.json")
        asked = read_asked(folder / "launch.json", folder / "lock")
        settings = _mapping(folder / "settings.json") or {}
        waits = str((progress or {}).get("phase", "")).startswith("waiting")
        found.append(
            ActiveJob(
                folder.name[:12],
                str(settings.get("what", "")),
                "evidence",
                "starting" if progress is None else "queued" if waits else "running",
                progress,
                max(0.0, now - asked.began),
                asked.owner,
            )
        )
    return found


def _exports(base: Path | None, now: float) -> list[ActiveJob]:
    return [
        ActiveJob(name, "", "export", "running", None, max(0.0, now - asked.began), asked.owner)
        for name, asked in exports_at_work(base)
    ]


def _sweeps(base: Path | None, now: float) -> list[ActiveJob]:
    found = []
    for folder in _held("sweeps", base):
        try:
            sweep = open_sweep(folder.name, base)
            points = sweep.points()
            begun = sum(point.run is not None for point in points)
            progress = {"phase": "runs begun", "done": begun, "total": len(points), "unit": "runs"}
            age = max(0.0, now - sweep.status().created)
            job = ActiveJob(sweep.id, sweep.name, "sweep", "running", progress, age, sweep.owner)
        except TraceError:
            continue  # half made, or damaged
        found.append(job)
    return found


def _held(name: str, base: Path | None) -> list[Path]:
    """Folders of a subfolder of the home whose lock a process holds."""
    return [
        path for path in subfolder(name, base).iterdir() if path.is_dir() and is_held(path / "lock")
    ]


def _mapping(path: Path) -> dict[str, Any] | None:
    try:
        data = read_json(path)
    except TraceError:  # damaged, and at work all the same
        return None
    return data if isinstance(data, dict) else None
