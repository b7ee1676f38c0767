"""A figure as every table prints it: what was measured, on what, with which code, and how sure.

A figure that could not be had is a row too, with its reason instead of a number.
"""

from dataclasses import dataclass
from typing import Any

from trace_engine.evaluation.estimate import Estimate

NO_REFERENCE = "no reference"
"""Why a figure that compares with a retrained model is not there."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One row of an evaluation."""

    measure: str
    on: str
    """The set, by the name a person gave it."""
    estimate: Estimate | None
    """None where there is no figure; then `note` says why."""
    implementation: str
    """Whose definition this follows, and the package that computed part of it."""
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        nothing = {"value": None, "low": None, "high": None, "n": None, "method": None}
        figure = nothing if self.estimate is None else self.estimate.to_dict()
        return {
            "measure": self.measure,
            "on": self.on,
            **figure,
            "implementation": self.implementation,
            "note": self.note,
        }


class Alone:
    """A family of metrics that compares with no reference model."""

    __slots__ = ()

    @property
    def needs_reference(self) -> bool:
        return False

    def collect_reference(self, opened: Any, report: Any = None) -> Any:
        raise NotImplementedError("compares with no reference")
