"""What a part of an audit found."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Result:
    """What a part found."""

    summary: dict[str, Any]
    """JSON values; no word of a set or a question."""
    items: dict[str, Any] = field(default_factory=dict)
    """Per-question values, likewise."""
