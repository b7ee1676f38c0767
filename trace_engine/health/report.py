"""What an examination found: a line a check, each with what to do about it."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from trace_engine.errors import TraceError

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


def looked(name: str, look: Callable[[], Check]) -> Check:
    """The check, or a fault of that name: a report is wanted most where much is broken, so nothing
    that one check meets may end it."""
    try:
        return look()
    except TraceError as error:
        return Check(name, "fault", str(error))
    except OSError as error:
        where = f"{error.filename} cannot" if error.filename else "It cannot"
        return Check(name, "fault", f"{where} be looked at ({error.strerror or error}).")
    except Exception as error:
        found = f"It cannot be looked at: an unexpected {type(error).__name__} ({error})."
        return Check(name, "fault", found)


@dataclass(frozen=True, slots=True)
class Report:
    checks: Sequence[Check]

    @property
    def ok(self) -> bool:
        """Whether there is no fault; warnings are not faults."""
        return all(check.state != "fault" for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        return {"ok": self.ok, "checks": [asdict(check) for check in self.checks]}
