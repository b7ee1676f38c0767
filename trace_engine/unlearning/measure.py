"""What a run is judged on while it trains: accuracy per category, loss per side, routing drift.

The probe and the questions are fixed at the start, so that rows of one run, and of two runs with
the same settings, are comparable. Accepted cost: every evaluation is a few hundred forward
passes; `evaluation.every` spaces them.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trace_engine.errors import NonFiniteLossError
from trace_engine.evaluation.loss import set_loss
from trace_engine.evaluation.multiple_choice import score_questions
from trace_engine.evaluation.probe import probe_documents, routing_probe
from trace_engine.progress import Meter, ProgressCallback
from trace_engine.routing import drift
from trace_engine.sets import Document
from trace_engine.unlearning.setup import Setup

PROBE_DOCUMENTS = 64
"""Documents per side of the drift probe, at most; the row's `n` says how many there were."""


def probed(setup: Setup) -> list[Document]:
    """The fixed documents whose routing is compared, as many from each side."""
    return [
        document
        for side in (setup.forget, setup.retain)
        for document in side.measured[:PROBE_DOCUMENTS]
    ]


def probe(setup: Setup) -> NDArray[np.int16]:
    """Routing of the probe through the model as it is now: (N, L, K)."""
    return routing_probe(setup.opened, probed(setup), setup.config.max_length)


def evaluation_row(
    setup: Setup, step: int, start_NLK: NDArray[np.int16], report: ProgressCallback
) -> dict[str, Any]:
    """One `eval` row of the current model, JSON values only.

    Raises NonFiniteLossError when a loss is NaN or infinite: accuracies of such a model are noise.
    """
    config = setup.config
    row: dict[str, Any] = {"kind": "eval", "step": step}
    row |= answers(setup, report)
    for name, side in (("forget", setup.forget), ("retain", setup.retain)):
        found = set_loss(
            setup.opened,
            side.measured,
            config.max_length,
            phase=f"evaluating: {name} loss",
            report=report,
        )
        if not math.isfinite(found.value):
            kind = "NaN" if math.isnan(found.value) else "infinite"
            raise NonFiniteLossError(
                f"loss became {kind} at step {step}, as measured on the {name} set after the "
                f"update. A lower learning_rate usually helps."
            )
        row[f"{name}_nll"] = found.to_dict()
    document_N = probe_documents(setup.opened, probed(setup), config.max_length)
    moved = drift(start_NLK, probe(setup), document_N)
    row["drift"] = {"layers": list(setup.profile.layers), **moved.to_dict()}
    row["held_out"] = setup.held_out
    return row


def answers(setup: Setup, report: ProgressCallback) -> dict[str, Any]:
    """`accuracy` with Wilson's interval and its chance per category, and `picked`: question number
    in the file -> number of the choice that was most likely. Both empty without questions.
    """
    if setup.questions is None:
        return {"accuracy": {}, "picked": {}}
    meter = Meter("evaluating: questions", len(setup.questions), "questions", report)
    accuracy: dict[str, dict[str, Any]] = {}
    picked: dict[str, int] = {}
    for category in sorted({question.category for question in setup.questions}):
        asked = {
            number: question
            for number, question in zip(setup.question_numbers, setup.questions, strict=True)
            if question.category == category
        }
        scores = score_questions(
            setup.opened.model,
            setup.opened.tokenizer,
            list(asked.values()),
            style=setup.config.evaluation.style,
        )
        share = scores.accuracy()
        accuracy[category] = {
            "value": share.value,
            "low": share.low,
            "high": share.high,
            "n": share.n,
            "chance": scores.chance(),
        }
        picked |= {str(number): int(at) for number, at in zip(asked, scores.picked, strict=True)}
        meter.add(len(asked))
    return {"accuracy": accuracy, "picked": dict(sorted(picked.items(), key=lambda p: int(p[0])))}
