"""Sweeps: a small grid of settings as ordinary runs, and the front they leave. Loads no torch."""

from trace_engine.sweeps.directory import (
    SweepDirectory,
    SweepStatus,
    damaged_sweeps,
    list_sweeps,
    open_sweep,
)
from trace_engine.sweeps.file import read_sweep
from trace_engine.sweeps.launcher import (
    delete_sweep,
    launch_sweep,
    resume_sweep,
    stop_sweep,
    sweep,
)
from trace_engine.sweeps.plan import MOST_RUNS, Grid, Plan, plan_sweep
from trace_engine.sweeps.results import OPTIMISM, Outcome, outcomes, seconds_per_run

__all__ = [
    "MOST_RUNS",
    "OPTIMISM",
    "Grid",
    "Outcome",
    "Plan",
    "SweepDirectory",
    "SweepStatus",
    "damaged_sweeps",
    "delete_sweep",
    "launch_sweep",
    "list_sweeps",
    "open_sweep",
    "outcomes",
    "plan_sweep",
    "read_sweep",
    "resume_sweep",
    "seconds_per_run",
    "stop_sweep",
    "sweep",
]
