"""What a machine is doing with its home: who computes, who waits, and the room that is left.

Made from run directories, slot files and the system at every look. Accepted trade-off: what other
programs do with the machine shows as missing room only.
"""

import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

from trace_engine.health.busy import ActiveJob, jobs
from trace_engine.limits import container_room
from trace_engine.runs import RunSummary, home, list_runs
from trace_engine.runs.queue import busy, capacity
from trace_engine.spelling import size

KINDS = {"unlearn": "unlearning", "profile": "profiles", "evidence": "causal evidence"}
"""Kinds of job, and what their workers are for; each has slots of its own, so that a map never
waits for a training run."""


@dataclass(frozen=True, slots=True)
class ActiveRun:
    """A run that a worker holds now."""

    id: str
    name: str
    """The label; show it as text."""
    kind: str
    state: str
    """starting, queued or running."""
    step: int
    max_steps: int
    """0 for a profile."""
    age_seconds: float
    """Since its attempt left the queue; since it was launched, before that."""
    silent_seconds: float
    """Since the worker last reported."""
    message: str


@dataclass(frozen=True, slots=True)
class Slots:
    busy: int
    total: int


@dataclass(frozen=True, slots=True)
class MachineStatus:
    active: tuple[ActiveRun, ...]
    """Running ones first, then the waiting ones, oldest first."""
    jobs: tuple[ActiveJob, ...]
    """What is at work besides runs, oldest first."""
    slots: dict[str, Slots]
    """Per kind of job, how many compute and how many may."""
    ended: dict[str, int]
    """How many other runs there are, by state."""
    disk_free: int
    disk_total: int
    """Bytes where the home lies."""
    memory_free: int
    memory_total: int
    """Bytes of the machine; what is free is what its containers leave."""

    @property
    def queued(self) -> int:
        states = [run.state for run in self.active] + [job.state for job in self.jobs]
        return states.count("queued")

    def sentences(self) -> list[str]:
        """Slots, queue, disk and memory in words, for page and command."""
        slots = ", ".join(
            f"{at.busy} of {at.total} for {KINDS[kind]}" for kind, at in self.slots.items()
        )
        return [
            f"Workers that compute: {slots}. Waiting: {self.queued}.",
            f"Disk: {size(self.disk_free)} of {size(self.disk_total)} free. "
            f"Memory: {size(self.memory_free)} of {size(self.memory_total)} free.",
        ]

    def to_dict(self) -> dict[str, Any]:
        told = asdict(self)
        for job in told["jobs"]:
            del job["owner"]  # nobody's business, as with runs
        return told


def status(base: Path | None = None) -> MachineStatus:
    """The machine now. Raises InputError when TRACE_WORKERS is not a number of workers."""
    runs = list_runs(base)
    ended: dict[str, int] = {}
    for run in runs:
        if not run.status.active:
            ended[run.status.state] = ended.get(run.status.state, 0) + 1
    disk = shutil.disk_usage(home(base))
    memory = psutil.virtual_memory()
    now = time.time()
    active = [_active(run, now) for run in runs if run.status.active]
    return MachineStatus(
        active=tuple(sorted(active, key=lambda run: (run.state == "queued", -run.age_seconds))),
        jobs=jobs(base),
        slots={kind: Slots(busy(kind, base), capacity(kind)) for kind in KINDS},
        ended=ended,
        disk_free=disk.free,
        disk_total=disk.total,
        memory_free=min([int(memory.available), *container_room()]),
        memory_total=int(memory.total),
    )


def _active(run: RunSummary, now: float) -> ActiveRun:
    found = run.status
    waiting = found.state == "queued" or not found.started
    return ActiveRun(
        id=run.id,
        name=run.name,
        kind=run.kind,
        state=found.state,
        step=found.step,
        max_steps=found.max_steps,
        age_seconds=max(0.0, now - (found.created if waiting else found.started)),
        silent_seconds=found.silent_seconds or 0.0,
        message=found.message,
    )
