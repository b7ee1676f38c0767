"""A report's figures taken once more from models and sets: the half of `verify` that computes.

Questions are asked again as they are, and every attack that only asks is made again on a sample of
them, all its ways included. Those that train are made again for one drawn seed, where that is asked
for: it takes as long as it took. Two choices that are equal but for rounding may change places
elsewhere, so a mark differs only where the choices are further apart than that; a training and a
text that a model writes carry rounding on, so their marks are compared as a share. Ablations, map
and drift are made again by `made_again`; probes are not.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import numpy as np

from trace_engine.attacks.asking import NOT_ASKED
from trace_engine.attacks.quantising import quantised
from trace_engine.attacks.relearning import Relearned
from trace_engine.attacks.wordings import paraphrases, prefixes
from trace_engine.audit.attacked import attacked, worded
from trace_engine.audit.case import Case
from trace_engine.audit.evidence import WORDS
from trace_engine.audit.marks import RETAINED, TRAINED
from trace_engine.audit.published import WRITTEN, scores_of, some_of
from trace_engine.audit.rerouting import OTHER_ROUTING, ROUTED
from trace_engine.audit.settings import PublishedName, Role
from trace_engine.audit.trained import retained, sliced, trained
from trace_engine.causal.old_routers import router_tensors, routers_of
from trace_engine.config import Cell
from trace_engine.evaluation.loss import set_loss
from trace_engine.evaluation.multiple_choice import score_questions
from trace_engine.models import OpenModel
from trace_engine.models.masks import mask_experts
from trace_engine.progress import ProgressCallback
from trace_engine.sets import Question

CLOSE: Final = 1e-3
"""Nats by which two choices may be apart and still change places on another machine; also the
relative distance at which two losses count as the same."""
RELEARNED_APART: Final = 0.1
"""Share of the marks after a training that another machine's rounding may turn. The same machine
with the same number of threads turns none."""

Parts = Mapping[str, Any]
AS_STORED: Final[Mapping[str, str]] = {
    "routing": " (only with --thorough)",
    "causal": " (only with --thorough)",
    "drift": " (only with --thorough)",
}
"""Parts that are not computed again, unless all is asked for."""
ABLATED: Final = (
    " (all experts together, a few by themselves and a random set were taken out again; the others "
    "only with --thorough)"
)
FOLLOWS: Final[Mapping[str, str]] = {
    "rerouted": " (a sample of its answers was asked again; its routing and its probes are as "
    "stored)",
}
"""What of a part was checked that is never made again as a whole."""


def not_again(parts: Parts, thorough: bool, ablated: bool) -> list[str]:
    """What a report holds and a check does not compute again, in words. `ablated`: experts were
    taken out again."""
    left = (
        FOLLOWS
        if thorough
        else {**AS_STORED, **({"causal": ABLATED} if ablated else {}), **FOLLOWS}
    )
    said = [WORDS[part] + how for part, how in left.items() if part in parts]
    rest = "but for one seed" if thorough else "one seed of it with --thorough"
    said += [f"{WORDS[part]} ({rest})" for part in TRAINING if part in parts]
    if "measures" in parts:
        said.append(f"{WORDS['measures']}, but for one loss")
    return said


@contextmanager
def threads_of(case: Case) -> Iterator[None]:
    """The number of threads that the audit was made with, where its settings name one."""
    import torch

    before = torch.get_num_threads()
    try:
        if case.config.threads is not None:
            torch.set_num_threads(case.config.threads)
        yield
    finally:
        torch.set_num_threads(before)


def picked_again(
    case: Case, role: Role, items: Parts, places: Sequence[int], report: ProgressCallback
) -> list[str]:
    """The questions at these places, asked as they are."""
    opened = case.open(role)
    asked = list(case.questions.values())
    scores = score_questions(
        opened.model,
        opened.tokenizer,
        [asked[place] for place in places],
        style=case.config.style,
        report=report,
    )
    said = []
    for place, picked, values in zip(places, scores.picked, scores.loglikelihoods, strict=True):
        known = items["picked"][role][place]
        if picked != known and values[picked] - values[known] > CLOSE:
            said.append(
                f"question {items['number'][place]}: the report says that the {role} picks "
                f"{known}, it picks {int(picked)}"
            )
    return said


def loss_again(case: Case, rows: list[Mapping[str, Any]]) -> list[str]:
    """The audited model's loss on the retain set."""
    known = next(
        row["value"] for row in rows
        if (row["model"], row["on"]) == ("model", "retain set")
        and row["measure"].startswith("loss")
    )  # fmt: skip
    now = set_loss(case.open("model"), case.drawn("retain"), case.config.max_length).value
    if abs(now - known) <= CLOSE * abs(known):
        return []
    return [f"loss of the retain set: the report says {known:.4f}, it is {now:.4f}"]


def rounded_again(
    case: Case, items: Parts, sample: Sequence[int], report: ProgressCallback
) -> list[str]:
    """Every precision, on the forget questions at these places."""
    config, said = case.config.quantisation, []
    for role in attacked(case):
        opened = case.open(role)
        for bits in config.bits:
            with quantised(opened, bits, config.group):
                said += _marks_again(
                    case, opened, role, items, f"{bits} bits", case.forget_questions(), sample,
                    report,
                )  # fmt: skip
    return said


def reworded_again(
    case: Case, items: Parts, sample: Sequence[int], report: ProgressCallback
) -> list[str]:
    """Every other wording of the forget questions at these places."""
    wordings = paraphrases(case.forget_questions(), case.config.asking, case.config.questions)
    return _wordings_again(case, items, {w.name: w.questions for w in wordings}, sample, report)


def prefixed_again(
    case: Case, items: Parts, sample: Sequence[int], report: ProgressCallback
) -> list[str]:
    """Every prefix before the forget questions at these places."""
    wordings = prefixes(case.forget_questions(), case.config.asking)
    return _wordings_again(case, items, {w.name: w.questions for w in wordings}, sample, report)


def routed_ways(items: Parts) -> list[str]:
    """The other routings of which answers were stored."""
    return [way for way in OTHER_ROUTING if ROUTED[way] in items.get("right", ())]


def routed_again(
    case: Case, items: Parts, sample: Sequence[int], report: ProgressCallback
) -> list[str]:
    """The audited model with the start model's routers, and without the experts that the part
    forbade, on the forget questions at these places of its own."""
    asked, said = case.forget_questions(), []
    ways = {way: ROUTED[way].partition(", ")[2] for way in routed_ways(items)}
    if "restored" in ways:
        tensors = router_tensors(case.open("before"))
        opened = case.open("model")
        with routers_of(opened, tensors):
            said += _marks_again(
                case, opened, "model", items, ways["restored"], asked, sample, report
            )
    if "forced" in ways:
        cells = [Cell(*cell) for cell in items["forbidden"]]
        opened = case.open("model")
        with mask_experts(opened, cells, "reroute"):
            said += _marks_again(
                case, opened, "model", items, ways["forced"], asked, sample, report
            )
    return said


AskedAgain = Callable[[Case, Parts, Sequence[int], ProgressCallback], list[str]]
ASKING: Final[Mapping[str, AskedAgain]] = {
    "rerouted": routed_again,
    "quantisation": rounded_again,
    "paraphrases": reworded_again,
    "prefixes": prefixed_again,
}
"""The attacks that only ask, and how each is made again."""


def _wordings_again(
    case: Case,
    items: Parts,
    ways: Mapping[str, Mapping[int, Question]],
    sample: Sequence[int],
    report: ProgressCallback,
) -> list[str]:
    said = []
    # Before format 6 the start model was not asked in other ways.
    for role in (role for role in worded(case) if f"{role}, plain" in items["right"]):
        opened = case.open(role)
        for way, questions in ways.items():
            said += _marks_again(case, opened, role, items, way, questions, sample, report)
    return said


def _marks_again(
    case: Case,
    opened: OpenModel,
    role: Role,
    items: Parts,
    way: str,
    questions: Mapping[int, Question],
    sample: Sequence[int],
    report: ProgressCallback,
) -> list[str]:
    numbers = [number - 1 for number in items["number"]]
    stored = items["right"][f"{role}, {way}"]
    said = [
        f"question {numbers[place] + 1}, {way}: the report and the settings disagree on whether "
        f"the {role} was asked"
        for place in sample
        if (numbers[place] in questions) != (stored[place] != NOT_ASKED)
    ]
    there = [
        place for place in sample if numbers[place] in questions and stored[place] != NOT_ASKED
    ]
    if not there:
        return said
    scores = score_questions(
        opened.model,
        opened.tokenizer,
        [questions[numbers[place]] for place in there],
        style=case.config.style,
        report=report,
    )
    for place, values in zip(there, scores.loglikelihoods, strict=True):
        answer = questions[numbers[place]].answer
        lead = values[answer] - np.delete(values, answer).max()
        right = stored[place] == "1"
        if (lead < -CLOSE) if right else (lead > CLOSE):
            said.append(
                f"question {numbers[place] + 1}, {way}: the report says that the {role} is "
                f"{'right' if right else 'wrong'}, it is not"
            )
    return said


def relearned_again(
    case: Case, items: Parts, drawn: int, report: ProgressCallback
) -> Iterator[tuple[str, list[str]]]:
    """Relearning for one drawn seed, everything that trains, every model: what was done, and what
    differs by more than `RELEARNED_APART`."""
    config = case.config.relearning
    seed = config.seeds[drawn % len(config.seeds)]
    documents = sliced(case, seed)
    for trains in config.trains:
        for role in attacked(case):
            name = f"{role}, {TRAINED[trains]}, seed {seed}"
            found = trained(case, role, documents, {}, config, seed, report, trains=trains)
            yield f"relearned again, {name}", _turned(items, name, found)


def recovered_again(
    case: Case, items: Parts, drawn: int, report: ProgressCallback
) -> Iterator[tuple[str, list[str]]]:
    """Training on retained text, likewise."""
    config = case.config.recovery
    seed = config.seeds[drawn % len(config.seeds)]
    documents = retained(case, seed)
    for role in attacked(case):
        name = f"{role}, {RETAINED}, seed {seed}"
        found = trained(case, role, documents, {}, config, seed, report, what=RETAINED)
        yield f"trained again, {name}", _turned(items, name, found)


def published_again(
    case: Case,
    name: PublishedName,
    role: Role,
    items: Parts,
    places: Mapping[str, Sequence[int]],
    report: ProgressCallback,
) -> list[str]:
    """The items of MUSE or TOFU at these places of each piece, by one model. A text that is written
    carries rounding on, so those are compared as a share."""
    numbers = {piece: [items["number"][piece][n] for n in of] for piece, of in places.items()}
    asked = some_of(case, name, {piece: [n - 1 for n in of] for piece, of in numbers.items()})
    said = []
    for piece, scores in scores_of(case, name, asked, case.open(role), report).items():
        for score, values in scores.items():
            stored = items["scores"][role][piece][score]
            pairs = [(stored[n], now) for n, now in zip(places[piece], values, strict=True)]
            turned = [
                f"{name}, {piece} {number}: {score} of the {role} is {_score(known)} in the "
                f"report, it is {_score(now)}"
                for number, (known, now) in zip(numbers[piece], pairs, strict=True)
                if not _same_score(known, now)
            ]
            if score not in WRITTEN or len(turned) > RELEARNED_APART * len(values):
                said += turned
    return said


def _same_score(known: float | None, now: float | None) -> bool:
    if known is None or now is None:
        return known is now
    return abs(now - known) <= CLOSE * max(1.0, abs(known))


def _score(value: float | None) -> str:
    return "nothing" if value is None else f"{value:.4f}"


TrainedAgain = Callable[[Case, Parts, int, ProgressCallback], Iterator[tuple[str, list[str]]]]
TRAINING: Final[Mapping[str, TrainedAgain]] = {
    "relearning": relearned_again,
    "recovery": recovered_again,
}
"""The attacks that train, and how each is made again."""


def _turned(items: Parts, name: str, found: Relearned) -> list[str]:
    """The steps at which too many answers are others than the report's."""
    said = []
    for step, marks in found.forget.items():
        stored = items["right"][f"{name}, step {step}"]
        turned = sum(one != other for one, other in zip(marks, stored, strict=True))
        if turned > RELEARNED_APART * len(marks):
            said.append(
                f"step {step}: {turned} of {len(marks)} answers are others than in the "
                f"report ({stored.count('1')} right there, {marks.count('1')} now)"
            )
    return said
