"""`trace-moe evaluate`: multiple-choice accuracy per category and loss per set, each with n and
interval."""

import argparse
from typing import Any

from trace_engine.bundled import resolve_source
from trace_engine.cli.options import read_model
from trace_engine.cli.output import emit_json, interval, note, print_table
from trace_engine.config import SetConfig
from trace_engine.errors import InputError
from trace_engine.evaluation import score_questions, set_loss
from trace_engine.models import open_model
from trace_engine.sets import load_set, read_questions


def evaluate(options: argparse.Namespace) -> int:
    if not options.questions and not options.set:
        raise InputError("Name what to evaluate on: --questions FILE, --set FILE, or both.")
    # Everything is read before the model is opened: a typo should not cost a load.
    asked = {source: read_questions(resolve_source(source)) for source in options.questions}
    sets = {source: load_set(SetConfig(source=source)) for source in options.set}
    opened = open_model(read_model(options))
    rows: list[dict[str, Any]] = []
    for source, questions in asked.items():
        note(f"scoring {len(questions):,} questions of {source}")
        scores = score_questions(opened.model, opened.tokenizer, questions, style=options.style)
        for category, estimate in scores.by_category().items():
            rows.append({"measure": f"accuracy: {category}", "on": source, **estimate.to_dict()})
    for source, documents in sets.items():
        note(f"measuring the loss of {len(documents):,} documents of {source}")
        estimate = set_loss(opened, documents.documents, options.max_length)
        rows.append({"measure": "loss, nats per token", "on": source, **estimate.to_dict()})
    if options.json:
        emit_json({"model": opened.info.to_dict(), "results": rows})
        return 0
    shown = [row | {"value": interval(row["value"], row["low"], row["high"])} for row in rows]
    print_table(shown, ["measure", "on", "value", "n", "method"])
    return 0
