"""What only the start model can tell: does it know the set, NPO's reference, the probe's routing.

Measured once, before the first update, and carried in the state, so that a resumed run need not
measure again. Accepted trade-off: references cover only the documents that the run will draw, so a
run cannot be lengthened later.
"""

# Dims: D training documents of the forget side, N tokens of the probe, L MoE sites, K experts

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from trace_engine.evaluation import KnowledgeCheck, knowledge_check
from trace_engine.evaluation.nll import document_nll
from trace_engine.progress import ProgressCallback
from trace_engine.unlearning.measure import probe
from trace_engine.unlearning.packing import snapshot
from trace_engine.unlearning.setup import Setup


@dataclass(frozen=True, slots=True)
class StartModel:
    """Findings on the model before any update."""

    knowledge: KnowledgeCheck
    probe_NLK: Tensor
    """Routing of the drift probe, int16."""
    reference_nll_D: Tensor | None
    """Summed NLL of each forget document that will be drawn, NaN for the others; NPO only."""

    @classmethod
    def measure(cls, setup: Setup, drawn: list[int], report: ProgressCallback) -> Self:
        """Measure the model of `setup`, which must not have been trained yet.

        drawn: the forget documents that the run will see.
        """
        evaluation = setup.config.evaluation
        knowledge = knowledge_check(
            setup.opened,
            setup.forget.measured,
            setup.questions,
            evaluation.forget_category,
            style=evaluation.style,
            max_length=setup.config.max_length,
            report=report,
        )
        reference_D = None
        if setup.config.method == "npo":
            chosen = [setup.forget.training[index] for index in drawn]
            nll, _ = document_nll(
                setup.opened, chosen, phase="reference of the forget set", report=report
            )
            reference_D = torch.full((len(setup.forget.training),), math.nan, dtype=torch.float64)
            reference_D[torch.tensor(drawn)] = torch.from_numpy(nll)
        return cls(knowledge, torch.from_numpy(probe(setup)), reference_D)

    def tensors(self) -> dict[str, Tensor]:
        """Copies for a checkpoint."""
        found = {"probe": snapshot(self.probe_NLK)}
        if self.reference_nll_D is not None:
            found["reference_nll"] = snapshot(self.reference_nll_D)
        return found

    @classmethod
    def restore(cls, tensors: Mapping[str, Tensor], knowledge: Mapping[str, Any]) -> Self:
        """From `tensors()` and the knowledge check's dictionary."""
        reference = tensors.get("reference_nll")
        return cls(
            KnowledgeCheck.from_dict(knowledge),
            tensors["probe"].clone(),
            None if reference is None else reference.clone(),
        )
