"""Unlearning: losses, one resumable session, the one loop that page, CLI and Python share."""

from trace_engine.unlearning.api import UnlearnResult, unlearn
from trace_engine.unlearning.loop import Drivable, Row, drive
from trace_engine.unlearning.session import Session
from trace_engine.unlearning.settling import settle_run
from trace_engine.unlearning.setup import ProfileStore, Setup, set_up
from trace_engine.unlearning.start import check_knowledge

__all__ = [
    "Drivable",
    "ProfileStore",
    "Row",
    "Session",
    "Setup",
    "UnlearnResult",
    "check_knowledge",
    "drive",
    "set_up",
    "settle_run",
    "unlearn",
]
