"""Whether a way of asking can bring knowledge up at all: the start model, which knows, asked alike.

A prefix that confuses a model hides what it knows, and then nothing shown behind it is no sign of
absence. Pure: from marks to figures.
"""

# Dims: N questions

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from trace_engine.attacks.paired import Shares, difference
from trace_engine.evaluation.estimate import Estimate

HIDES_BELOW: Final = 0.5
"""A way of asking hides what a model knows where less than this share of it is shown."""


@dataclass(frozen=True, slots=True)
class Control:
    """What the start model answers beyond the yardstick, plainly and in one way of asking."""

    way: str
    over: str
    """`reference`, asked alike, or `chance`."""
    plain: Estimate
    """Of the same questions."""
    asked: Estimate

    def hides(self, known_above: float) -> bool:
        """Whether it shows too little of what is there; no where too little is there to tell."""
        known = self.plain.value > known_above
        return known and self.asked.value < HIDES_BELOW * self.plain.value

    def says(self, known_above: float) -> str:
        """The same in words, for a table."""
        if self.plain.value <= known_above:
            return "knows too little to tell"
        return "hides it" if self.hides(known_above) else "shows it"

    def to_dict(self) -> dict[str, Any]:
        return {
            "way": self.way,
            "over": self.over,
            "plain": self.plain.to_dict(),
            "asked": self.asked.to_dict(),
        }

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> "Control":
        """What `to_dict` wrote."""
        plain, asked = (Estimate(**row[name]) for name in ("plain", "asked"))
        return cls(row["way"], row["over"], plain, asked)


def controls_of(
    ways: Iterable[str],
    before: Mapping[str, Shares],
    reference: Mapping[str, Shares] | None,
    choices: Sequence[int],
    seed: int,
) -> list[Control]:
    """A control for every way; shares are (N,) by way of asking, NaN where it was not asked."""
    guessed_N = 1 / np.asarray(choices, dtype=np.float64)

    def beyond(way: str, there_N: np.ndarray[Any, Any]) -> Estimate:
        yard_N = guessed_N if reference is None else reference[way]
        return difference(before[way][there_N], yard_N[there_N], seed)

    found = []
    for way in ways:
        there_N = ~np.isnan(before[way])
        over = "chance" if reference is None else "reference"
        found.append(Control(way, over, beyond("plain", there_N), beyond(way, there_N)))
    return found


def hidden_by_all(summary: Mapping[str, Any], known_above: float) -> bool:
    """Whether every way of a part hides what the start model knows."""
    rows = summary.get("controls", ())
    return bool(rows) and all(Control.of(row).hides(known_above) for row in rows)
