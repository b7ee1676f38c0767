"""An audit as one file: models, sets, questions, attacks, rules, and the form's fields.

The page, the command and Python write and read the same YAML. Nothing here is computed and no torch
is loaded. It accepts that a question file with other categories than the named one is found only
when the questions are read.
"""

import datetime
import re
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self, get_args

from pydantic import Field, ValidationError, field_validator, model_validator

from trace_engine.attacks.settings import (
    AskingConfig,
    QuantisationConfig,
    RecoveryConfig,
    RelearningConfig,
)
from trace_engine.audit.rules import RulesConfig
from trace_engine.bundled import is_bundled
from trace_engine.config import EvaluationConfig, ModelConfig, SetConfig, Settings
from trace_engine.errors import InputError
from trace_engine.refusal import describe
from trace_engine.sets.muse import BUNDLED
from trace_engine.sets.published import QUESTION_FILES
from trace_engine.sets.tofu import FORGET
from trace_engine.yamlfile import read_yaml

PartName = Literal[
    "questions",
    "measures",
    "muse",
    "tofu",
    "routing",
    "causal",
    "drift",
    "rerouted",
    "relearning",
    "recovery",
    "quantisation",
    "paraphrases",
    "prefixes",
]
PARTS: tuple[PartName, ...] = get_args(PartName)
PublishedName = Literal["muse", "tofu"]
PUBLISHED: Final[tuple[PublishedName, ...]] = get_args(PublishedName)
"""The parts that are published benchmarks."""
Role = Literal["model", "before", "reference"]
ROLES: tuple[Role, ...] = get_args(Role)
UTILITY_ASKED: Final = 60
"""Utility questions that are asked on the way of a training, drawn with the seed."""


class LicenceConfig(Settings):
    """Under which terms the sets may be used, as the auditor knows them; shown, not checked."""

    forget: str = ""
    retain: str = ""
    holdout: str = ""
    questions: str = ""
    muse: str = ""
    tofu: str = ""


class FormConfig(Settings):
    """What only a person can say; every field is shown as it is typed, empty ones as not said."""

    auditor: str = ""
    """Who audited."""
    organisation: str = ""
    """For whom, or in whose name."""
    date: str = ""
    """When, as the auditor dates it."""
    purpose: str = ""
    """Why the audit was asked for."""
    intended_use: str = ""
    """What the report may be used for."""
    limits: str = ""
    """What it may not be used for, and what is known to be missing."""
    reviewed_by: str = ""
    """Who reviewed it."""
    review: str = ""
    """How: what was re-run, read, or discussed."""

    @field_validator("date", mode="before")
    @classmethod
    def _as_written(cls, value: object) -> object:
        # YAML takes a date without quotes for more than text.
        return value.isoformat() if isinstance(value, datetime.date) else value


class CausalEvidenceConfig(Settings):
    """Experts taken out, and the tests of erased or re-routed."""

    experts: Annotated[int, Field(ge=1)] = 12
    """So many experts with the largest gaps are taken out, one by one and together."""
    mode: Literal["drop", "reroute"] = "drop"
    """Take an expert's output away and leave the routers alone, or let the next best take over."""
    draws: Annotated[int, Field(ge=0)] = 20
    """Random sets beside them, of equal load where there are such, else the nearest."""
    questions: Annotated[int, Field(ge=1)] | None = 200
    """At most so many of the audit's questions a category, for speed. Empty: all. Absence is seldom
    claimed of fewer than 150: the interval of other routing is too wide then."""
    permutations: Annotated[int, Field(ge=99)] = 9_999
    """Sign flips behind the p-values of a loss."""


class PublishedConfig(Settings):
    """Published benchmarks of unlearning, asked as their authors ask."""

    muse: str | None = None
    """A corpus of MUSE: its folder as published, `hub:muse-bench/MUSE-Books`, or `demo:book`."""
    tofu: str | None = None
    """TOFU's folder as published, or `hub:locuslab/TOFU`."""
    tofu_forget: str = FORGET
    """Which of TOFU's forget sets: `forget01`, `forget05`, `forget10`."""
    prompt: str | None = None
    """How questions of both are asked, with `{question}` in it. Empty: in their authors' words."""
    max_items: Annotated[int, Field(ge=2)] | None = None
    """At most so many passages, questions or documents of each of their parts, drawn with the seed;
    n is always shown. Empty: all."""
    max_length: Annotated[int, Field(ge=8)] | None = None
    """Tokens per document; the rest is cut. Empty: 4096 for MUSE, whose documents are long, 512 for
    TOFU."""

    @field_validator("muse", "tofu")
    @classmethod
    def _is_a_source(cls, value: str | None) -> str | None:
        if value is not None and not value.strip():
            raise ValueError("is blank; give a folder or hub:owner/name, or leave it out")
        return value

    @field_validator("muse")
    @classmethod
    def _is_bundled_muse(cls, value: str | None) -> str | None:
        if value is not None and is_bundled(value) and value != BUNDLED:
            raise ValueError(f"the bundled pack has one corpus of MUSE, {BUNDLED}")
        return value

    @field_validator("tofu")
    @classmethod
    def _is_not_bundled(cls, value: str | None) -> str | None:
        if value is not None and is_bundled(value):
            raise ValueError("the bundled pack has no TOFU; give its folder or hub:locuslab/TOFU")
        return value

    @field_validator("tofu_forget")
    @classmethod
    def _is_a_forget_set(cls, value: str) -> str:
        if not value.isidentifier():
            raise ValueError(f"{value[:80]!r} is no forget set of TOFU; expected {FORGET}")
        return value

    @field_validator("prompt")
    @classmethod
    def _has_room_for_the_question(cls, value: str | None) -> str | None:
        if value is not None and "{question}" not in value:
            raise ValueError("has no {question}, which stands for the question")
        return value


_LETTERED: Final = re.compile(r"(?<![a-z0-9])(wmdp|mmlu)(?![a-z0-9])", re.IGNORECASE)


def style_of(questions: object, forget_category: object) -> Literal["continuation", "letters"]:
    """How questions are asked unless somebody says otherwise: WMDP's and MMLU's by letters, as
    their authors and lm-evaluation-harness ask them. Told by names alone."""
    names = [name for name in (questions, forget_category) if isinstance(name, str)]
    return "letters" if any(map(_LETTERED.search, names)) else "continuation"


HARNESS_SENTENCE: Final = (
    "The following are multiple choice questions (with answers) about {subject}.\n\n"
)
"""What lm-evaluation-harness puts before a question of WMDP or MMLU."""


def description_of(questions: object, forget_category: object) -> str:
    """What stands before every question unless somebody says otherwise: the harness's sentence
    before WMDP's and MMLU's as they are published, nothing before others'. A single file's
    categories are whatever its rows name, and no subject to speak of."""
    single = isinstance(questions, str) and questions.lower().endswith(QUESTION_FILES)
    lettered = style_of(questions, forget_category) == "letters"
    return HARNESS_SENTENCE if lettered and not single else ""


class AuditConfig(Settings):
    kind: Literal["audit"] = "audit"
    name: str = ""
    """A label for lists and the report's title."""
    model: ModelConfig = ModelConfig()
    """The model that is audited."""
    before: ModelConfig | None = None
    """The model that it was made from, where there is one: knowledge, utility and routing are
    compared with it."""
    reference: ModelConfig | None = None
    """A model that was trained without the forget set: what not knowing looks like. Empty: the
    report says "no reference" wherever one is needed."""
    forget: SetConfig
    """The body of knowledge in question."""
    retain: SetConfig
    """Text that should be left as it was."""
    holdout: SetConfig | None = None
    """Documents like the forget set's that no model was trained on, for membership attacks; none is
    judged by a holdout that repeats documents of the forget or the retain set."""
    questions: str | None = None
    """Multiple choice: a file, WMDP's or MMLU's folder as published, `hub:cais/wmdp:wmdp-bio`, or
    `demo:questions/test`. Empty: nobody can say whether the model holds the knowledge."""
    forget_category: str = "hazard"
    """Category of the questions about the forget set; every other category is utility."""
    style: Literal["continuation", "letters"] = "continuation"
    """Score each choice's own words, or the letters A-D after an MMLU prompt. Without this line:
    letters where the questions or the forget category are named after WMDP or MMLU, else words."""
    description: str = ""
    """Stands before every question, as a task's description in lm-evaluation-harness; `{subject}`
    in it is what the question's category is about. Where neither this nor style is given, the
    harness's own sentence before WMDP's and MMLU's folders and hub sets, else nothing."""
    max_questions: Annotated[int, Field(ge=1)] | None = None
    """At most so many questions a category, drawn with the seed; n is always shown."""
    max_documents: Annotated[int, Field(ge=2)] = 400
    """At most so many documents of each set for losses, memorisation, membership and drift, drawn
    with the seed. Profile and relearning take whole sets, recovery what its steps take."""
    max_length: Annotated[int, Field(ge=8)] = 256
    """Tokens per document; the rest is cut."""
    published: PublishedConfig = PublishedConfig()
    """MUSE and TOFU, where you have them. The finding does not rest on them."""
    parts: tuple[PartName, ...] | None = None
    """Only these parts; empty: all that the materials allow. What is left out is listed as not
    tested."""
    causal: CausalEvidenceConfig = CausalEvidenceConfig()
    relearning: RelearningConfig = RelearningConfig()
    recovery: RecoveryConfig = RecoveryConfig()
    quantisation: QuantisationConfig = QuantisationConfig()
    asking: AskingConfig = AskingConfig()
    rules: RulesConfig = RulesConfig()
    runs: tuple[str, ...] = ()
    """Folders or ids of the runs that led to the model, the failed and stopped ones too: the report
    lists how each ended."""
    licences: LicenceConfig = LicenceConfig()
    form: FormConfig = FormConfig()
    reveal: bool = False
    """Write questions and choices into the answer files. Otherwise they hold hashes only, and no
    word of a set or a question is in the folder."""
    threads: Annotated[int, Field(ge=1)] | None = None
    """CPU threads; the same number gives the same bits. Empty: torch's default."""
    seed: int = 0
    """Decides which documents and questions are drawn, and the bootstrap."""

    @model_validator(mode="before")
    @classmethod
    def _asks_as_published(cls, data: Any) -> Any:
        if not isinstance(data, dict) or "style" in data:
            return data
        named = (data.get("questions"), data.get("forget_category"))
        return {"description": description_of(*named)} | data | {"style": style_of(*named)}

    @model_validator(mode="after")
    def _compares_different_things(self) -> Self:
        if self.before is not None and self.before == self.model:
            raise ValueError("before and model are the same: there is no change to look at")
        return self

    def asked(self) -> EvaluationConfig:
        """Which questions are asked, and how, in the terms of a run."""
        return EvaluationConfig(
            questions=self.questions,
            forget_category=self.forget_category,
            style=self.style,
            max_questions=self.max_questions,
        )

    def models(self) -> dict[Role, ModelConfig]:
        """The models that are there, by what they are here."""
        given = {role: getattr(self, role) for role in ROLES}
        return {role: model for role, model in given.items() if model is not None}


def parse_audit(data: Any, where: str = "settings") -> AuditConfig:
    """Validate a mapping. Raises InputError naming each field."""
    if not isinstance(data, dict):
        raise InputError(f"{where}: expected a mapping of settings, found {type(data).__name__}.")
    if data.get("kind", "audit") != "audit":
        raise InputError(f"{where}: kind must be audit, found {str(data['kind'])[:40]!r}.")
    try:
        return AuditConfig.model_validate(data)
    except ValidationError as error:
        raise InputError(f"{where}: {describe(error, AuditConfig)}") from None


def read_audit(path: str | Path) -> AuditConfig:
    """Read an audit's YAML file. Raises InputError when it is missing, not YAML, or refused."""
    path = Path(path)
    return parse_audit(read_yaml(path), path.name)
