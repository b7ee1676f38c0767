"""The report's figures as tables: CSV files beside it, made from report.json alone."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from trace_engine.audit import ablated
from trace_engine.audit.experts import COLUMNS, expert_rows
from trace_engine.audit.led import RUN_COLUMNS, run_rows
from trace_engine.audit.settings import PUBLISHED
from trace_engine.csvfile import csv_text

Row = Mapping[str, Any]

ATTACKS: Final = ("rerouted", "relearning", "recovery", "quantisation", "paraphrases", "prefixes")
_FIGURE: Final = ("value", "low", "high", "n", "method")


def _accuracy(parts: Row) -> list[Row]:
    found = parts["questions"]
    return [
        *({"figure": "accuracy", **row} for row in found["accuracy"]),
        *(
            {"figure": "difference", "model": f"model minus {row['minus']}", **row}
            for row in found["differences"]
        ),
    ]


def _published(parts: Row) -> list[Row]:
    return [
        {"benchmark": name, **row}
        for name in PUBLISHED
        for row in parts.get(name, {}).get("rows", ())
    ]


def _attacks(parts: Row) -> list[Row]:
    return [
        {"part": part, **row} for part in ATTACKS for row in parts.get(part, {}).get("rows", ())
    ]


Make = Callable[[Row], list[Row]]

TABLES: Final[dict[str, tuple[tuple[str, ...], tuple[str, ...], Make]]] = {
    "questions": (("questions",), ("figure", "model", "on", *_FIGURE), _accuracy),
    "measures": (
        ("measures",),
        ("model", "measure", "on", *_FIGURE, "implementation", "note"),
        lambda parts: list(parts["measures"]["rows"]),
    ),
    "published": (
        PUBLISHED,
        ("benchmark", "model", "measure", "on", *_FIGURE, "implementation", "note"),
        _published,
    ),
    "experts": (("routing", "causal"), COLUMNS, lambda parts: list(expert_rows(parts))),
    "ablations": (
        ("causal",),
        ("layer", "expert", "load", "forget_accuracy", "forget_accuracy_low",
         "forget_accuracy_high", "forget_accuracy_p_corrected", "utility_accuracy",
         "utility_accuracy_low", "utility_accuracy_high", "utility_accuracy_p_corrected",
         "forget_loss", "forget_loss_low", "forget_loss_high", "forget_loss_p_corrected",
         "utility_loss", "utility_loss_low", "utility_loss_high", "utility_loss_p_corrected",
         "specific", "specific_low", "specific_high", "band_low", "band_high", "band_p",
         "n_forget", "n_utility"),
        lambda parts: list(parts["causal"]["cells"]),
    ),
    "random_sets": (
        ("causal",),
        ablated.COLUMNS,
        lambda parts: list(ablated.random_rows(parts["causal"])),
    ),
    "drift": (
        ("drift",),
        ("on", "layer", "overlap", "low", "high", "n"),
        lambda parts: list(parts["drift"]["rows"]),
    ),
    "rerouted": (
        ("rerouted",),
        ("test", "figure", "model", "on", "layer", *_FIGURE, "p"),
        lambda parts: list(parts["rerouted"].get("figures", ())),
    ),
    "attacks": (
        ATTACKS,
        ("part", "attack", "model", "step", "seed", "on", *_FIGURE),
        _attacks,
    ),
}  # fmt: skip
"""Name -> the parts it is made of (any of them), its columns, and its rows."""


def csv_tables(report: Row) -> dict[str, str]:
    """Every table that the report has figures for, by file name."""
    parts = {name: part["summary"] for name, part in report["parts"].items() if part["done"]}
    led = run_rows(report.get("runs", ()))
    runs = {"runs.csv": csv_text(led, RUN_COLUMNS)} if led else {}
    return runs | {
        f"{name}.csv": csv_text(make(parts), columns)
        for name, (needed, columns, make) in TABLES.items()
        if any(part in parts for part in needed)
        # Earlier versions kept too little for it.
        if name != "random_sets" or ablated.keeps_loads(parts["causal"])
    }
