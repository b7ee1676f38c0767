"""Attacks that train, as parts of an audit: relearning, and training on retained text alone.

Every model that is there is trained alike and asked on the way. What is judged are the questions
whose answers the shown documents do not tell, as a mean over seeds after the last step.
Accepted trade-off: a model is opened anew for every training.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from trace_engine.attacks.relearning import (
    Relearned,
    not_shown,
    relearn,
    retained_only,
    slice_of,
)
from trace_engine.attacks.settings import TrainingConfig, Trains
from trace_engine.audit.attacked import attacked, items_of
from trace_engine.audit.case import Case
from trace_engine.audit.marks import RETAINED, TRAINED, attack_figures
from trace_engine.audit.result import Result
from trace_engine.audit.settings import UTILITY_ASKED, PartName, Role
from trace_engine.errors import InputError
from trace_engine.progress import ProgressCallback
from trace_engine.sets import Document, Question

LEAST_CLEAR: Final = 50
"""So many questions without any shown choice are enough to judge by them alone."""


def relearning(case: Case, report: ProgressCallback) -> Result:
    """A slice of the forget set shown again, and the questions that it does not tell."""
    config, asked = case.config.relearning, case.forget_questions()
    utility = _some_utility(case)
    found: dict[tuple[Trains, Role, int], Relearned] = {}
    documents = documents_of(case, "relearning")
    unseen = unseen_of(asked, documents)
    _require_unseen(unseen, "stands in the slice", "Lower relearning.share.")
    for seed in config.seeds:
        for trains in config.trains:
            for role in attacked(case):
                found[trains, role, seed] = trained(
                    case, role, documents[seed], utility, config, seed, report, trains=trains
                )
    shown = {seed: len(drawn) for seed, drawn in documents.items()}
    return _relearned(case, found, unseen, shown, utility)


def recovery(case: Case, report: ProgressCallback) -> Result:
    """Retained text shown again and nothing of the forget set: does a model that was damaged answer
    the forget questions once it is mended?"""
    config, asked = case.config.recovery, case.forget_questions()
    utility = _some_utility(case)
    found: dict[tuple[Role, int], Relearned] = {}
    documents = documents_of(case, "recovery")
    unseen = unseen_of(asked, documents)
    advice = "Lower recovery.steps, or give a retain set that does not tell them."
    _require_unseen(unseen, "stands in the retained text", advice)
    for seed in config.seeds:
        for role in attacked(case):
            found[role, seed] = trained(
                case, role, documents[seed], utility, config, seed, report, what=RETAINED
            )
    shown = {seed: len(drawn) for seed, drawn in documents.items()}
    return _recovered(case, found, unseen, shown, utility)


def documents_of(case: Case, part: str) -> dict[int, list[Document]]:
    """Per seed what a training shows."""
    if part == "relearning":
        return {seed: sliced(case, seed) for seed in case.config.relearning.seeds}
    return {seed: retained(case, seed) for seed in case.config.recovery.seeds}


@dataclass(frozen=True, slots=True)
class Unseen:
    """Which questions are judged."""

    judged: Mapping[int, Sequence[bool]]
    """Per seed and question."""
    clear: Mapping[int, int]
    """Per seed, how many questions have none of their choices in a shown document."""
    told: Mapping[int, Sequence[bool]]
    """Per seed and question, whether the right choice stands in a shown document."""

    @property
    def is_clear(self) -> bool:
        """Only those are judged."""
        return min(self.clear.values()) >= LEAST_CLEAR


def unseen_of(
    asked: Mapping[int, Question],
    documents: Mapping[int, Sequence[Document]],
    *,
    clear: bool = True,
) -> Unseen:
    """Questions none of whose choices is shown, where every seed leaves enough of them (and `clear`
    asks for it); else those whose right choice is not shown."""
    wholly = {seed: not_shown(asked, drawn, choices=True) for seed, drawn in documents.items()}
    untold = {seed: not_shown(asked, drawn) for seed, drawn in documents.items()}
    told = {seed: [not unseen for unseen in flags] for seed, flags in untold.items()}
    found = Unseen(wholly, {seed: sum(flags) for seed, flags in wholly.items()}, told)
    return found if clear and found.is_clear else replace(found, judged=untold)


def sliced(case: Case, seed: int) -> list[Document]:
    """What a relearning shows."""
    share = case.config.relearning.share
    return slice_of(case.forget.documents, share, case.config.seed + seed)


def retained(case: Case, seed: int) -> list[Document]:
    """What a training on retained text shows: no document of the forget set."""
    config = case.config.recovery
    most = config.steps * config.batch_size
    return retained_only(
        case.retain.documents, case.forget.documents, most, case.config.seed + seed
    )


def trained(
    case: Case,
    role: Role,
    documents: Sequence[Document],
    utility: Mapping[int, Question],
    config: TrainingConfig,
    seed: int,
    report: ProgressCallback,
    *,
    trains: Trains = "all",
    what: str = "relearning",
) -> Relearned:
    """One model of its own, trained and asked on the way."""
    return relearn(
        case.fresh(role), documents, case.forget_questions(), utility, config,
        trains=trains, what=what, seed=case.config.seed + seed,
        max_length=case.config.max_length, style=case.config.style, report=report,
    )  # fmt: skip


def _require_unseen(unseen: Unseen, where: str, advice: str) -> None:
    if not any(any(flags) for flags in unseen.judged.values()):
        raise InputError(
            f"Every forget question's answer {where}, so none is left to ask about. {advice}"
        )


def _relearned(
    case: Case,
    found: Mapping[tuple[Trains, Role, int], Relearned],
    unseen: Unseen,
    shown: Mapping[int, int],
    utility: Mapping[int, Question],
) -> Result:
    config = case.config.relearning
    sentences = [
        f"Plain fine-tuning on {_counts(shown.values())} of {len(case.forget):,} forget documents, "
        + _how(case, config, unseen),
        "Where the routers alone train, no expert is written to: they can steer, and hardly "
        "store. Answers that are shown they do learn, in a model that never knew them too, so this "
        "as well is judged on answers that are not.",
    ]
    named = {f"{role}, {TRAINED[trains]}, seed {seed}": of
             for (trains, role, seed), of in found.items()}  # fmt: skip
    return _result(case, "relearning", sentences, named, unseen, utility)


def _recovered(
    case: Case,
    found: Mapping[tuple[Role, int], Relearned],
    unseen: Unseen,
    shown: Mapping[int, int],
    utility: Mapping[int, Question],
) -> Result:
    sentences = [
        f"Plain fine-tuning on {_counts(shown.values())} documents of the retain set, none of "
        "which is in the forget set, " + _how(case, case.config.recovery, unseen),
        "No fact of the forget set is told, so what the model answers beyond a reference that was "
        "trained alike was in its weights. A model that was damaged as a whole, and answered "
        "nothing, shows here what it still holds.",
    ]
    named = {f"{role}, {RETAINED}, seed {seed}": of for (role, seed), of in found.items()}
    return _result(case, "recovery", sentences, named, unseen, utility)


def _how(case: Case, config: TrainingConfig, unseen: Unseen) -> str:
    seeds, asked = len(config.seeds), len(case.forget_questions())
    judged = {seed: sum(flags) for seed, flags in unseen.judged.items()}
    together = sum(map(any, zip(*unseen.judged.values(), strict=True)))
    each = _counts(judged.values(), " to ")
    start = (
        f"{seeds} {'seed' if seeds == 1 else 'seeds'}, {config.steps} updates of "
        f"{config.batch_size} documents. "
    )
    if unseen.is_clear:
        which = (
            f"{each} of {asked:,} forget questions have none of their choices in a shown document; "
            "those are judged"
        )
    else:
        which = (
            f"Only {_counts(unseen.clear.values(), ' to ')} of {asked:,} forget questions have "
            f"none of their choices in a shown document, fewer than {LEAST_CLEAR}, so those "
            f"{each} are judged whose right answer stands in none. Wrong choices that were shown "
            "grow likelier by training, whatever a model knows, so right answers can fall below "
            "guessing; a reference falls alike, and only the difference is judged"
        )
    n = "" if seeds == 1 else (
        f" A question counts where at least one seed leaves it unseen, as a mean over those seeds: "
        f"{together:,} in all."
    )  # fmt: skip
    last = config.ask_at[-1]
    return f"{start}{which}, after update {last}; earlier steps and their mean are told beside.{n}"


def _counts(numbers: Iterable[int], between: str = " and ") -> str:
    return between.join(sorted({f"{n:,}" for n in numbers}))


def _result(
    case: Case,
    part: PartName,
    sentences: Sequence[str],
    found: Mapping[str, Relearned],
    unseen: Unseen,
    utility: Mapping[int, Question],
) -> Result:
    """Marks as items, and the figures that follow from them."""
    alone = ["There is no reference: the model is compared with itself at step 0."]
    told = [*sentences, *([] if "reference" in case.models else alone)]
    items = items_of(case.forget_questions()) | {
        "right": _marks({name: of.forget for name, of in found.items()}),
        "shown": left_out(unseen),
        "told": flags_of(unseen.told),
        "clear": unseen.is_clear,
        "utility_number": [number + 1 for number in utility],
        "utility": _marks({name: of.utility for name, of in found.items()}) if utility else {},
    }
    return Result({"sentences": told} | attack_figures(part, case.config, items), items)


def left_out(unseen: Unseen) -> dict[str, str]:
    """Per seed a 1 for every question that is not judged."""
    return flags_of({seed: [not u for u in of] for seed, of in unseen.judged.items()})


def flags_of(found: Mapping[int, Sequence[bool]]) -> dict[str, str]:
    """Per seed a 1 or a 0 for every question."""
    return {str(seed): "".join("1" if one else "0" for one in of) for seed, of in found.items()}


def _marks(found: Mapping[str, Mapping[int, str]]) -> dict[str, str]:
    return {
        f"{name}, step {step}": marks for name, of in found.items() for step, marks in of.items()
    }


def _some_utility(case: Case) -> dict[int, Question]:
    asked = case.utility_questions()
    if len(asked) <= UTILITY_ASKED:
        return asked
    places = list(asked)
    order = np.random.default_rng([case.config.seed, 24]).permutation(len(places))
    return {places[n]: asked[places[n]] for n in sorted(order[:UTILITY_ASKED].tolist())}
