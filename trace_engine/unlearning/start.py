"""What the start model says once: does it know the set, NPO's reference, the probe's routing.

Measured once, before the first update, and carried in the state, so that a resumed run need not
measure again. Accepted trade-off: references cover only the documents that the run will draw, so a
run cannot be lengthened later.
"""

# Dims: D training documents of the forget side, N tokens of the probe, L MoE sites, K experts

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from trace_engine.config import UnlearnConfig
from trace_engine.evaluation import KnowledgeCheck, knowledge_check
from trace_engine.evaluation.nll import document_nll
from trace_engine.methods import METHODS
from trace_engine.models import Encoded, OpenModel
from trace_engine.progress import ProgressCallback, ignore_progress
from trace_engine.sets import Question
from trace_engine.unlearning.measure import probe
from trace_engine.unlearning.packing import snapshot
from trace_engine.unlearning.precision import mixed
from trace_engine.unlearning.setup import Setup, Side, read_inputs


def check_knowledge(
    config: UnlearnConfig, report: ProgressCallback = ignore_progress
) -> KnowledgeCheck:
    """What a run with these settings would find before its first step, without profiling.

    Raises a TraceError when the run could not be set up.
    """
    threads = torch.get_num_threads()
    try:
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        inputs = read_inputs(config)
        questions = None if inputs.questions is None else tuple(inputs.questions.values())
        return _knowledge(config, inputs.opened, inputs.forget, questions, report)
    finally:
        torch.set_num_threads(threads)


def _knowledge(
    config: UnlearnConfig,
    opened: OpenModel,
    forget: Side,
    questions: tuple[Question, ...] | None,
    report: ProgressCallback,
) -> KnowledgeCheck:
    return knowledge_check(
        opened,
        forget.measured,
        questions,
        config.evaluation.forget_category,
        style=config.evaluation.style,
        max_length=config.max_length,
        report=report,
    )


@dataclass(frozen=True, slots=True)
class StartModel:
    """Findings on the model before any update."""

    knowledge: KnowledgeCheck
    probe_NLK: Tensor
    """Routing of the drift probe, int16."""
    reference_nll_D: Tensor | None
    """Summed NLL of each forget document that will be drawn, NaN for the others; only for methods
    that compare with it."""
    preferred_nll_D: Tensor | None = None
    """The same of the answers that are preferred to them."""

    @classmethod
    def measure(cls, setup: Setup, drawn: list[int], report: ProgressCallback) -> Self:
        """Measure the model of `setup`, which must not have been trained yet.

        drawn: the forget documents that the run will see.
        """
        knowledge = _knowledge(setup.config, setup.opened, setup.forget, setup.questions, report)
        reference_D = preferred_D = None
        if METHODS[setup.config.method].reference_nll:
            forget = setup.forget
            reference_D = _reference(setup, forget.training, drawn, "forget set", report)
            if forget.preferred is not None:
                told = "preferred answers"
                preferred_D = _reference(setup, forget.preferred, drawn, told, report)
        return cls(knowledge, torch.from_numpy(probe(setup)), reference_D, preferred_D)

    def tensors(self) -> dict[str, Tensor]:
        """Copies for a checkpoint."""
        found = {"probe": snapshot(self.probe_NLK)}
        if self.reference_nll_D is not None:
            found["reference_nll"] = snapshot(self.reference_nll_D)
        if self.preferred_nll_D is not None:
            found["preferred_nll"] = snapshot(self.preferred_nll_D)
        return found

    @classmethod
    def restore(cls, tensors: Mapping[str, Tensor], knowledge: Mapping[str, Any]) -> Self:
        """From `tensors()` and the knowledge check's dictionary."""
        kept = {name: tensor.clone() for name, tensor in tensors.items()}
        return cls(
            KnowledgeCheck.from_dict(knowledge),
            kept["probe"],
            kept.get("reference_nll"),
            kept.get("preferred_nll"),
        )


def _reference(
    setup: Setup,
    encoded: Sequence[Encoded],
    drawn: Sequence[int],
    what: str,
    report: ProgressCallback,
) -> Tensor:
    """Summed NLL (D,) of the documents that will be drawn, NaN for the others."""
    chosen = [encoded[index] for index in drawn]
    # As the forwards that are compared with it.
    with mixed(setup.config.mixed_precision, setup.opened.device):
        nll, _ = document_nll(setup.opened, chosen, phase=f"reference of the {what}", report=report)
    reference_D = torch.full((len(encoded),), math.nan, dtype=torch.float64)
    reference_D[torch.tensor(drawn)] = torch.from_numpy(nll)
    return reference_D
