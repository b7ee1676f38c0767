"""Settings as files, and what of them decides a result."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from trace_engine.config.parts import TrainableConfig, WeightsConfig
from trace_engine.config.runs import ProfileConfig, UnlearnConfig
from trace_engine.errors import InputError
from trace_engine.methods import LEGACY_BETA
from trace_engine.refusal import describe
from trace_engine.yamlfile import dump_yaml, read_yaml

_LATER_RUN_FIELDS = frozenset(
    {
        "control",
        "beta1",
        "beta2",
        "delta",
        "steering",
        "steering_layer",
        "anchor",
        "micro_batch_size",
        "schedule",
        "mixed_precision",
        "stop",
        "keep",
    }
)
_LATER_WEIGHTS_FIELDS = frozenset({"refresh_every"})
_LATER_TRAINABLE_FIELDS = frozenset({"layers", "freeze_routers", "number"})


def to_yaml(config: BaseModel) -> str:
    """The settings as YAML, every field written out, tuples as lists."""
    return dump_yaml(config.model_dump(mode="json"))


def identity_of(config: ProfileConfig | UnlearnConfig) -> dict[str, Any]:
    """What of the settings decides a result: all fields but labels, as JSON values.

    Resuming and recognising a launch go by it, in the launcher and in the loop alike.
    """
    data = config.model_dump(
        mode="json",
        exclude={"name": True, "trackers": True, "forget": {"label"}, "retain": {"label"}},
    )
    data |= {"model": config.model.asked()}
    if isinstance(config, UnlearnConfig):
        # Given and by default are the same run; files once held a beta whatever the method.
        data |= {"gamma": config.forget_weight} | config.parameters()
        data["beta"] = LEGACY_BETA if data["beta"] is None else data["beta"]
        if config.trainable.kind == "top_experts":
            data["anchor"] = config.anchor_weight
        data["retain_term"] = config.kept
        if config.kept == "nll":
            del data["retain_term"]
        # A run from before a field existed did what its default does, and resumes.
        _drop_defaults(data, UnlearnConfig, _LATER_RUN_FIELDS)
        _drop_defaults(data["weights"], WeightsConfig, _LATER_WEIGHTS_FIELDS)
        _drop_defaults(data["trainable"], TrainableConfig, _LATER_TRAINABLE_FIELDS)
    return data


def _drop_defaults(data: dict[str, Any], settings: type[BaseModel], names: frozenset[str]) -> None:
    for name in names:
        default = settings.model_fields[name].default
        if data[name] == (default.model_dump() if isinstance(default, BaseModel) else default):
            del data[name]


def parse_config(
    data: dict[str, Any], where: str = "settings", *, recorded: bool = False
) -> ProfileConfig | UnlearnConfig:
    """Validate a mapping; `kind` says whose settings it is. Raises InputError naming each field.

    `recorded`: see `read_config`.
    """
    kinds: dict[str, type[ProfileConfig] | type[UnlearnConfig]] = {
        "profile": ProfileConfig,
        "unlearn": UnlearnConfig,
    }
    if not isinstance(data, dict):
        raise InputError(f"{where}: expected a mapping of settings, found {type(data).__name__}.")
    kind = data.get("kind", "unlearn")
    if kind not in kinds:
        raise InputError(f"{where}: kind must be one of {', '.join(kinds)}, found {kind!r}.")
    try:
        return kinds[kind].model_validate(data, context={"recorded": recorded})
    except ValidationError as error:
        text = f"{where}: {describe(error, kinds[kind])}"
        if recorded and any(item["type"] == "extra_forbidden" for item in error.errors()):
            text += " A newer version of TRACE has it and wrote this file: open it with that one."
        raise InputError(text) from None


def read_config(path: str | Path, *, recorded: bool = False) -> ProfileConfig | UnlearnConfig:
    """Read a YAML settings file. Raises InputError when it is missing, not YAML, or refused.

    `recorded` settings are those of a run that exists: a combination that is refused by now is
    still what was computed.
    """
    path = Path(path)
    return parse_config(read_yaml(path), path.name, recorded=recorded)
