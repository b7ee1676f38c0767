"""Settings on a page: help from the fields' own docstrings, and the file and commands that equal
the page.

One config, three doors: whatever a page has chosen is shown as the YAML file, the CLI command and
the Python lines that do the same. Accepted trade-off: widgets are laid out by hand on each page;
only help texts, validation and the equal commands are shared here.
"""

import shlex
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, get_args, get_origin

import streamlit as st
from pydantic import BaseModel, ValidationError

from app import house
from trace_engine.config import (
    SelectionConfig,
    UnlearnConfig,
    WeightsConfig,
    to_yaml,
)
from trace_engine.errors import TraceError
from trace_engine.refusal import describe
from trace_engine.runs.preflight import why_not
from trace_engine.trackers import check_trackers

Settings = TypeVar("Settings", bound=BaseModel)


def help_of(settings: type[BaseModel], field: str) -> str | None:
    """The field's docstring, which is its documentation everywhere. Raises KeyError if there is no
    such field.
    """
    return settings.model_fields[field].description


def choices_of(settings: type[BaseModel], field: str) -> list[str]:
    """The literal values a field accepts, in the order the settings name them."""
    annotation = settings.model_fields[field].annotation
    options = [annotation] if get_origin(annotation) is Literal else get_args(annotation)
    return [
        value for option in options if get_origin(option) is Literal for value in get_args(option)
    ]


def option(label: str, names: Mapping[str, str], **kwargs: Any) -> str:
    """A select box over the keys of `names`, shown by their long names."""
    return str(st.selectbox(label, list(names), format_func=lambda key: names[key], **kwargs))


def build(settings: type[Settings], values: dict[str, Any]) -> tuple[Settings | None, str | None]:
    """Validate widget values: the settings and None, or None and one sentence per refused field."""
    try:
        return settings.model_validate(values), None
    except ValidationError as error:
        return None, describe(error, settings)


def changed_fields(settings: BaseModel) -> dict[str, Any]:
    """Fields that differ from the defaults, in declaration order (what a command must spell
    out).
    """
    fields = type(settings).model_fields
    return {
        name: getattr(settings, name)
        for name, field in fields.items()
        if field.is_required()
        or getattr(settings, name) != field.get_default(call_default_factory=True)
    }


def settings_yaml(*parts: tuple[str, BaseModel]) -> str:
    """YAML of several settings under their names, as they stand inside a run's settings file."""
    return "".join(f"{name}:\n{_indent(to_yaml(settings))}" for name, settings in parts)


def _indent(text: str) -> str:
    return "".join(f"  {line}\n" for line in text.splitlines())


def select_command(profile: str, selection: SelectionConfig) -> str:
    """The `trace-moe select` command that chooses the same cells."""
    return _command(["trace-moe", "select", profile], changed_fields(selection))


def weights_command(profile: str, selection: SelectionConfig, weights: WeightsConfig) -> str:
    """The `trace-moe weights` command that fits the same weights on the same cells."""
    values = {**changed_fields(selection), **changed_fields(weights)}
    return _command(["trace-moe", "weights", profile], values)


def _command(words: list[str], values: dict[str, Any]) -> str:
    for name, value in values.items():
        option = "--" + name.replace("_", "-")
        if value is True:
            words.append(option)
        elif value is False:
            words.append("--no-" + name.replace("_", "-"))
        elif name in ("add", "remove"):
            for cell in value:
                words += [option, f"{cell.layer}:{cell.expert}"]
        elif isinstance(value, tuple):
            words += [option, *(str(item) for item in value)]
        elif value is not None:
            words += [option, str(value)]
    return shlex.join(words)


def weights_python(profile: str, selection: SelectionConfig, weights: WeightsConfig) -> str:
    """Python lines that choose the same cells and fit the same weights."""
    chosen = ", ".join(f"{name}={value!r}" for name, value in changed_fields(selection).items())
    fitted = ", ".join(f"{name}={value!r}" for name, value in changed_fields(weights).items())
    cell = ", Cell" if "Cell(" in chosen else ""
    return (
        "from trace_engine.calibration import fit_weights, select_experts\n"
        f"from trace_engine.config import SelectionConfig, WeightsConfig{cell}\n"
        "from trace_engine.routing import Profile\n\n"
        f"profile = Profile.load({profile!r})\n"
        f"selection = select_experts(profile, SelectionConfig({chosen}))\n"
        f"weights = fit_weights(profile, selection, WeightsConfig({fitted}))\n"
    )


def unlearn_command(file_name: str) -> str:
    """The command that runs the same settings file without the app; and the one that lets two
    processes share every step."""
    shared = ["torchrun", "--nproc_per_node", "2", "-m", "trace_engine.cli", "unlearn", file_name]
    return f"{shlex.join(['trace-moe', 'unlearn', file_name])}\n# or:  {shlex.join(shared)}"


def unlearn_python(file_name: str) -> str:
    """Python lines that run the same settings file in one's own process."""
    return (
        "from trace_engine import unlearn\n"
        "from trace_engine.config import read_config\n\n"
        f'result = unlearn(read_config("{file_name}"), out="result")\n'
        "print(result.rows[-1])\n"
    )


def launch_troubles(config: UnlearnConfig | None, refusal: str | None) -> list[str]:
    """Why the settings alone forbid a launch, as sentences; empty when they do not."""
    if config is None:
        return [refusal or "The settings are not complete."]
    try:
        house.may_start(config)
        check_trackers(config.trackers)
    except TraceError as error:
        return [str(error)]
    reason = why_not(config)
    return [] if reason is None else [reason]


def selection_troubles(config: UnlearnConfig, selected: int) -> list[str]:
    """Why so many selected experts forbid a launch; the worker refuses the same."""
    if selected:
        return []
    if config.trainable.kind == "layers" and config.trainable.layers is None:
        return [
            "Only the layers of the selected experts would train, and none is selected. Change the "
            "selection, or let every parameter train."
        ]
    if config.trainable.kind == "selected_experts":
        return [
            "Only the selected experts would train, and none is selected. Change the selection, or "
            "let every parameter train."
        ]
    if config.weights.rule != "uniform":
        return [
            "No expert is selected, so there is nothing to calibrate. Change the selection, or "
            "choose the uniform rule."
        ]
    return []


def differing_fields(configs: Mapping[str, BaseModel]) -> dict[str, dict[str, Any]]:
    """Dotted field name -> run -> value, for the fields that are not the same in all runs.

    `name` is a label and never counts as a difference, nor does a default that is written out.
    """
    flat = {run: dict(_flatten(_resolved(config))) for run, config in configs.items()}
    names = list(dict.fromkeys(name for values in flat.values() for name in values))
    return {
        name: {run: values.get(name) for run, values in flat.items()}
        for name in names
        if name != "name" and len({repr(values.get(name)) for values in flat.values()}) > 1
    }


def _resolved(config: BaseModel) -> dict[str, Any]:
    data = config.model_dump(mode="json")
    if isinstance(config, UnlearnConfig):
        data |= {"gamma": config.forget_weight, "retain_term": config.kept} | config.parameters()
    return data


def _flatten(data: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for key, value in data.items():
        if isinstance(value, dict):
            pairs += _flatten(value, f"{prefix}{key}.")
        else:
            pairs.append((f"{prefix}{key}", value))
    return pairs


def from_the_command_line(command: str, settings: str | None = None) -> None:
    """The command that does what the page does, and its settings file where there is one."""
    with st.expander("The same from the command line", icon=":material/terminal:"):
        st.code(house.shown(command), language="bash")
        if settings is not None:
            st.code(house.shown(settings), language="yaml")
