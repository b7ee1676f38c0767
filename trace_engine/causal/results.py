"""What ablations came to, as plain records: one set of experts, or every expert of a model.

Frozen, JSON both ways, and free of torch, so that a page or a report reads them without a model.
Accepted cost: a scan of a large model is a file of some megabytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from trace_engine.causal.paired import (
    INTERVALS,
    TESTS,
    TESTS_OF_ONE,
    Change,
    Effect,
    corrected_together,
)
from trace_engine.config import Cell
from trace_engine.errors import InputError
from trace_engine.formats import require_known
from trace_engine.spelling import NBSP

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = 1
FORGET, UTILITY = "forget", "utility"
EQUAL = 0.1
"""How far a random set's load may be from that of the set it stands for, relative to it."""

Mode = Literal["drop", "reroute"]
Harm = Literal[
    "forget_loss",
    "utility_loss",
    "specific_loss",
    "forget_accuracy",
    "utility_accuracy",
    "specific_accuracy",
]
"""Figures that are compared with random sets, all turned so that more is more harm; `specific` is
the harm to the forget group beyond that to utility."""
HARMS: Final[dict[Harm, str]] = {
    "specific_loss": "loss, forget beyond utility",
    "forget_loss": "loss, forget",
    "utility_loss": "loss, utility",
    "specific_accuracy": "accuracy lost, forget beyond utility",
    "forget_accuracy": "accuracy lost, forget",
    "utility_accuracy": "accuracy lost, utility",
}
"""The same in words."""


@dataclass(frozen=True, slots=True)
class Replayable:
    """Whether ablations in a layer may start from stored hidden states, and what the check saw."""

    layer: int
    reused: bool
    largest_difference: float | None
    """Between replay and full forward, in nats; None where the replay failed."""


@dataclass(frozen=True, slots=True)
class Band:
    """One figure of a set beside that of the random sets."""

    value: float
    low: float | None
    """2.5 % and 97.5 % quantiles of the random sets; None without one."""
    high: float | None
    as_much: int
    """Random sets that do at least as much harm."""
    n: int
    """Random sets."""

    @property
    def p(self) -> float:
        """One-sided: (1 + as_much) / (1 + n)."""
        return (1 + self.as_much) / (1 + self.n)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"p": self.p}


def band(value: float, others: Sequence[float]) -> Band:
    """A figure beside those of random sets."""
    if not others:
        return Band(value, None, None, 0, 0)
    low, high = np.quantile(np.array(others), [0.025, 0.975])
    # Equal harm counts against the set, whatever rounding says.
    as_much = sum(other >= value - 1e-12 for other in others)
    return Band(value, float(low), float(high), as_much, len(others))


@dataclass(frozen=True, slots=True)
class RandomSet:
    """What one random set of experts came to."""

    cells: tuple[Cell, ...]
    load: float
    equal: bool
    harm: dict[str, float]
    """By the names of `MEASURES`."""


@dataclass(frozen=True, slots=True)
class Loads:
    """How much passes through random sets, beside the set that they stand for."""

    own: float
    low: float
    """Least and most of the random sets."""
    high: float
    equal: int
    """Random sets within `EQUAL` of `own`."""
    n: int
    """Random sets."""

    @classmethod
    def of(cls, own: float, random: Sequence[RandomSet]) -> Loads | None:
        """None without random sets."""
        carried = [drawn.load for drawn in random]
        if not carried:
            return None
        equal = sum(drawn.equal for drawn in random)
        return cls(own, min(carried), max(carried), equal, len(carried))

    @property
    def sentence(self) -> str:
        """As part of one."""
        return (
            f"{self.equal} of {self.n} within {100 * EQUAL:g}{NBSP}% of its load of "
            f"{self.own:.3f}, all at {self.low:.3f} to {self.high:.3f}"
        )


OrderKind = Literal["one_at_a_time", "greedy"]


@dataclass(frozen=True, slots=True)
class OrderStep:
    """What is left once this expert is out too."""

    cell: Cell
    forget: Effect
    """From the model as it is."""
    utility: Effect


@dataclass(frozen=True, slots=True)
class Order:
    """A set's experts taken out one after the other."""

    kind: OrderKind
    steps: tuple[OrderStep, ...]


@dataclass(frozen=True, slots=True)
class Ablation:
    """What hangs on a set of experts."""

    model: dict[str, Any]
    """Source, revision and fingerprint."""
    cells: tuple[Cell, ...]
    mode: Mode
    forget_category: str
    effects: tuple[Effect, ...]
    """Forget, utility, and the utility's categories; p corrected over all of them."""
    load: float
    load_source: str
    random: tuple[RandomSet, ...]
    bands: dict[str, Band]
    """By the names of `MEASURES`; empty without random sets."""
    prefix: tuple[Replayable, ...]
    permutations: int
    seed: int
    order: Order | None = None

    def effect(self, name: str) -> Effect:
        """The effect on one group."""
        return next(effect for effect in self.effects if effect.group == name)

    @property
    def loads(self) -> Loads | None:
        """What the random sets carry; None without one."""
        return Loads.of(self.load, self.random)

    @property
    def sentence(self) -> str:
        """The finding in plain words."""
        return describe(self)

    def to_dict(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "what": "ablation",
            "model": self.model,
            "cells": [list(cell) for cell in self.cells],
            "mode": self.mode,
            "forget_category": self.forget_category,
            "sentence": self.sentence,
            "effects": [effect.to_dict() for effect in self.effects],
            "tests": TESTS_OF_ONE,
            "intervals": INTERVALS,
            "load": self.load,
            "load_source": self.load_source,
            "equal_load": EQUAL,
            "random": [asdict(drawn) for drawn in self.random],
            "bands": {name: band.to_dict() for name, band in self.bands.items()},
            "order": None if self.order is None else asdict(self.order),
            "prefix": [asdict(found) for found in self.prefix],
            "permutations": self.permutations,
            "seed": self.seed,
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Ablation:
        """What `to_dict` wrote. Raises InputError for anything else."""
        with reading("ablation", data):
            return cls(
                **{name: data[name] for name in _ABLATION_FIELDS},
                cells=cells_of(data["cells"]),
                # Earlier versions wrote the plain p as the corrected one.
                effects=corrected_together([effect_of(effect) for effect in data["effects"]]),
                random=tuple(random_set_of(drawn) for drawn in data["random"]),
                bands={name: band_of(found) for name, found in data["bands"].items()},
                order=_order(data.get("order")),
                prefix=tuple(Replayable(**found) for found in data["prefix"]),
            )


@dataclass(frozen=True, slots=True)
class Specific:
    """Rise of the forget group's loss beyond the utility's, in nats per token."""

    value: float
    low: float | None
    """95 % interval: two independent groups of questions, normal."""
    high: float | None


@dataclass(frozen=True, slots=True)
class CellEffect:
    """What hangs on one expert."""

    layer: int
    expert: int
    tokens: int
    """Tokens of the questions that reach it; 0 means an effect of exactly 0."""
    load: float
    forget: Effect
    utility: Effect
    specific: Specific
    band: Band
    """`specific` beside that of the cells nearest in load."""

    @property
    def cell(self) -> Cell:
        return Cell(self.layer, self.expert)


@dataclass(frozen=True, slots=True)
class Scan:
    """What hangs on each expert of a model."""

    model: dict[str, Any]
    mode: Mode
    forget_category: str
    questions: int
    tokens: int
    """Tokens of the questions, choices included."""
    forget_accuracy: float
    """Of the model as it is."""
    utility_accuracy: float
    cells: tuple[CellEffect, ...]
    """In layer and expert order."""
    load_source: str
    prefix: tuple[Replayable, ...]
    permutations: int
    seed: int

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; the same questions of the same model give the same."""
        return {
            "schema": SCHEMA,
            "what": "scan",
            "model": self.model,
            "mode": self.mode,
            "forget_category": self.forget_category,
            "questions": self.questions,
            "tokens": self.tokens,
            "forget_accuracy": self.forget_accuracy,
            "utility_accuracy": self.utility_accuracy,
            "tests": TESTS,
            "intervals": INTERVALS,
            "load_source": self.load_source,
            "prefix": [asdict(found) for found in self.prefix],
            "permutations": self.permutations,
            "seed": self.seed,
            "cells": [asdict(cell) for cell in self.cells],
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Scan:
        """What `to_dict` wrote. Raises InputError for anything else."""
        with reading("scan", data):
            fields = {name: data[name] for name in _SCAN_FIELDS}
            return cls(
                **fields,
                cells=tuple(_cell_effect(cell) for cell in data["cells"]),
                prefix=tuple(Replayable(**found) for found in data["prefix"]),
            )

    def table(self) -> pd.DataFrame:
        """One row a cell: effects with intervals and p-values, load, band."""
        import pandas as pd

        return pd.DataFrame([_row(cell) for cell in self.cells])


def _row(cell: CellEffect) -> dict[str, Any]:
    row: dict[str, Any] = {
        "layer": cell.layer,
        "expert": cell.expert,
        "tokens": cell.tokens,
        "load": cell.load,
    }
    for effect in (cell.forget, cell.utility):
        for measure, change in (("accuracy", effect.accuracy), ("loss", effect.loss)):
            name = f"{effect.group}_{measure}"
            row |= {
                name: change.change,
                f"{name}_low": change.low,
                f"{name}_high": change.high,
                f"{name}_p": change.p,
                f"{name}_p_corrected": change.p_corrected,
            }
    return row | {
        "specific": cell.specific.value,
        "specific_low": cell.specific.low,
        "specific_high": cell.specific.high,
        "band_low": cell.band.low,
        "band_high": cell.band.high,
        "band_p": cell.band.p,
        "n_forget": cell.forget.n,
        "n_utility": cell.utility.n,
    }


def describe(found: Ablation) -> str:
    """A set's finding in plain words: what it did, how sure that is, what random experts do."""
    return told(
        found.cells,
        found.mode,
        found.forget_category,
        {effect.group: effect for effect in found.effects},
        found.bands.get("specific_loss"),
        found.loads,
    )


def told(
    cells: Sequence[Cell],
    mode: Mode,
    forget_category: str,
    effects: Mapping[str, Effect],
    specific: Band | None,
    loads: Loads | None,
) -> str:
    """The same from what a report keeps of it."""
    forget, utility = effects[FORGET], effects[UTILITY]
    names = ", ".join(f"L{cell.layer} E{cell.expert}" for cell in cells[:6])
    more = f" and {len(cells) - 6} more" if len(cells) > 6 else ""
    how = "dropped" if mode == "drop" else "re-routed to the next best"
    text = (
        f"With {names}{more} {how}, accuracy on {forget_category} goes "
        f"{forget.accuracy.before:.3f} → {forget.accuracy.after:.3f} (n = {forget.n}, "
        f"corrected p = {forget.accuracy.p_corrected:.2g}) and on everything else "
        f"{utility.accuracy.before:.3f} → {utility.accuracy.after:.3f} (n = {utility.n}, "
        f"corrected p = {utility.accuracy.p_corrected:.2g}); the right answers' loss rises by "
        f"{forget.loss.change:+.3f} and {utility.loss.change:+.3f} nats a token."
    )
    if specific is None or loads is None:
        return text
    return (
        f"{text} Of {specific.n} random sets ({loads.sentence}), {specific.as_much} harm "
        f"{forget_category} beyond the rest at least as much (p = {specific.p:.2g})."
    )


_ABLATION_FIELDS = (
    "model",
    "mode",
    "forget_category",
    "load",
    "load_source",
    "permutations",
    "seed",
)
_SCAN_FIELDS = (
    "model",
    "mode",
    "forget_category",
    "questions",
    "tokens",
    "forget_accuracy",
    "utility_accuracy",
    "load_source",
    "permutations",
    "seed",
)


@contextmanager
def reading(what: str, data: dict[str, Any]) -> Iterator[None]:
    """Turns what is not such a result, damaged, or a newer version's into an InputError."""
    try:
        require_known(data, SCHEMA, f"This {what}", InputError, field="schema")
        if data["what"] != what:
            found = str(data["what"])[:40]
            raise InputError(f"Expected the result of one {what}, found {found!r}.")
        yield
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        why = str(error)[:100]
        raise InputError(f"The {what} is damaged: it cannot be read ({why}).") from None


def effect_of(data: dict[str, Any]) -> Effect:
    """An effect as `Effect.to_dict` wrote it."""
    changes = {name: Change(**data[name]) for name in ("accuracy", "loss")}
    return Effect(**(data | changes))


def cells_of(data: list[list[int]]) -> tuple[Cell, ...]:
    """Cells as JSON holds them."""
    return tuple(Cell(int(layer), int(expert)) for layer, expert in data)


def _order(data: dict[str, Any] | None) -> Order | None:
    if data is None:
        return None
    return Order(
        data["kind"],
        tuple(
            OrderStep(Cell(*row["cell"]), effect_of(row["forget"]), effect_of(row["utility"]))
            for row in data["steps"]
        ),
    )


def random_set_of(data: Mapping[str, Any]) -> RandomSet:
    """A random set as JSON holds it."""
    return RandomSet(**{**data, "cells": cells_of(data["cells"])})


def band_of(data: Mapping[str, Any]) -> Band:
    """A band as `Band.to_dict` wrote it."""
    return Band(**{name: value for name, value in data.items() if name != "p"})


def _cell_effect(data: dict[str, Any]) -> CellEffect:
    parts = {
        "forget": effect_of(data["forget"]),
        "utility": effect_of(data["utility"]),
        "specific": Specific(**data["specific"]),
        "band": band_of(data["band"]),
    }
    return CellEffect(**(data | parts))
