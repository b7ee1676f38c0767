"""`trace-moe attack`: the attacks of an audit by themselves, printed as tables.

The folder is that of an audit with these parts alone, so the same command goes on where it was
stopped, and `trace-moe verify` checks it.
"""

import argparse
from collections.abc import Mapping, Sequence
from typing import Any, Final

from trace_engine.audit.settings import AuditConfig, PartName
from trace_engine.bundled import PREFIX, is_bundled
from trace_engine.cli.options import read_fields, read_model, typed_lines
from trace_engine.cli.output import ProgressLine, clear_progress, emit_json, interval, note
from trace_engine.cli.output import print_table as table
from trace_engine.config import ModelConfig, SetConfig
from trace_engine.errors import InputError
from trace_engine.sets import set_config

ATTACKS: Final[tuple[PartName, ...]] = (
    "relearning", "recovery", "quantisation", "paraphrases", "prefixes",
)  # fmt: skip
READ: Final[Mapping[PartName, tuple[str, ...]]] = {
    "relearning": ("forget",),
    "recovery": ("forget", "retain"),
}
"""The sets that an attack reads; the others only ask."""
NOT_GIVEN: Final = "none given; the bundled one stands in its place"
"""What a report calls the bundled set that stands in for one that nothing reads."""


def attack(options: argparse.Namespace) -> int:
    from trace_engine.audit.run import run_audit

    for name in options.attacks or ():
        if name not in ATTACKS:
            raise InputError(f"There is no attack {name!r}; there are {', '.join(ATTACKS)}.")
    model = read_model(options)
    reference: ModelConfig | None = None
    if options.reference is not None:
        reference = model.model_copy(update={"source": options.reference, "revision": None})
    if "description" in options:
        options.description = typed_lines(options.description)
    attacks = tuple(options.attacks or ATTACKS)
    sets = _sets(options, attacks)
    config: AuditConfig = read_fields(
        options,
        AuditConfig,
        name="Attacks",
        model=model,
        reference=reference,
        parts=attacks,
        **sets,
    )
    found = run_audit(config, options.out, report=ProgressLine(), tell=note)
    clear_progress()
    parts: dict[str, Any] = {str(name): found.report["parts"][name] for name in config.parts or ()}
    if options.json:
        emit_json(parts)
    else:
        _print(parts)
    return 1 if found.failed else 0


def _sets(options: argparse.Namespace, attacks: Sequence[PartName]) -> dict[str, SetConfig]:
    """Both sets: the bundled ones for the bundled model and questions, else those that are given.

    Raises InputError where an attack would read one that nobody gave: another body of knowledge
    brings nothing back, and would look harmless.
    """
    given = {side: getattr(options, side) for side in ("forget", "retain")}
    bundled = is_bundled(options.model) and is_bundled(options.questions)
    readers = [name for name in attacks if any(given[side] is None for side in READ.get(name, ()))]
    if readers and not bundled:
        read = {side for name in readers for side in READ[name]}
        lacking = " and ".join(f"--{side}" for side in given if side in read and not given[side])
        rest = " ".join(name for name in ATTACKS if name not in READ)
        raise InputError(
            f"{' and '.join(readers)} would train on text of the bundled sets, which are for the "
            f"bundled model and questions alone. Give {lacking}, or choose others (--attacks "
            f"{rest})."
        )
    label = "" if bundled else NOT_GIVEN
    return {
        side: SetConfig(source=PREFIX + side, label=label) if source is None else set_config(source)
        for side, source in given.items()
    }


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
