"""An evaluation: measurement families, a model, and where it is asked for, a reference model.

A family collects raw scores from a model and turns them, with those of the reference where there
are any, into rows. The models are open one after the other, so that a reference costs no memory
beside the model; only scores are kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from trace_engine.config import ModelConfig
from trace_engine.errors import InputError
from trace_engine.evaluation.estimate import Estimate
from trace_engine.evaluation.loss import set_loss
from trace_engine.evaluation.measured import Alone, Measured
from trace_engine.evaluation.multiple_choice import ChoiceScores, Style, score_questions
from trace_engine.models import ModelInfo, OpenModel, open_model
from trace_engine.progress import ProgressCallback, ignore_progress
from trace_engine.sets import Document
from trace_engine.sets.questions import Question


class Family(Protocol):
    """What one family of metrics does."""

    @property
    def needs_reference(self) -> bool:
        """Whether a reference model is worth opening for it."""

    def collect(self, opened: OpenModel, report: ProgressCallback = ...) -> Any:
        """Raw scores of the model."""

    def collect_reference(self, opened: OpenModel, report: ProgressCallback = ...) -> Any:
        """Of the reference, what `rows` compares with; never called where none is needed."""

    def rows(self, collected: Any, reference: Any | None = None) -> list[Measured]:
        """Figures, from the model's scores and the reference's where there is one."""


@dataclass(frozen=True, slots=True)
class Accuracy(Alone):
    """Multiple-choice accuracy of each category, with Wilson's interval."""

    questions: Sequence[Question]
    on: str = "questions"
    style: Style = "continuation"
    description: str = ""
    """Stands before every question, as a task's description in the harness."""

    def collect(
        self, opened: OpenModel, report: ProgressCallback = ignore_progress
    ) -> ChoiceScores:
        return score_questions(
            opened.model,
            opened.tokenizer,
            self.questions,
            style=self.style,
            description=self.description,
            report=report,
        )

    def rows(
        self, collected: ChoiceScores, reference: ChoiceScores | None = None
    ) -> list[Measured]:
        implementation = f"TRACE, after lm-evaluation-harness multiple_choice, {self.style}"
        return [
            Measured(f"accuracy: {category}", self.on, estimate, implementation)
            for category, estimate in collected.by_category().items()
        ]


@dataclass(frozen=True, slots=True)
class Loss(Alone):
    """Loss of a set in nats per token, with a cluster interval over documents."""

    documents: Sequence[Document]
    on: str = "set"
    max_length: int = 256

    def collect(self, opened: OpenModel, report: ProgressCallback = ignore_progress) -> Estimate:
        return set_loss(opened, self.documents, self.max_length, report=report)

    def rows(self, collected: Estimate, reference: Estimate | None = None) -> list[Measured]:
        return [Measured("loss, nats per token", self.on, collected, "TRACE, token-weighted NLL")]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What an evaluation found, and of which model."""

    model: ModelInfo
    reference: ModelInfo | None
    rows: list[Measured]

    def to_dict(self) -> dict[str, Any]:
        return {
            "model": self.model.to_dict(),
            "reference": None if self.reference is None else self.reference.to_dict(),
            "results": [row.to_dict() for row in self.rows],
        }


def evaluate(
    model: ModelConfig,
    families: Sequence[Family],
    reference: ModelConfig | None = None,
    *,
    report: ProgressCallback = ignore_progress,
) -> Evaluation:
    """Every family's rows for a model. `reference` is a model that never saw the forget set.

    Raises InputError when there is nothing to measure, or a reference that no family asks for;
    ModelError as `open_model` does, for either model.
    """
    if not families:
        raise InputError("Nothing to measure is named.")
    compared = [family for family in families if family.needs_reference]
    if reference is not None and not compared:
        raise InputError(
            "A reference is given, and no metric compares with one: membership, muse and tofu do."
        )
    opened = open_model(model)
    info = opened.info
    collected = [family.collect(opened, report) for family in families]
    del opened
    of_reference: dict[int, Any] = {}
    reference_info = None
    if reference is not None:
        opened = open_model(reference)
        reference_info = opened.info
        of_reference = {id(family): family.collect_reference(opened, report) for family in compared}
    rows = [
        row
        for family, scores in zip(families, collected, strict=True)
        for row in family.rows(scores, of_reference.get(id(family)))
    ]
    return Evaluation(info, reference_info, rows)
