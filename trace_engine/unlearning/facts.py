"""What a run decided before its first step, as one JSON dictionary: the report's and the page's
source.

Everything a reader needs to judge the numbers or to repeat them stands here once, with its n.
"""

import math
import platform
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import transformers

import trace_engine
from trace_engine.config import UnlearnConfig
from trace_engine.evaluation.knowledge import KnowledgeCheck
from trace_engine.methods import METHODS, needs_start_model
from trace_engine.sets.published import questions_digest
from trace_engine.unlearning.anchor import anchor_facts
from trace_engine.unlearning.setup import Setup, Side

FEW_HELD_OUT = 10
"""Held-out documents of a side below which a run warns; Student's t on 9 degrees of freedom is
2.26, and with 2 documents 12.7."""

FAR = 10
"""Factor from a method's own beta from which on a run asks whether it came with another method."""


def collect_facts(setup: Setup, knowledge: KnowledgeCheck) -> dict[str, Any]:
    """The facts of a run; JSON values only, NaN and infinity as None."""
    summary = setup.trainable.summary
    config = setup.config
    facts = {
        "model": setup.opened.info.to_dict(),
        "forget": _side(setup.forget),
        "retain": _side(setup.retain),
        "overlap": {
            "count": setup.overlap.count,
            "forget_total": setup.overlap.forget_total,
            "retain_total": setup.overlap.retain_total,
        },
        "held_out": setup.held_out,
        "loss_curve": (
            "held-out documents, never trained on" if setup.held_out else "training documents"
        ),
        "questions": _question_counts(setup),
        "knowledge": knowledge.to_dict(),
        "profile_key": setup.profile_key,
        "method": {
            "name": config.method,
            "line": METHODS[config.method].line,
            "source": METHODS[config.method].source,
            "parameters": config.parameters(),
            "gamma": config.forget_weight,
            "alpha": config.retain_weight,
            "layer": setup.steering_layer,
            "preferred": METHODS[config.method].preferred or None,
            "retain_term": config.kept if METHODS[config.method].retains else None,
            "start_model_copy": needs_start_model(config.method, config.kept),
        },
        "selection": setup.selection.to_dict(),
        "control": setup.control,
        "weights": {
            "rule": config.weights.rule,
            "diagnostics": setup.weights.diagnostics,
            "table": setup.weights.table.to_dict("records"),
            "notes": list(setup.weights.notes),
        },
        "anchor": anchor_facts(config, setup.anchored),
        "trainable": {
            "kind": summary.kind,
            "tensors": len(summary.names),
            "freeze_routers": config.trainable.freeze_routers,
            "parameters": summary.parameters,
            "total": summary.total,
            "share": summary.parameters / summary.total,
            "cells": [list(cell) for cell in summary.cells],
            "whole_gradients": list(summary.whole_gradients),
        },
        "versions": {
            "trace": trace_engine.__version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        "threads": torch.get_num_threads(),
        "mixed_precision": config.mixed_precision,
        "beta_note": _beta(config),
        "warmup": _warmup(config.warmup_steps, config.max_steps),
        "dropout": "off: the model trains in eval mode",
        "saved_model": "whole model; LoRA is merged into its weights",
    }
    return dict(jsonable(facts))


def warnings_of(facts: Mapping[str, Any]) -> list[str]:
    """What of a run's facts a person must be told unasked; empty when there is nothing."""
    told = []
    shared = facts.get("overlap") or {}
    if shared.get("count"):
        told.append(
            f"{shared['count']} of {shared['forget_total']} forget documents are also in the "
            "retain set: the run forgets and retains them at once."
        )
    told += [str(facts[name]) for name in ("beta_note", "warmup") if facts.get(name)]
    measured = {side: facts[side]["measured_on"] for side in ("forget", "retain") if side in facts}
    few = {side: n for side, n in measured.items() if n < FEW_HELD_OUT}
    if facts.get("held_out") and few:
        counts = " and ".join(
            f"{n} {side}{' (one document: no interval)' if n == 1 else ''}"
            for side, n in few.items()
        )
        told.append(
            f"Few documents are held out to measure the loss on: {counts}. What the curve shows "
            "may be chance: hold more out (evaluation.held_out), take larger sets, or give "
            "questions."
        )
    return told


def jsonable(value: Any) -> Any:
    """The value with numpy scalars, tuples and non-finite floats turned into what JSON has."""
    if isinstance(value, dict):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    if isinstance(value, np.ndarray):
        return jsonable(value.tolist())
    if isinstance(value, np.generic):
        return jsonable(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


def _beta(config: UnlearnConfig) -> str:
    """Said of a beta far from the method's: it mostly came with another method, whose beta is
    another thing."""
    default = METHODS[config.method].parameters.get("beta")
    if default is None or config.beta is None or 1 / FAR < config.beta / default < FAR:
        return ""
    return (
        f"beta is {config.beta:g}, and {config.method}'s default is {default:g}: if it came with "
        "another method, where beta means something else, set it to null."
    )


def _warmup(steps: int, max_steps: int) -> str:
    if steps <= max_steps:
        return ""
    return (
        f"The warm-up of {steps} steps is longer than the run's {max_steps}: the learning rate "
        "never rises to its value. Lower warmup_steps, or raise max_steps."
    )


def _side(side: Side) -> dict[str, Any]:
    return {
        "name": side.documents.name,
        "source": side.documents.source,
        "fingerprint": side.documents.fingerprint,
        "documents": len(side.documents.documents),
        "trained_on": len(side.training),
        "training_tokens": sum(item.labels for item in side.training),
        "without_labels": side.without_labels,
        "truncated": side.truncated,
        "measured_on": len(side.measured),
    }


def _question_counts(setup: Setup) -> dict[str, Any] | None:
    evaluation = setup.config.evaluation
    if setup.questions is None or evaluation.questions is None:
        return None
    counts: dict[str, int] = {}
    for question in setup.questions:
        counts[question.category] = counts.get(question.category, 0) + 1
    return {
        "counts": counts,
        "forget_category": evaluation.forget_category,
        "style": evaluation.style,
        "fingerprint": questions_digest(evaluation.questions),
    }
