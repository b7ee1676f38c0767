"""`trace-moe evaluate`: figures of a model, each with n, interval, and whose definition it
follows."""

import argparse

from trace_engine.cli.options import read_model, typed_lines
from trace_engine.cli.output import ProgressLine, emit_json, interval, print_table
from trace_engine.config import ModelConfig
from trace_engine.evaluation import Materials, evaluate, families_of
from trace_engine.evaluation.measured import Measured


def evaluate_model(options: argparse.Namespace) -> int:
    materials = Materials(
        questions=options.questions,
        style=options.style,
        description=typed_lines(options.description),
        split=options.split,
        sets=options.set,
        forget=options.forget,
        holdout=options.holdout,
        muse=options.muse,
        tofu=options.tofu,
        tofu_forget=options.tofu_forget,
        prompt=None if options.prompt is None else typed_lines(options.prompt),
        max_length=options.max_length,
    )
    families = families_of(materials, options.metrics)
    model = read_model(options)
    reference: ModelConfig | None = None
    if options.reference is not None:
        # Precision and place are the model's: two models are compared as they would be run.
        reference = model.model_copy(update={"source": options.reference, "revision": None})
    found = evaluate(model, families, reference, report=ProgressLine())
    if options.json:
        emit_json(found.to_dict())
        return 0
    print_table(
        [_shown(row) for row in found.rows],
        ["measure", "on", "value", "n", "interval", "implementation"],
    )
    return 0


def _shown(row: Measured) -> dict[str, str]:
    figure = row.estimate
    return {
        "measure": row.measure,
        "on": row.on,
        "value": row.note if figure is None else interval(figure.value, figure.low, figure.high),
        "n": "" if figure is None else f"{figure.n:,}",
        "interval": "" if figure is None else figure.method,
        "implementation": row.implementation,
    }
