"""Which runs a sweep consists of: a base, values per field, and every combination once.

Two combinations that differ only in settings without effect (uniform weights and any top-k) are one
run, and the plan says which. It accepts knowing the engine's switches here: a test trains both
sides of each rule and compares the bits.
"""

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from trace_engine.config import UnlearnConfig, identity_of
from trace_engine.errors import InputError
from trace_engine.methods import METHODS
from trace_engine.refusal import describe
from trace_engine.runs.preflight import require_one_way

MOST_RUNS = 64
"""One sweep's runs at most: beyond it a person wants a search, or the bench, not a picture."""
Grid = Mapping[str, Sequence[Any]]
"""Dotted field -> values, such as `selection.top_k` -> (1, 2, 4); all combinations of them."""
TEST_QUESTIONS = "demo:questions/test"
SHORT = {
    "selection.top_k": "top-k",
    "weights.rule": "",
    "weights.strength": "η",
    "weights.hardness": "κ",
}
"""What a point's label calls a field; an empty name leaves the value alone."""
_FIXED = ("name", "kind", "model", "forget", "evaluation")
"""What all points share: without it their figures could not stand in one picture."""


@dataclass(frozen=True, slots=True)
class PlannedPoint:
    """One run of a sweep."""

    label: str
    """The swept values that have an effect: `top-k 2, exact, κ 0.5`."""
    values: dict[str, Any]
    """Dotted field -> value."""
    config: UnlearnConfig


@dataclass(frozen=True, slots=True)
class Plan:
    """A sweep's runs, in the order they are made."""

    points: tuple[PlannedPoint, ...]
    repeats: tuple[tuple[str, str], ...]
    """Combinations left out: all their values, and the label of the run that is the same."""

    def sentences(self) -> list[str]:
        """What was left out, for a person."""
        return [f"{left_out} is the same run as {kept}." for left_out, kept in self.repeats]


def plan_sweep(base: UnlearnConfig, grids: Sequence[Grid], name: str = "") -> Plan:
    """Every combination of each grid's values, on `base`; grids follow one another.

    Raises InputError, naming what to change, for a field that there is not or that all points must
    share, no value, a combination that the settings refuse, test questions, or too many runs.
    """
    if base.evaluation.questions == TEST_QUESTIONS:
        raise InputError(
            "A sweep chooses settings, and settings that are chosen on the test questions make "
            "their score too good. Set evaluation.questions to the validation questions, and ask "
            "the test questions once, of the run you choose."
        )
    require_one_way(base.model, "sweep")
    for grid in grids:
        _check_beta(base, grid)
    if not grids or not all(grids):
        raise InputError("Nothing varies: name at least one field with its values.")
    for grid in grids:
        for field, values in grid.items():
            _check(base, field, values)
    wanted = sum(_product(len(values) for values in grid.values()) for grid in grids)
    if wanted > 16 * MOST_RUNS:
        raise InputError(_too_many(wanted))
    points: dict[str, PlannedPoint] = {}
    repeats: list[tuple[str, str]] = []
    for grid in grids:
        for chosen in itertools.product(*grid.values()):
            point_values = dict(zip(grid, chosen, strict=True))
            point = _point(base, point_values, name)
            known = points.setdefault(what_trains(point.config), point)
            if known is not point:
                repeats.append((label_of(point_values), known.label))
    if len(points) > MOST_RUNS:
        raise InputError(_too_many(len(points)))
    return Plan(tuple(points.values()), tuple(repeats))


def what_trains(config: UnlearnConfig) -> str:
    """The settings that change the trained weights, as text: equal for runs that are the same."""
    data = identity_of(config)
    weights, selection = data["weights"], data["selection"]
    rule = config.weights.rule
    if rule == "uniform":
        data["weights"] = {"rule": rule}
    elif rule == "exact":
        # Set by the hardness alone; ratios and their clip belong to the simple rules.
        del weights["strength"], weights["clip"]
    if rule != "uniform" and config.weights.hardness != "auto":
        del weights["ess_floor"]
    _drop_idle(data, config)
    if not selects(config):
        data["selection"] = None
    else:
        own = {"threshold": "threshold", "share": "cumulative"}
        for field, scope in own.items():
            if config.selection.scope != scope:
                del selection[field]
        if config.selection.scope not in ("per_layer", "global"):
            del selection["top_k"]
    return json.dumps(data, sort_keys=True)


def _drop_idle(data: dict[str, Any], config: UnlearnConfig) -> None:
    """Leave out what the run does not read: other kinds' and other methods' settings."""
    for field in ("alpha", "beta", "checkpoint_every"):
        if not _read(config, field):
            data.pop(field, None)
    for field in ("lora_rank", "lora_alpha", "freeze_routers", "layers", "number"):
        if not _read(config, f"trainable.{field}"):
            data["trainable"].pop(field, None)


def _read(config: UnlearnConfig, field: str) -> bool:
    """Whether the run's weights can depend on a field that only some methods or kinds have."""
    method, kind = METHODS[config.method], config.trainable.kind
    kinds = {
        "trainable.lora_rank": ("lora",),
        "trainable.lora_alpha": ("lora",),
        "trainable.freeze_routers": ("all", "layers"),
        "trainable.layers": ("layers",),
        "trainable.number": ("top_experts",),
    }
    if field in kinds:
        return kind in kinds[field]
    return {
        "alpha": method.retains,
        "beta": "beta" in method.parameters,
        "checkpoint_every": False,
    }.get(field, True)


def selects(config: UnlearnConfig) -> bool:
    """Whether the selected experts matter to what trains: as what is weighted, or what may move."""
    kind, layers = config.trainable.kind, config.trainable.layers
    moved = kind == "selected_experts" or (kind == "layers" and layers is None)
    return moved or config.weights.rule != "uniform"


def label_of(values: Mapping[str, Any], config: UnlearnConfig | None = None) -> str:
    """The values in words; with the settings, only those that have an effect in them."""
    told = [
        f"{SHORT.get(field, field)} {_word(value)}".strip()
        for field, value in values.items()
        if config is None or _matters(config, field)
    ]
    return ", ".join(told) or "base"


def _word(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return "–".join(map(_word, value))
    return str(value).replace("_", " ")


def _matters(config: UnlearnConfig, field: str) -> bool:
    """Whether leaving the field at another value would be another run, as far as rules tell."""
    rule = config.weights.rule
    if field == "weights.rule":
        return True
    if field.startswith("weights."):
        return rule != "uniform" and not (
            rule == "exact" and field in ("weights.strength", "weights.clip")
        )
    return selects(config) if field.startswith("selection.") else _read(config, field)


def _check(base: UnlearnConfig, field: str, values: Sequence[Any]) -> None:
    if field.split(".")[0] in _FIXED:
        raise InputError(
            f"{field} cannot be swept: all points of a sweep share model, forget set and "
            "questions, or one picture could not show them."
        )
    place: Any = base
    for part in field.split("."):
        known = list(type(place).model_fields) if hasattr(type(place), "model_fields") else []
        if part not in known:
            names = f"; there are {', '.join(known)}" if known else ""
            raise InputError(f"{field}: there is no setting {part!r}{names}.")
        place = getattr(place, part)
    if hasattr(type(place), "model_fields"):
        raise InputError(f"{field} is a group of settings; name one of them, as {field}.NAME.")
    if not values:
        raise InputError(f"{field}: give at least one value.")


def _check_beta(base: UnlearnConfig, grid: Grid) -> None:
    """Refuse one method's beta for others."""
    if base.beta is None or "method" not in grid or "beta" in grid:
        return
    for name, method in METHODS.items():
        if name in grid["method"] and name != base.method and "beta" in method.parameters:
            raise InputError(
                f"method varies and beta is {base.beta:g} for {base.method}: beta means something "
                f"else in {name}. Set beta to null, so that each method has its own, or make a "
                "sweep of each."
            )


def _point(base: UnlearnConfig, values: dict[str, Any], name: str) -> PlannedPoint:
    data = base.model_dump(mode="json")
    for field, value in values.items():
        *groups, last = field.split(".")
        place = data
        for group in groups:
            place = place[group]
        place[last] = value
    try:
        config = UnlearnConfig.model_validate(data)
    except ValidationError as error:
        raise InputError(f"{label_of(values)}: {describe(error, UnlearnConfig)}") from None
    label = label_of(values, config)
    config = config.model_copy(update={"name": f"{name}: {label}" if name else label})
    return PlannedPoint(label, values, config)


def _product(numbers: Any) -> int:
    total = 1
    for number in numbers:
        total *= number
    return total


def _too_many(found: int) -> str:
    return (
        f"That is {found} runs, and a sweep has at most {MOST_RUNS}: take fewer values, or use "
        "`trace-moe bench`, which tries a budget of settings."
    )
