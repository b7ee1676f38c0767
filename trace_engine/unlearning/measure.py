"""What a run is judged on while it trains: accuracy per category, loss per side, routing drift.

The probe and the questions are fixed at the start, so that rows of one run, and of two runs with
the same settings, are comparable. Accepted cost: every evaluation is a few hundred forward
passes; `evaluation.every` spaces them.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from trace_engine.evaluation.loss import set_loss
from trace_engine.evaluation.multiple_choice import score_questions
from trace_engine.evaluation.probe import probe_documents, routing_probe
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


def evaluation_row(setup: Setup, step: int, start_NLK: NDArray[np.int16]) -> dict[str, Any]:
    """One `eval` row of the current model, JSON values only."""
    config = setup.config
    row: dict[str, Any] = {"kind": "eval", "step": step}
    row["accuracy"] = accuracies(setup)
    for name, side in (("forget_nll", setup.forget), ("retain_nll", setup.retain)):
        row[name] = set_loss(setup.opened, side.measured, config.max_length).to_dict()
    document_N = probe_documents(setup.opened, probed(setup), config.max_length)
    moved = drift(start_NLK, probe(setup), document_N)
    row["drift"] = {"layers": list(setup.profile.layers), **moved.to_dict()}
    row["held_out"] = setup.held_out
    return row


def accuracies(setup: Setup) -> dict[str, dict[str, Any]]:
    """Accuracy with Wilson's interval per category; empty without questions."""
    if setup.questions is None:
        return {}
    scores = score_questions(
        setup.opened.model,
        setup.opened.tokenizer,
        setup.questions,
        style=setup.config.evaluation.style,
    )
    found = {}
    for category in sorted(set(scores.categories)):
        share = scores.accuracy(category)
        found[category] = {
            "value": share.value,
            "low": share.low,
            "high": share.high,
            "n": share.n,
        }
    return found
