"""`trace-moe config`: the default settings as YAML, each field under its own documentation."""

import argparse
import textwrap
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Final

from pydantic import BaseModel

from trace_engine.audit.settings import AuditConfig
from trace_engine.benchmark.settings import BUNDLED, bundled_bench
from trace_engine.cli.output import emit_json
from trace_engine.config import ModelConfig, ProfileConfig, SetConfig, Settings, UnlearnConfig
from trace_engine.demo.settings import TUNED, UNTUNED_NOTE, bundled_run
from trace_engine.errors import InputError
from trace_engine.methods import MethodName
from trace_engine.yamlfile import dump_yaml

_WIDTH = 96
TUNED_HINT = (
    "alpha, learning_rate, batch_size, max_steps and the method's own numbers are tuned for it and "
    "the bundled model; for another method write `trace-moe config --method NAME`."
)
"""What the run's file says of its method beside what the field means."""


AS_PUBLISHED: Final = ("style", "description")
"""What an audit's file leaves open: where its questions are named after a benchmark, they are asked
as that benchmark's authors ask them, unless a line says otherwise."""


def config(options: argparse.Namespace) -> int:
    if options.kind == "bench":
        return _table(options)
    if options.method is not None and options.kind != "unlearn":
        raise InputError(f"--method belongs to a run's settings, not to those of {options.kind}.")
    settings = defaults(options.kind, options.method)
    unset = AS_PUBLISHED if isinstance(settings, AuditConfig) else ()
    if options.json:
        emit_json(settings.model_dump(mode="json", exclude=set(unset)))
    else:
        hints = {}
        if isinstance(settings, UnlearnConfig):
            hints = {"method": TUNED_HINT if settings.method in TUNED else UNTUNED_NOTE}
        print(commented_yaml(settings, hints=hints, unset=unset), end="")
    return 0


def _table(options: argparse.Namespace) -> int:
    """The pack's table, whose file carries its own comments."""
    if options.json:
        emit_json(bundled_bench().model_dump(mode="json"))
    else:
        print(BUNDLED.read_text(encoding="utf-8"), end="")
    return 0


def defaults(
    kind: str, method: MethodName | None = None
) -> ProfileConfig | UnlearnConfig | AuditConfig:
    """Settings to start from: the bundled sets; for a run, the settings tuned for the pack."""
    if kind == "profile":
        return ProfileConfig(
            forget=SetConfig(source="demo:forget"), retain=SetConfig(source="demo:retain")
        )
    if kind == "audit":
        return bundled_audit()
    return bundled_run() if method is None else bundled_run(method=method)


def bundled_audit() -> AuditConfig:
    """An audit of the bundled model against the bundled retrained one."""
    return AuditConfig(
        model=ModelConfig(source="demo:target"),
        reference=ModelConfig(source="demo:retrain_no_hazard"),
        forget=SetConfig(source="demo:forget"),
        retain=SetConfig(source="demo:retain"),
        questions="demo:questions/test",
    )


def commented_yaml(
    settings: BaseModel,
    indent: str = "",
    hints: Mapping[str, str] = MappingProxyType({}),
    unset: Collection[str] = (),
) -> str:
    """YAML that reads back as `settings`, each field's docstring above it as a comment.

    `hints`: by field, what is to be known of the value that stands there. Fields in `unset` are
    commented out: their value follows from others.
    """
    lines = []
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        if field.description:
            told = f"{field.description} {hints.get(name, '')}".rstrip()
            text = textwrap.wrap(told, _WIDTH - len(indent))
            lines += [f"{indent}# {line}" for line in text]
        if isinstance(value, Settings):
            lines += [f"{indent}{name}:", commented_yaml(value, indent + "  ").rstrip("\n")]
        else:
            data = settings.model_dump(mode="json", include={name})
            dumped = dump_yaml(data)
            off = "# " if name in unset else ""
            lines += [indent + off + line for line in dumped.rstrip("\n").splitlines()]
    return "\n".join(lines) + "\n"
