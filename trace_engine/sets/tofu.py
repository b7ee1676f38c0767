"""TOFU's four question sets as rows, each with true, reworded and false answers.

Read as published (`locuslab/TOFU`, whose files are JSON lines by the name of the configuration) or
from a folder of the same files. A set that is not there is empty, and the figure that needs it says
so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from trace_engine.errors import InputError
from trace_engine.sets.parts import part_rows, text_of, texts_of
from trace_engine.sets.rows import Row

PROMPT: Final = "Question: {question}\nAnswer:"
"""How TOFU asks a model without a chat format: locuslab/tofu, config/model_config.yaml, phi."""
FORGET: Final = "forget10"
FORGET_SETS: Final = ("forget01", "forget05", FORGET)
"""As published: 1, 5 and 10 % of the authors."""


@dataclass(frozen=True, slots=True)
class TofuQuestion:
    """One question with its answers."""

    question: str
    answer: str
    reworded: str
    """The true answer in other words; the answer itself where the set has none (real authors, world
    facts)."""
    perturbed: tuple[str, ...]
    """False answers of the same form."""


@dataclass(frozen=True, slots=True)
class TofuSet:
    """Questions to forget and three sets to keep. Empty where the source has no such part."""

    source: str
    forget: Sequence[TofuQuestion] = ()
    """`forget10_perturbed`, or that of 1 or 5 %."""
    retain: Sequence[TofuQuestion] = ()
    """`retain_perturbed`."""
    real_authors: Sequence[TofuQuestion] = ()
    """`real_authors_perturbed`."""
    world_facts: Sequence[TofuQuestion] = ()
    """`world_facts_perturbed`."""
    prompt: str = PROMPT
    """How a question is asked; `{question}` stands for it."""

    def texts(self) -> Iterator[str]:
        """Every text of the four sets."""
        for questions in (self.forget, self.retain, self.real_authors, self.world_facts):
            for of in questions:
                yield from (of.question, of.answer, of.reworded, *of.perturbed)


def read_tofu(source: str, forget: str = FORGET) -> TofuSet:
    """Read TOFU from a folder or `hub:locuslab/TOFU`; `forget` is `forget01`, `forget05` or
    `forget10`.

    Raises InputError when there is no such source, a row is malformed, or no set is there.
    """
    if not forget.isidentifier():
        raise InputError(f"{forget[:80]!r} is no forget set of TOFU; expected forget10.")
    found = TofuSet(
        source,
        _questions(part_rows(source, f"{forget}_perturbed")),
        _questions(part_rows(source, "retain_perturbed")),
        _questions(part_rows(source, "real_authors_perturbed")),
        _questions(part_rows(source, "world_facts_perturbed")),
    )
    if not (found.forget or found.retain or found.real_authors or found.world_facts):
        raise InputError(
            f"{source} has no set of TOFU: expected {forget}_perturbed.json, "
            "retain_perturbed.json, real_authors_perturbed.json and world_facts_perturbed.json, "
            "as published."
        )
    return found


def _questions(rows: list[Row] | None) -> tuple[TofuQuestion, ...]:
    found = []
    for row in rows or ():
        answer = text_of(row, "answer")
        has_other = isinstance(row.value, Mapping) and "paraphrased_answer" in row.value
        found.append(
            TofuQuestion(
                text_of(row, "question"),
                answer,
                text_of(row, "paraphrased_answer") if has_other else answer,
                tuple(texts_of(row, "perturbed_answer")),
            )
        )
    return tuple(found)
