"""What a job of causal evidence is asked: a set of experts, all of them, or a pair of models.

The page, the command and Python fill in the same fields. Loads no torch. It accepts that an expert
the model does not have is found only when the model is open.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from trace_engine.config import Cell, ModelConfig
from trace_engine.errors import InputError
from trace_engine.refusal import describe

What = Literal["scan", "ablate", "rerouted"]
QUESTIONS = "demo:questions/validation"


class CausalConfig(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    what: What = "scan"
    """Every expert by itself, one set of experts, or two models compared."""
    model: ModelConfig = ModelConfig()
    """The model that is looked into; of a pair, the new one."""
    before: ModelConfig | None = None
    """The old model of a pair."""
    reference: ModelConfig | None = None
    """A model that never saw the forget set, which a pair's probe is compared with."""
    questions: str = QUESTIONS
    """Multiple-choice file or published folder, `hub:owner/name:config`, or
    `demo:questions/validation`."""
    split: str = "test"
    """Which split of a published set of questions is asked."""
    style: Literal["continuation", "letters"] = "continuation"
    """Score each choice's own words, or the letters A-D after an MMLU prompt."""
    forget_category: str = "hazard"
    """Category of the questions whose knowledge is looked for; every other one is utility."""
    max_questions: Annotated[int, Field(ge=1)] | None = 100
    """At most so many questions per category, for speed, drawn as a run draws them. Empty: all."""
    mode: Literal["drop", "reroute"] = "drop"
    """Take an expert's output away and leave the routers alone, or let the next best take over."""
    cells: tuple[Cell, ...] = ()
    """The experts that are taken out together."""
    order: Literal["none", "one_at_a_time", "greedy"] = "none"
    """Also take the set's experts out one after the other: by what each does alone, or each time
    the one that then harms the forget group most beyond the rest."""
    draws: Annotated[int, Field(ge=0)] = 20
    """Random sets that the set is compared with, of equal load where there are such, else the
    nearest."""
    profile: str | None = None
    """Folder of a profile of the model, whose counts say what equal load is. Empty: the questions'
    own tokens."""
    per_layer: Annotated[int, Field(ge=1)] = 2
    """Experts a layer, at most, that expert-forcing forbids."""
    permutations: Annotated[int, Field(ge=99)] = 9_999
    """Sign flips behind the p-values of a loss."""
    shuffles: Annotated[int, Field(ge=0)] = 199
    """Shuffles of the answers behind the probe's baseline."""
    seed: int = 0

    @model_validator(mode="after")
    def _asks_one_thing(self) -> Self:
        if self.what == "ablate" and not self.cells:
            raise ValueError("cells is empty: name the experts that are taken out, as layer:expert")
        if self.what == "rerouted" and self.before is None:
            raise ValueError("before is empty: name the old model that the new one is compared to")
        if self.what != "ablate" and self.order != "none":
            raise ValueError("order is for a set of experts: set what to ablate, or leave it out")
        return self


def parse_causal(data: dict[str, Any]) -> CausalConfig:
    """Validate a mapping. Raises InputError naming each refused field."""
    try:
        return CausalConfig.model_validate(data)
    except ValidationError as error:
        raise InputError(describe(error, CausalConfig)) from None
