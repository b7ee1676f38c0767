"""Command-line options made from the settings' own fields, so that names, defaults and help are
one.

It accepts that argparse checks types only; the settings check the rest and name the field.
"""

import argparse
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from trace_engine.config import (
    Cell,
    ModelConfig,
    ProfileConfig,
    SelectionConfig,
    SetConfig,
    UnlearnConfig,
    WeightsConfig,
    read_config,
)
from trace_engine.errors import InputError
from trace_engine.refusal import describe

_PROFILE_FIELDS: tuple[str, ...] = ("count_bos", "max_length", "tokens_per_batch", "sample_tokens")
_PROFILE_FIELDS += ("permutations", "bootstrap", "seed", "name")


def cell(text: str) -> Cell:
    """`3:17` is expert 17 of layer 3."""
    layer, _, expert = text.partition(":")
    if not (layer.isdecimal() and expert.isdecimal()):
        raise argparse.ArgumentTypeError(f"expected LAYER:EXPERT, for example 3:17, found {text!r}")
    return Cell(int(layer), int(expert))


def typed_lines(text: str) -> str:
    """Lines as a person types them on a command line."""
    return text.replace("\\n", "\n")


def add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="machine-readable output on stdout")


def add_fields(
    parser: argparse.ArgumentParser, settings: type[BaseModel], names: tuple[str, ...] | None = None
) -> None:
    """One option per field; an option that is not given leaves the field's default."""
    for name, field in settings.model_fields.items():
        if names is None or name in names:
            option = "--" + name.replace("_", "-")
            parser.add_argument(
                option, dest=name, default=argparse.SUPPRESS, help=_help(field), **_kind(field)
            )


def _help(field: FieldInfo) -> str:
    default = "" if field.is_required() or field.default is None else f" (default {field.default})"
    return ((field.description or "").replace("\n", " ") + default).replace("%", "%%")


def _kind(field: FieldInfo) -> dict[str, Any]:
    types = _leaves(field.annotation)
    if bool in types:
        return {"action": argparse.BooleanOptionalAction}
    if Cell in types:
        return {"type": cell, "action": "append", "metavar": "LAYER:EXPERT"}
    literals = [value for leaf in types if get_origin(leaf) is Literal for value in get_args(leaf)]
    if literals and len(types) == 1:
        # Not argparse's `choices`: the settings refuse another word in a sentence of their own.
        return {"metavar": "{" + ",".join(map(str, literals)) + "}"}
    if any(get_origin(leaf) is tuple for leaf in types):
        many = next(leaf for leaf in types if get_origin(leaf) is tuple)
        inner = get_args(many)
        return {"type": inner[0], "nargs": "*" if inner[-1] is Ellipsis else len(inner)}
    return {} if literals or str in types else {"type": next(t for t in (int, float) if t in types)}


def _leaves(annotation: Any) -> list[Any]:
    """The plain types inside unions and annotations; tuples of cells count as Cell."""
    origin = get_origin(annotation)
    if origin in (Union, UnionType):
        return [leaf for part in get_args(annotation) for leaf in _leaves(part)]
    if hasattr(annotation, "__metadata__"):
        return _leaves(annotation.__origin__)
    if origin is tuple and get_args(annotation)[0] is Cell:
        return [Cell]
    return [] if annotation is type(None) else [annotation]


def read_fields(options: argparse.Namespace, settings: type[BaseModel], **fixed: Any) -> Any:
    """Settings from the options that were given. Raises InputError naming each refused field."""
    given = {name: getattr(options, name) for name in settings.model_fields if name in options}
    try:
        return settings.model_validate(given | fixed)
    except ValidationError as error:
        raise InputError(describe(error, settings)) from None


def add_model(parser: argparse.ArgumentParser, *, positional: bool = False) -> None:
    help_text = ModelConfig.model_fields["source"].description
    if positional:
        parser.add_argument("model", help=help_text)
    else:
        parser.add_argument("--model", default="demo:target", help=f"{help_text} (default)")
    names = ("revision", "dtype", "device", "experts_implementation", "quantization")
    add_fields(parser, ModelConfig, names)


def read_model(options: argparse.Namespace) -> ModelConfig:
    settings: ModelConfig = read_fields(options, ModelConfig, source=options.model)
    return settings


def add_sets(parser: argparse.ArgumentParser) -> None:
    for side in ("forget", "retain"):
        parser.add_argument(
            f"--{side}", required=True, help=SetConfig.model_fields["source"].description
        )
        for name in ("text_field", "hub_config", "hub_split", "limit"):
            field = SetConfig.model_fields[name]
            option = f"--{side}-{name.replace('_', '-')}"
            parser.add_argument(
                option, default=argparse.SUPPRESS, help=_help(field), **_kind(field)
            )
    add_fields(parser, ProfileConfig, _PROFILE_FIELDS)


def read_profile(options: argparse.Namespace) -> ProfileConfig:
    """The whole question of a profile from the command line."""
    sides = {}
    for side in ("forget", "retain"):
        given = {
            name: getattr(options, f"{side}_{name}")
            for name in SetConfig.model_fields
            if f"{side}_{name}" in options
        }
        sides[side] = {"source": getattr(options, side)} | given
    given = {name: getattr(options, name) for name in _PROFILE_FIELDS if name in options}
    try:
        return ProfileConfig.model_validate(given | sides | {"model": read_model(options)})
    except ValidationError as error:
        raise InputError(describe(error, ProfileConfig)) from None


def read_run(path: Path) -> UnlearnConfig:
    """A run's settings file. Raises InputError when it is another kind's, or refused."""
    config = read_config(path)
    if not isinstance(config, UnlearnConfig):
        raise InputError(f"{path.name}: kind is profile; use `trace-moe profile`.")
    return config


def add_selection(parser: argparse.ArgumentParser) -> None:
    add_fields(parser, SelectionConfig)


def add_weights(parser: argparse.ArgumentParser) -> None:
    add_fields(parser, WeightsConfig)


def read_selection(options: argparse.Namespace) -> SelectionConfig:
    # `--layers` with nothing after it would select from no layer at all; it means all of them.
    layers = {"layers": None} if "layers" in options and not options.layers else {}
    settings: SelectionConfig = read_fields(options, SelectionConfig, **layers)
    return settings


def read_weights(options: argparse.Namespace) -> WeightsConfig:
    settings: WeightsConfig = read_fields(options, WeightsConfig)
    return settings
