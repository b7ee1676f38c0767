"""Whether this machine is fit for the work, and what it is doing now. Loads no torch: what needs it
runs in a process of its own."""

from trace_engine.health.examine import doctor
from trace_engine.health.machine import ActiveRun, MachineStatus, status
from trace_engine.health.report import Check, Report

__all__ = ["ActiveRun", "Check", "MachineStatus", "Report", "doctor", "status"]
