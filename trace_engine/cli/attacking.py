"""`trace-moe attack`: the attacks of an audit by themselves, printed as tables.

The folder is that of an audit with these parts alone, so the same command goes on where it was
stopped, and `trace-moe verify` checks it.
"""

import argparse
from collections.abc import Mapping
from typing import Any, Final

from trace_engine.audit.settings import AuditConfig, PartName
from trace_engine.cli.options import read_model
from trace_engine.cli.output import ProgressLine, clear_progress, emit_json, interval, note
from trace_engine.cli.output import print_table as table
from trace_engine.config import ModelConfig
from trace_engine.errors import InputError
from trace_engine.sets import set_config

ATTACKS: Final[tuple[PartName, ...]] = (
    "relearning", "recovery", "quantisation", "paraphrases", "prefixes",
)  # fmt: skip


def attack(options: argparse.Namespace) -> int:
    from trace_engine.audit.run import run_audit

    for name in options.attacks or ():
        if name not in ATTACKS:
            raise InputError(f"There is no attack {name!r}; there are {', '.join(ATTACKS)}.")
    model = read_model(options)
    reference: ModelConfig | None = None
    if options.reference is not None:
        reference = model.model_copy(update={"source": options.reference, "revision": None})
    config = AuditConfig(
        name="Attacks",
        model=model,
        reference=reference,
        forget=set_config(options.forget),
        retain=set_config(options.retain),
        questions=options.questions,
        forget_category=options.category,
        max_questions=options.max_questions,
        parts=tuple(options.attacks or ATTACKS),
    )
    found = run_audit(config, options.out, report=ProgressLine(), tell=note)
    clear_progress()
    parts: dict[str, Any] = {str(name): found.report["parts"][name] for name in config.parts or ()}
    if options.json:
        emit_json(parts)
    else:
        _print(parts)
    return 1 if found.failed else 0


def _print(parts: Mapping[str, Mapping[str, Any]]) -> None:
    rows, excesses = [], []
    for name, part in parts.items():
        if not part["done"]:
            note(f"{name}: {part['why']}")
            continue
        for row in part["summary"]["rows"]:
            rows.append(
                {
                    "attack": row["attack"],
                    "model": row["model"],
                    "on": row["on"],
                    "right": interval(row["value"], row["low"], row["high"]),
                    "n": row["n"],
                }
            )
        for test in part["summary"]["excess"]:
            figure = test["estimate"]
            excesses.append(
                {
                    "attack": test["test"],
                    "beyond": test["over"],
                    "excess": interval(figure["value"], figure["low"], figure["high"]),
                    "n": figure["n"],
                }
            )
    table(rows, ["attack", "model", "on", "right", "n"])
    print()
    table(excesses, ["attack", "beyond", "excess", "n"])
