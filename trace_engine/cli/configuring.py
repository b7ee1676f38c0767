"""`trace-moe config`: the default settings as YAML, each field under its own documentation."""

import argparse
import textwrap
from typing import Any

import yaml
from pydantic import BaseModel

from trace_engine.cli.output import emit_json
from trace_engine.config import ProfileConfig, SetConfig, UnlearnConfig, _Settings

_WIDTH = 96


def config(options: argparse.Namespace) -> int:
    settings = defaults(options.kind)
    if options.json:
        emit_json(settings.model_dump(mode="json"))
    else:
        print(commented_yaml(settings), end="")
    return 0


def defaults(kind: str) -> ProfileConfig | UnlearnConfig:
    """Every default, on the bundled sets (and, for a run, with the bundled questions)."""
    sets: dict[str, Any] = {
        "forget": SetConfig(source="demo:forget"),
        "retain": SetConfig(source="demo:retain"),
    }
    if kind == "profile":
        return ProfileConfig(**sets)
    return UnlearnConfig(**sets, evaluation={"questions": "demo:questions/validation"})  # type: ignore[arg-type]


def commented_yaml(settings: BaseModel, indent: str = "") -> str:
    """YAML that reads back as `settings`, each field's docstring above it as a comment."""
    lines = []
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        if field.description:
            text = textwrap.wrap(field.description, _WIDTH - len(indent))
            lines += [f"{indent}# {line}" for line in text]
        if isinstance(value, _Settings):
            lines += [f"{indent}{name}:", commented_yaml(value, indent + "  ").rstrip("\n")]
        else:
            data = settings.model_dump(mode="json", include={name})
            dumped = yaml.safe_dump(
                data, allow_unicode=True, default_flow_style=False, sort_keys=False
            )
            lines += [indent + line for line in dumped.rstrip("\n").splitlines()]
    return "\n".join(lines) + "\n"
