"""Whether this machine is fit for the work, and what it is doing now. Loads no torch: what needs it
runs in a process of its own."""

from trace_engine.health.busy import ActiveJob, at_work, jobs
from trace_engine.health.examine import doctor
from trace_engine.health.machine import ActiveRun, MachineStatus, status
from trace_engine.health.report import Check, Report

__all__ = [
    "ActiveJob",
    "ActiveRun",
    "Check",
    "MachineStatus",
    "Report",
    "at_work",
    "doctor",
    "jobs",
    "status",
]
