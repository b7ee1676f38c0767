"""What the attacks are made with: steps, seeds, precisions, phrasings; one group of settings each.

No torch here: pages and the audit's file read these. The defaults are sized for the bundled model
on two cores; see design/0014.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from trace_engine.config import Settings

Share = Annotated[float, Field(gt=0, lt=1)]
Trains = Literal["all", "routers"]


class TrainingConfig(Settings):
    """Plain fine-tuning that asks the questions on the way."""

    steps: Annotated[int, Field(ge=1)] = 40
    """Optimizer updates."""
    ask_at: tuple[Annotated[int, Field(ge=1)], ...] = (5, 10, 20, 40)
    """Updates after which the questions are asked; 0 is always asked."""
    batch_size: Annotated[int, Field(ge=1)] = 16
    """Documents a step."""
    learning_rate: Annotated[float, Field(gt=0, lt=1)] = 1e-3
    """Of AdamW, without decay or warm-up."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Each draws its own documents and its own order."""

    def rate(self, trains: Trains) -> float:
        """The learning rate of what trains."""
        return self.learning_rate

    @model_validator(mode="after")
    def _asks_within_the_steps(self) -> Self:
        if not self.ask_at or not self.seeds:
            raise ValueError("ask_at and seeds each need at least one entry")
        if list(self.ask_at) != sorted(set(self.ask_at)):
            raise ValueError("ask_at must rise from entry to entry")
        if self.ask_at[-1] > self.steps:
            raise ValueError(
                f"ask_at asks after {self.ask_at[-1]} updates, and steps is {self.steps}"
            )
        return self


class RelearningConfig(TrainingConfig):
    """Plain fine-tuning on a slice of the forget set, and what it brings back of the rest."""

    share: Share = 0.2
    """Share of the forget set that is shown again; the rest of it is never shown."""
    router_learning_rate: Annotated[float, Field(gt=0, lt=1)] = 1e-2
    """The same where only the routers train."""
    trains: tuple[Trains, ...] = ("all", "routers")
    """What trains: every parameter, or the routers alone, which cannot write a fact into an
    expert."""

    def rate(self, trains: Trains) -> float:
        return self.learning_rate if trains == "all" else self.router_learning_rate

    @model_validator(mode="after")
    def _trains_something(self) -> Self:
        if not self.trains:
            raise ValueError("trains needs at least one entry")
        return self


class RecoveryConfig(TrainingConfig):
    """Plain fine-tuning on retained text alone, and what comes back of the forget set. The defaults
    are those that mended one wrecked model, and another half way (docs/audit.md); they cost about
    as much as relearning."""

    steps: Annotated[int, Field(ge=1)] = 200
    """Optimizer updates."""
    ask_at: tuple[Annotated[int, Field(ge=1)], ...] = (50, 100, 200)
    """Updates after which the questions are asked; 0 is always asked."""
    batch_size: Annotated[int, Field(ge=1)] = 32
    """Documents a step; at most as many are drawn as the steps take."""
    learning_rate: Annotated[float, Field(gt=0, lt=1)] = 2e-3
    """Of AdamW, without decay or warm-up."""
    seeds: tuple[int, ...] = (0,)
    """Each draws its own documents and its own order."""


class QuantisationConfig(Settings):
    """Weights rounded to few bits, as a cheaper deployment would store them."""

    bits: tuple[Annotated[int, Field(ge=2, le=8)], ...] = (8, 4)
    """Precisions to try."""
    group: Annotated[int, Field(ge=8)] = 64
    """Weights that share a scale at fewer than 8 bits; 8 bits and more have one for each row."""


class AskingConfig(Settings):
    """The same questions in other words."""

    paraphrases: str | None = None
    """A `.jsonl` file of rows `{"of": 3, "question": "..."}`: another wording of question 3 of the
    file, counted from 1. The choices stay."""
    templates: tuple[str, ...] | Literal["auto"] = "auto"
    """Sentences with `{question}` in them, which stands for the question without its last mark.
    `auto`: the bundled ones for the bundled questions, none for others."""
    prefixes: tuple[str, ...] | Literal["bundled"] = "bundled"
    """Sentences put before every question, as a person would who wants a refusal to give way."""

    @model_validator(mode="after")
    def _has_a_place_for_the_question(self) -> Self:
        for template in self.templates if self.templates != "auto" else ():
            if "{question}" not in template:
                raise ValueError(f"the template {template[:60]!r} has no {{question}} in it")
        return self
