"""What an examination found: a line a check, each with what to do about it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

State = Literal["ok", "warning", "fault"]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at."""

    name: str
    state: State
    found: str
    """What is there, as a sentence."""
    advice: str = ""
    """What to do about it; empty where nothing needs to be done."""


@dataclass(frozen=True, slots=True)
class Report:
    checks: Sequence[Check]

    @property
    def ok(self) -> bool:
        """Whether there is no fault; warnings are not faults."""
        return all(check.state != "fault" for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        return {"ok": self.ok, "checks": [asdict(check) for check in self.checks]}
