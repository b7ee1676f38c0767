"""What an audit works on: sets and questions read once, models opened one at a time.

Everything is read and hashed before anything is computed, so that a typo costs no load and no part
of a report. Accepted trade-off: sets are held in memory, and a model is opened again for every part
that changes its weights.
"""

import gc
import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from trace_engine.audit.names import shown_source
from trace_engine.audit.settings import AuditConfig, Role
from trace_engine.config import SetConfig
from trace_engine.errors import InputError, TraceError
from trace_engine.models import ModelInfo, OpenModel, inspect_model, open_model
from trace_engine.runs.profiles import ProfileAnswer
from trace_engine.sets import (
    Document,
    DocumentSet,
    Overlap,
    Question,
    check_pair,
    load_set,
    overlap,
)
from trace_engine.sets.muse import MuseSet, read_muse
from trace_engine.sets.parts import texts_digest
from trace_engine.sets.published import questions_digest
from trace_engine.sets.questions import described
from trace_engine.sets.tofu import TofuSet, read_tofu
from trace_engine.unlearning.setup import read_chosen_questions

_DRAWN = {"forget": 11, "retain": 12, "holdout": 13}


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Documents of a holdout that a model may well have been trained on."""

    total: int
    forget: int
    """Documents of it that are in the forget set too."""
    retain: int

    @property
    def why_no_membership(self) -> str:
        """Why no attack can be judged by it; empty where one can."""
        if not self.forget and not self.retain:
            return ""
        return (
            f"withheld: of the holdout's {self.total:,} documents {self.forget:,} are in the "
            f"forget set and {self.retain:,} in the retain set, which pulls an AUC towards 0.5"
        )


@dataclass(slots=True)
class Case:
    """An audit's materials. `open` keeps the model it opened last."""

    config: AuditConfig
    forget: DocumentSet
    retain: DocumentSet
    holdout: DocumentSet | None
    overlap: Overlap
    questions: dict[int, Question]
    """By their number in the file, counted from 0; empty where none are asked."""
    questions_hash: str | None
    models: dict[Role, ModelInfo]
    base: Path | None
    """The home, where profiles are kept: their token contexts are text, and stay out of the
    report's folder."""
    muse: MuseSet | None = None
    tofu: TofuSet | None = None
    """Without the folders of this machine in their names."""
    held_out: HeldOut | None = None
    """None without a holdout."""
    _open: tuple[Role, OpenModel] | None = None

    @classmethod
    def read(
        cls,
        config: AuditConfig,
        base: Path | None = None,
        *,
        absent: dict[Role, str] | None = None,
    ) -> Self:
        """Read and hash everything. Raises InputError or ModelError; with `absent`, models that
        cannot be looked at are left out, and why is written there."""
        forget, retain = _load(config.forget), _load(config.retain)
        shared = check_pair(forget, retain)
        holdout = None if config.holdout is None else _load(config.holdout)
        if holdout is not None and not len(holdout):
            raise InputError(f"The holdout set ({holdout.name}) has no documents.")
        questions: dict[int, Question] = {}
        digest = None
        if config.questions is not None:
            chosen = read_chosen_questions(config.asked(), config.seed) or {}
            questions = {
                place: described(question, config.description) for place, question in chosen.items()
            }
            digest = questions_digest(config.questions)
        muse, tofu = _published(config)
        models: dict[Role, ModelInfo] = {}
        for role, model in config.models().items():
            try:
                models[role] = inspect_model(model)
            except TraceError as error:
                if absent is None:
                    raise
                absent[role] = str(error)
        _refuse_same(models)
        held_out = None if holdout is None else _held_out(holdout, forget, retain)
        return cls(
            config, forget, retain, holdout, shared, questions, digest, models, base, muse, tofu,
            held_out,
        )  # fmt: skip

    def drawn(self, side: str) -> list[Document]:
        """At most `max_documents` of a set, drawn with the seed, in the set's order."""
        documents = {"forget": self.forget, "retain": self.retain, "holdout": self.holdout}[side]
        assert documents is not None
        most = self.config.max_documents
        if len(documents) <= most:
            return list(documents.documents)
        rng = np.random.default_rng([self.config.seed, _DRAWN[side]])
        return [documents.documents[n] for n in sorted(rng.permutation(len(documents))[:most])]

    def forget_questions(self) -> dict[int, Question]:
        """Those about the forget set."""
        category = self.config.forget_category
        return {n: q for n, q in self.questions.items() if q.category == category}

    def utility_questions(self) -> dict[int, Question]:
        """All others."""
        category = self.config.forget_category
        return {n: q for n, q in self.questions.items() if q.category != category}

    def open(self, role: Role) -> OpenModel:
        """A model to look at; its weights must be left as they are."""
        if self._open is None or self._open[0] != role:
            self.close()
            self._open = (role, open_model(self.config.models()[role], hashed=False))
        return self._open[1]

    def fresh(self, role: Role) -> OpenModel:
        """A model of the caller's own, to change at will."""
        self.close()
        return open_model(self.config.models()[role], hashed=False)

    def close(self) -> None:
        """Let go of the model that is open."""
        self._open = None
        gc.collect()

    def profile(self, role: Role) -> ProfileAnswer:
        """The profile of a model on both sets, to be found or computed."""
        from trace_engine.config import ProfileConfig

        return ProfileAnswer(
            ProfileConfig(
                model=self.config.models()[role],
                forget=self.config.forget,
                retain=self.config.retain,
                seed=self.config.seed,
            ),
            self.base,
        )

    def fingerprints(self) -> dict[str, Any]:
        """What the figures are about, as hashes."""
        holdout = None if self.holdout is None else self.holdout.fingerprint
        published = {"muse": self.muse, "tofu": self.tofu}
        return {
            **{f"model: {role}": info.fingerprint for role, info in self.models.items()},
            "forget": self.forget.fingerprint,
            "retain": self.retain.fingerprint,
            "holdout": holdout,
            "questions": self.questions_hash,
            **{name: texts_digest(asked) for name, asked in published.items() if asked is not None},
        }

    def documents(self) -> dict[str, int]:
        """How many documents each set has."""
        held = {"forget": self.forget, "retain": self.retain, "holdout": self.holdout}
        return {side: len(documents) for side, documents in held.items() if documents is not None}

    def texts(self) -> list[str]:
        """Every text that must not be in the report: documents of the forget set and the holdout,
        questions and choices, and all of MUSE and TOFU."""
        found = [document.text for document in self.forget.documents]
        if self.holdout is not None:
            found += [document.text for document in self.holdout.documents]
        for question in self.questions.values():
            found += [question.question, *question.choices]
        for published in (self.muse, self.tofu):
            found += [] if published is None else published.texts()
        return found


def hash_of(question: Question) -> str:
    """SHA-256 of a question with its choices and answer: names it without telling it."""
    row = [question.question, list(question.choices), question.answer]
    return hashlib.sha256(json.dumps(row, ensure_ascii=False).encode()).hexdigest()


def _load(config: SetConfig) -> DocumentSet:
    documents = load_set(config)
    return replace(documents, name=config.label or documents.name)


def _held_out(holdout: DocumentSet, forget: DocumentSet, retain: DocumentSet) -> HeldOut:
    return HeldOut(len(holdout), *(overlap(holdout, others).count for others in (forget, retain)))


def _published(config: AuditConfig) -> tuple[MuseSet | None, TofuSet | None]:
    """MUSE and TOFU as they are asked here."""
    asked = config.published
    named: dict[str, Any] = {} if asked.prompt is None else {"prompt": asked.prompt}
    muse = None if asked.muse is None else read_muse(asked.muse.strip())
    tofu = None if asked.tofu is None else read_tofu(asked.tofu.strip(), asked.tofu_forget)
    return (
        None if muse is None else replace(muse, source=shown_source(muse.source), **named),
        None if tofu is None else replace(tofu, source=shown_source(tofu.source), **named),
    )


def _refuse_same(models: dict[Role, ModelInfo]) -> None:
    """Two folders with the same bytes are one model, and a comparison of it with itself is none."""
    for (one, other), said in _SAME.items():
        if {one, other} <= {*models} and models[one].fingerprint == models[other].fingerprint:
            raise InputError(said)


_NOT_LEARNED = (
    "A reference is a model that never learned what is asked; name another one, or leave reference "
    "out."
)
_SAME: dict[tuple[Role, Role], str] = {
    ("model", "before"): "The model and the model before are the same files, so there is no change "
    "to look at. Name another one, or leave before out.",
    ("model", "reference"): "The reference and the audited model are the same files. "
    + _NOT_LEARNED,
    ("before", "reference"): "The reference and the model before are the same files. "
    + _NOT_LEARNED,
}
