"""What the four tests of "erased, or re-routed?" came to, as plain records with their sentences.

Each says what it shows and what it does not: none of them alone proves that knowledge is gone.
Frozen, JSON both ways, and free of torch.
"""

# Dims: L sites

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any

from trace_engine.causal.paired import INTERVALS, TESTS, Change, Effect
from trace_engine.causal.results import Loads, cells_of, effect_of, reading
from trace_engine.config import Cell
from trace_engine.evaluation.estimate import Estimate
from trace_engine.spelling import number

SCHEMA = 1
_PER_QUESTION = ("marks", "kept", "probed")
SHOWS = {
    "overlap": "This shows how far routing moved, not whether knowledge went with it.",
    "restored": "This shows how much of the forgetting sits in the routers, not that the rest is "
    "erased: the experts may hold it where the old routers do not lead.",
    "forced": "A rise shows knowledge that was routed around; no rise does not show that it is "
    "gone.",
    "probing": "Above the reference, it shows information that is left in the hidden states; it "
    "does not show that the model would use it, and chance does not show that nothing is left, "
    "because the probe is linear.",
}
"""What each test shows and what it does not."""


@dataclass(frozen=True, slots=True)
class LayerOverlap:
    """Share of their experts that the same tokens kept, in one layer."""

    layer: int
    forget: Estimate
    """On the forget questions with their right answers; n and interval are over questions."""
    utility: Estimate


@dataclass(frozen=True, slots=True)
class Overlap:
    """How far routing moved between the two models."""

    layers: tuple[LayerOverlap, ...]

    @property
    def sentence(self) -> str:
        lowest = min(self.layers, key=lambda layer: layer.forget.value)
        return (
            f"Most moved layer {lowest.layer}: forget questions keep "
            f"{_share(lowest.forget)} of their experts there, others "
            f"{_share(lowest.utility)} (n = {lowest.forget.n} and {lowest.utility.n}). "
            + SHOWS["overlap"]
        )


@dataclass(frozen=True, slots=True)
class Kept:
    """How far routing moved, question by question: what an overlap is made of."""

    tokens: tuple[int, ...]
    """Of each question with its right answer."""
    kept: tuple[tuple[float, ...], ...]
    """Per layer and question, the share of its experts that a token kept, summed over tokens."""


@dataclass(frozen=True, slots=True)
class Restored:
    """The new model with the old model's routers."""

    unlearned: tuple[Effect, ...]
    """From the old model to the new one: forget and utility."""
    restored: tuple[Effect, ...]
    """From the new model to the new one with the old routers."""
    returned: Estimate | None
    """Share of the lost forget accuracy that came back; None where none was lost."""
    tensors: int
    """Router tensors that were put back."""
    different: int
    """Of those, how many differed between the models."""

    @property
    def sentence(self) -> str:
        lost, back = self.unlearned[0].accuracy, self.restored[0].accuracy
        start = f"Forget accuracy went {lost.before:.3f} → {lost.after:.3f}{_change(lost)}"
        if not self.different:
            return f"{start}. Both models have the same routers, so there is nothing to put back."
        share = "" if self.returned is None else f", {_share(self.returned)} of what was lost"
        return (
            f"{start}; with the old routers it is {back.after:.3f}{_change(back)}{share} "
            f"(n = {self.restored[0].n}, p = {back.p:.2g}). {SHOWS['restored']}"
        )


@dataclass(frozen=True, slots=True)
class Forced:
    """The new model without the experts that now serve the forget questions."""

    cells: tuple[Cell, ...]
    rise: tuple[float, ...]
    """How much more of the forget questions' tokens each gets than in the old model."""
    effects: tuple[Effect, ...]
    """From the new model to the new one with the experts forbidden; empty without such experts."""
    random_low: float | None
    """2.5 % and 97.5 % quantiles of the forget accuracy's change with random experts forbidden."""
    random_high: float | None
    random_n: int
    note: str = ""
    """Why it was not done."""
    loads: Loads | None = None
    """Of the random sets; None without one, and in results of earlier versions."""

    @property
    def sentence(self) -> str:
        if not self.effects:
            return f"Expert-forcing was not done: {self.note}"
        forget = self.effects[0].accuracy
        experts = "1 expert" if len(self.cells) == 1 else f"{len(self.cells)} experts"
        carried = "load not known" if self.loads is None else self.loads.sentence
        band = (
            ""
            if self.random_low is None or self.random_high is None
            else f"; {self.random_n} random sets ({carried}) change it by "
            f"{number(self.random_low, '+.3f')} to {number(self.random_high, '+.3f')}"
        )
        return (
            f"With {experts} forbidden that forget questions use more than before, forget "
            f"accuracy goes {forget.before:.3f} → {forget.after:.3f}{_change(forget)} "
            f"(n = {self.effects[0].n}, p = {forget.p:.2g}{band}). {SHOWS['forced']}"
        )


@dataclass(frozen=True, slots=True)
class ProbedLayer:
    """A linear probe on one layer's hidden states."""

    layer: int
    before: Estimate
    """Accuracy on forget questions that the probe was not trained on."""
    after: Estimate
    reference: Estimate | None
    """Of a model that never saw the forget set; None without one."""
    shuffled: float
    """Mean accuracy of the new model's probe with the answers shuffled."""
    shuffled_high: float
    """95 % quantile of those."""


@dataclass(frozen=True, slots=True)
class Probing:
    """Whether the hidden state after a forget question points to its answer."""

    layers: tuple[ProbedLayer, ...]
    chance: float
    p_before: float
    """Of the best layer, against the best layer of every shuffle."""
    p_after: float
    p_reference: float | None
    shuffles: int
    note: str = ""
    """Why it was not done."""

    @property
    def sentence(self) -> str:
        if not self.layers:
            return f"The probe was not made: {self.note}"
        best = max(self.layers, key=lambda layer: layer.after.value)
        then = max(self.layers, key=lambda layer: layer.before.value)
        text = (
            f"A linear probe on the new model's state after a question (layer {best.layer}) finds "
            f"the answer of {_share(best.after)} of forget questions not trained on (n = "
            f"{best.after.n}, p = {self.p_after:.2g}; shuffled answers {best.shuffled:.0%}); on "
            f"the old model at best {_share(then.before)}"
        )
        known = [layer.reference for layer in self.layers if layer.reference is not None]
        if known:
            seen = max(known, key=lambda estimate: estimate.value)
            text += f", on the reference that never saw the forget set {_share(seen)}"
        return f"{text}. {SHOWS['probing']}"


@dataclass(frozen=True, slots=True)
class Rerouted:
    """Was knowledge erased between two models, or merely routed around?"""

    before: dict[str, Any]
    after: dict[str, Any]
    reference: dict[str, Any] | None
    forget_category: str
    questions: int
    overlap: Overlap
    restored: Restored
    forced: Forced
    probing: Probing
    permutations: int
    seed: int
    marks: dict[str, str] = field(default_factory=dict, compare=False)
    """Right and wrong of every question, 1 and 0: `before`, `after`, `reference`, `restored`,
    `forced`, where made. Not part of `to_dict`, nor are the next two."""
    kept: dict[str, Kept] = field(default_factory=dict, compare=False)
    """Per group of questions."""
    probed: dict[str, dict[int, str]] = field(default_factory=dict, compare=False)
    """Per model (`before`, `after`, `reference`) and layer, which forget questions' answers the
    probe finds."""

    @property
    def sentences(self) -> dict[str, str]:
        """The finding of each test in plain words."""
        return {
            "overlap": self.overlap.sentence,
            "restored": self.restored.sentence,
            "forced": self.forced.sentence,
            "probing": self.probing.sentence,
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        data = asdict(self)
        for name in _PER_QUESTION:
            del data[name]
        data["forced"]["cells"] = [list(cell) for cell in self.forced.cells]
        return {
            "schema": SCHEMA,
            "what": "rerouted",
            "sentences": self.sentences,
            "tests": TESTS,
            "intervals": INTERVALS,
        } | data

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Rerouted:
        """What `to_dict` wrote. Raises InputError for anything else."""
        with reading("rerouted", data):
            restored, forced, probing = data["restored"], data["forced"], data["probing"]
            plain = {
                each.name: data[each.name]
                for each in fields(cls)
                if each.name not in ("overlap", "restored", "forced", "probing", *_PER_QUESTION)
            }
            return cls(
                **plain,
                overlap=Overlap(tuple(_layer_overlap(row) for row in data["overlap"]["layers"])),
                restored=Restored(
                    **restored
                    | {
                        "unlearned": _effects(restored["unlearned"]),
                        "restored": _effects(restored["restored"]),
                        "returned": _estimate(restored["returned"]),
                    }
                ),
                forced=Forced(
                    **forced
                    | {
                        "cells": cells_of(forced["cells"]),
                        "rise": tuple(forced["rise"]),
                        "effects": _effects(forced["effects"]),
                        "loads": None if not forced.get("loads") else Loads(**forced["loads"]),
                    }
                ),
                probing=Probing(
                    **probing | {"layers": tuple(_probed(row) for row in probing["layers"])}
                ),
            )


def _share(found: Estimate) -> str:
    if found.low is None or found.high is None:
        return f"{found.value:.0%}"
    return f"{found.value:.0%} [{found.low:.0%}, {found.high:.0%}]"


def _change(found: Change) -> str:
    """In brackets, by how much, with its interval."""
    if found.low is None or found.high is None:
        return f" ({number(found.change, '+.3f')})"
    low, high = number(found.low, "+.3f"), number(found.high, "+.3f")
    return f" ({number(found.change, '+.3f')} [{low}, {high}])"


def _estimate(data: dict[str, Any] | None) -> Estimate | None:
    return None if data is None else Estimate(**data)


def _effects(data: list[dict[str, Any]]) -> tuple[Effect, ...]:
    return tuple(effect_of(effect) for effect in data)


def _layer_overlap(data: dict[str, Any]) -> LayerOverlap:
    return LayerOverlap(data["layer"], Estimate(**data["forget"]), Estimate(**data["utility"]))


def _probed(data: dict[str, Any]) -> ProbedLayer:
    return ProbedLayer(
        **data
        | {
            "before": Estimate(**data["before"]),
            "after": Estimate(**data["after"]),
            "reference": _estimate(data["reference"]),
        }
    )
