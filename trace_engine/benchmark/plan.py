"""A table's rows and the runs that each of them needs, as data.

A run is addressed by its settings and by the contents of model, sets and questions: whatever asked
for it, it is computed once. Every row tries the same number of hyperparameter settings, and the
rows of one method the same settings of the method.
"""

import hashlib
import json
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from trace_engine.benchmark.settings import BenchConfig, flat, merged, nested
from trace_engine.config import UnlearnConfig, identity_of, parse_config
from trace_engine.errors import InputError

SCHEMA = 1
FIRST_TUNING_SEED = 1000
Phase = Literal["validation", "test"]
Point = dict[str, Any]
_CONTENT = (
    "name",
    "forget.",
    "retain.",
    "model.source",
    "model.revision",
    "evaluation.questions",
    "checkpoint_every",
)
"""Settings that are labels, places (their contents are addressed instead) or change nothing."""


class RowId(NamedTuple):
    """One line of the table."""

    retain: str
    method: str
    weighting: str

    def __str__(self) -> str:
        return f"{self.retain}, {self.method}, {self.weighting}"


@dataclass(frozen=True, slots=True)
class Contents:
    """Where the sets and questions of a phase lie, and what they are."""

    retain: dict[str, dict[str, Any]]
    """Per retain set the `retain` settings of its runs."""
    questions: str
    """Path of the phase's questions."""
    fingerprints: dict[str, dict[str, str]]
    """Per retain set: fingerprints of `model`, `forget`, `retain` and `questions`."""
    forget: Mapping[str, str] = field(default_factory=dict)
    """Fingerprints of forget sets by method, for those that have one of their own."""

    def prints(self, row: RowId) -> dict[str, str]:
        """Fingerprints of what a row's runs read."""
        own = self.forget.get(row.method)
        return self.fingerprints[row.retain] | ({} if own is None else {"forget": own})


@dataclass(frozen=True, slots=True)
class Trial:
    """One run of a row."""

    row: RowId
    phase: Phase
    number: int
    """Which of the row's hyperparameter settings."""
    point: Point
    seed: int
    config: UnlearnConfig
    key: str
    """Its content address."""
    fingerprints: dict[str, str]
    """Of what it reads: `model`, `forget`, `retain` and `questions`."""


def rows_of(config: BenchConfig) -> list[RowId]:
    """The table's lines, retain set by retain set."""
    return [
        RowId(retain, method, weighting)
        for retain in config.retain
        for method, settings in config.methods.items()
        for weighting in config.weightings
        if settings.weightings is None or weighting in settings.weightings
    ]


def points_of(config: BenchConfig, row: RowId) -> list[Point]:
    """The hyperparameter settings that a row tries: `budget` of them.

    The method's grid is put in a random order, the same for all its rows; the weighting's grid is
    gone through in turn beside it.
    """
    method = config.methods[row.method].points()
    random.Random(f"{config.seed}-{row.method}").shuffle(method)
    weighting = config.weightings[row.weighting].points()
    return [
        {**method[number], **weighting[number % len(weighting)]} for number in range(config.budget)
    ]


def settings_of(config: BenchConfig, row: RowId, point: Point) -> dict[str, Any]:
    """A row's settings at a point, without retain set, questions and seed."""
    return merged(
        config.settings,
        config.methods[row.method].settings,
        config.weightings[row.weighting].settings,
        nested(point),
    )


def trial(
    config: BenchConfig, contents: Contents, row: RowId, phase: Phase, number: int, seed: int
) -> Trial:
    """One run. Raises InputError naming the row when its settings are refused."""
    point = points_of(config, row)[number]
    asked = merged(
        settings_of(config, row, point),
        {"evaluation": {"questions": contents.questions}},
        {"retain": contents.retain[row.retain], "seed": seed},
    )
    settings = parse_config(asked, f"Row {row}")
    if not isinstance(settings, UnlearnConfig):
        raise InputError(f"Row {row}: kind must be unlearn, found {settings.kind}.")
    prints = contents.prints(row)
    key = address(settings, prints)
    return Trial(row, phase, number, point, seed, settings, key, prints)


def tuning(config: BenchConfig, contents: Contents, row: RowId) -> Iterator[Trial]:
    """The runs that choose a row's hyperparameters."""
    for number in range(config.budget):
        for extra in range(config.tuning_seeds):
            seed = FIRST_TUNING_SEED + extra
            yield trial(config, contents, row, "validation", number, seed)


def testing(config: BenchConfig, contents: Contents, row: RowId, number: int) -> Iterator[Trial]:
    """The runs that measure a row at its chosen setting."""
    for seed in range(min(config.seeds, config.methods[row.method].max_seeds or config.seeds)):
        yield trial(config, contents, row, "test", number, seed)


def address(settings: UnlearnConfig, fingerprints: Mapping[str, str]) -> str:
    """SHA-256, 64 hex digits, of what decides a run.

    Fields at their default are left out, so that a field which a later version adds changes no
    address; `same_question` catches a default that changed.
    """
    asked = content(settings.model_dump(mode="json", exclude_defaults=True))
    data = {"schema": SCHEMA, "settings": asked, "fingerprints": dict(fingerprints)}
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def content(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted settings that decide a run's numbers, beside the contents of its files."""
    return {name: value for name, value in flat(settings).items() if not name.startswith(_CONTENT)}


def same_question(recorded: Mapping[str, Any], settings: UnlearnConfig) -> bool:
    """Whether a recorded run had these settings, as far as its version knew them.

    A number that is left to the method now was once written out: the one that the method has, or
    that stood in every file, is the same.
    """
    now = content(settings.model_dump(mode="json"))
    held = flat(identity_of(settings)) | {"retain_term": settings.kept}
    return all(
        name in now and (now[name] == value or (now[name] is None and held.get(name) == value))
        for name, value in recorded.items()
    )
