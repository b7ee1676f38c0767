"""What a table compares, as one file: methods, weightings, retain sets, grids, budget, seeds.

Methods and weightings are names with settings of a run under them, so that a new one is a few lines
of the file and no code here. It accepts that a misspelt setting is found when the rows are built,
not when the file is read; both come before anything is computed.
"""

import math
import re
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from trace_engine.bundled import PACK
from trace_engine.config import SetConfig
from trace_engine.errors import InputError
from trace_engine.refusal import describe
from trace_engine.yamlfile import read_yaml

BUNDLED = PACK / "bench.yaml"
MOST_POINTS = 10_000
"""Combinations of one grid, which are listed to draw from."""
Share = Annotated[float, Field(gt=0, lt=1)]
_FILE_NAME = re.compile(r"[^/\\\x00-\x1f.][^/\\\x00-\x1f]{0,79}")
"""A retain set's name is that of its file."""
_DECIDED_HERE = ("retain", "seed", "evaluation.questions", "evaluation.max_questions")


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class RetainConfig(_Settings):
    parts: Annotated[tuple[SetConfig, ...], Field(min_length=1)]
    """Sets that make up the retain set, in this order; `limit` takes the first so many of one."""


class Searched(_Settings):
    settings: dict[str, Any] = {}
    """Settings of a run, nested as in its file."""
    grid: dict[str, list[Any]] = {}
    """Settings to search, dotted (`weights.hardness`), each with the values to try."""

    @property
    def number_of_points(self) -> int:
        """How many combinations the grid has."""
        return math.prod(map(len, self.grid.values()))

    def points(self) -> list[dict[str, Any]]:
        """Every combination of the grid's values; one empty point for an empty grid."""
        return [
            dict(zip(self.grid, values, strict=True)) for values in product(*self.grid.values())
        ]


class MethodConfig(Searched):
    weightings: tuple[str, ...] | None = None
    """Only these weightings; empty means all."""
    max_seeds: Annotated[int, Field(ge=1)] | None = None
    """At most so many test seeds for this method."""


class WeightingConfig(Searched):
    role: Literal["baseline", "trace", "control"]
    """Baselines compete for strongest baseline, `trace` rows for the best with TRACE; controls are
    shown and compete for nothing."""


class BenchConfig(_Settings):
    kind: Literal["bench"] = "bench"
    name: str = ""
    """Heading of the table."""
    settings: dict[str, Any]
    """Settings that all runs share, nested as in a run's file: model, forget, max_steps, ..."""
    validation: str
    """Questions that choose hyperparameters."""
    test: str
    """Questions of the table; not read before every row's hyperparameters are chosen."""
    validation_per_group: Annotated[int, Field(ge=1)] | None = 70
    """At most so many validation questions a group, the same for every run."""
    test_per_group: Annotated[int, Field(ge=1)] | None = 150
    """At most so many test questions a group, the same for every run."""
    retain: dict[str, RetainConfig]
    """One table each."""
    methods: dict[str, MethodConfig]
    weightings: dict[str, WeightingConfig]
    compare_to: str = "uniform"
    """The weighting that paired differences are taken from."""
    budget: Annotated[int, Field(ge=1)] = 6
    """Hyperparameter settings tried per row, the same number for every row."""
    tuning_seeds: Annotated[int, Field(ge=1)] = 1
    """Runs per hyperparameter setting, with seeds of their own (1000, 1001, ...)."""
    seeds: Annotated[int, Field(ge=1)] = 3
    """Test runs per row, with seeds 0, 1, ..."""
    levels: Annotated[tuple[Share, ...], Field(min_length=1)] = (0.4, 0.5, 0.6)
    """Forget accuracies at which utility is compared; the first one chooses hyperparameters."""
    margin: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """A setting can be chosen only if it forgets so much further than the first level."""
    area: tuple[Share, Share] = (0.4, 0.9)
    """Forget accuracies between which utility is averaged."""
    resamples: Annotated[int, Field(ge=100)] = 2000
    """Bootstrap resamples of seeds and questions."""
    seed: int = 0
    """Decides which questions are asked, the order of the grids, and the resamples."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        for what in ("retain", "methods", "weightings"):
            if not getattr(self, what):
                raise ValueError(f"{what} is empty: a table needs at least one")
        for name in self.retain:
            if not _FILE_NAME.fullmatch(name):
                raise ValueError(
                    f"retain has the name {name[:60]!r}, which cannot be that of a file: leave out "
                    "slashes, control characters and a dot at the beginning; at most 80 characters"
                )
        if self.compare_to not in self.weightings:
            raise ValueError(f"compare_to names no weighting of the file: {self.compare_to!r}")
        if not self.area[0] < self.area[1]:
            raise ValueError(f"area must rise from its first to its second number: {self.area}")
        for name, method in self.methods.items():
            unknown = sorted(set(method.weightings or ()) - set(self.weightings))
            if unknown:
                raise ValueError(f"methods.{name} names weightings that are not there: {unknown}")
            points = method.number_of_points
            if points < self.budget:
                raise ValueError(
                    f"methods.{name} has a grid of {points} points, fewer than the budget "
                    f"of {self.budget} that every row gets; widen the grid or lower the budget"
                )
        for kind in ("methods", "weightings"):
            for name, part in getattr(self, kind).items():
                if part.number_of_points > MOST_POINTS:
                    raise ValueError(
                        f"{kind}.{name} has a grid of {part.number_of_points} points; at most "
                        f"{MOST_POINTS:,} can be drawn from"
                    )
        for where, given in self._given():
            taken = [name for name in _DECIDED_HERE if name in given]
            if taken:
                raise ValueError(f"{where} sets {taken[0]}, which the table itself decides")
            for name in given if where != "settings" else ():
                self._reads_what_its_method_does(where, name)
        return self

    def _reads_what_its_method_does(self, where: str, name: str) -> None:
        """Refuse rows of one table on other models, and of one method on other forget sets."""
        kind, _, method = where.partition(".")
        whole, own = name.partition(".")[0], kind == "methods"
        if whole == "model":
            raise ValueError(f"{where} sets {name}: a table has one model, that of its settings")
        if whole == "forget" and not (own and name not in self.methods[method].grid):
            raise ValueError(
                f"{where} sets {name}: a forget set of its own is for a method's settings, not "
                "for a grid or a weighting"
            )

    def _given(self) -> list[tuple[str, set[str]]]:
        parts = [("settings", flat(self.settings))]
        for kind in ("methods", "weightings"):
            parts += [
                (f"{kind}.{name}", {**flat(part.settings), **part.grid})
                for name, part in getattr(self, kind).items()
            ]
        return [(where, set(found)) for where, found in parts]

    def forget_of(self, method: str) -> dict[str, Any]:
        """Settings of the forget set that a method's runs read: its own, or everybody's."""
        return dict(merged(self.settings, self.methods[method].settings).get("forget", {}))

    @property
    def controlled(self) -> dict[str, str]:
        """By control, the rule in whose place it stands, where its settings name one."""
        rules = {
            name: flat(weighting.settings).get("weights.rule")
            for name, weighting in self.weightings.items()
            if weighting.role == "control"
        }
        return {name: str(rule) for name, rule in rules.items() if rule}

    @property
    def forget_category(self) -> str:
        """Group of the questions that should be forgotten."""
        return str(self.settings.get("evaluation", {}).get("forget_category", "hazard"))

    def only(
        self,
        retain: tuple[str, ...] = (),
        methods: tuple[str, ...] = (),
        weightings: tuple[str, ...] = (),
    ) -> "BenchConfig":
        """The same table with the named parts only; an empty choice means all.

        Raises InputError for a name that is not there.
        """
        chosen: dict[str, Any] = {}
        for what, names in (("retain", retain), ("methods", methods), ("weightings", weightings)):
            there = getattr(self, what)
            unknown = [name for name in names if name not in there]
            if unknown:
                raise InputError(
                    f"The table has no {what} {unknown[0]!r}; it has {', '.join(there)}."
                )
            chosen[what] = {name: there[name] for name in there if not names or name in names}
        chosen["methods"] = {
            name: method.model_copy(
                update={
                    "weightings": method.weightings
                    and tuple(w for w in method.weightings if w in chosen["weightings"])
                }
            )
            for name, method in chosen["methods"].items()
        }
        return checked(self.model_dump(mode="python") | chosen, "the chosen part of the table")


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings with dotted names."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found


def merged(*parts: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings laid over each other; a later part wins."""
    result: dict[str, Any] = {}
    for part in parts:
        for name, value in part.items():
            inner = result.get(name)
            both = isinstance(value, Mapping) and isinstance(inner, Mapping)
            result[name] = merged(inner or {}, value) if both else value
    return result


def nested(point: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted names as nested settings."""
    result: dict[str, Any] = {}
    for name, value in point.items():
        for part in reversed(name.split(".")):
            value = {part: value}
        result = merged(result, value)
    return result


def checked(data: Any, where: str) -> BenchConfig:
    """Validate a mapping. Raises InputError naming each field."""
    if not isinstance(data, dict):
        raise InputError(f"{where}: expected a mapping of settings, found {type(data).__name__}.")
    try:
        return BenchConfig.model_validate(data)
    except ValidationError as error:
        raise InputError(f"{where}: {describe(error, BenchConfig)}") from None


def read_bench(path: str | Path) -> BenchConfig:
    """Read a table's YAML file. Raises InputError when it is missing, not YAML, or refused."""
    path = Path(path)
    return checked(read_yaml(path, "table's file"), path.name)


def bundled_bench() -> BenchConfig:
    """The bundled pack's table."""
    return read_bench(BUNDLED)
