"""Unlearning: losses, one resumable session, the one loop that page, CLI and Python share."""

from trace_engine.unlearning.api import UnlearnResult, unlearn
from trace_engine.unlearning.loop import Drivable, Row, drive
from trace_engine.unlearning.session import Session
from trace_engine.unlearning.setup import Setup, set_up

__all__ = ["Drivable", "Row", "Session", "Setup", "UnlearnResult", "drive", "set_up", "unlearn"]
