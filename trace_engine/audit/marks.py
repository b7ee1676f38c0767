"""From stored marks to an attack's figures: pure functions of an audit's settings and a part's
items, so that `verify` derives what decides from what was answered.

An excess compares the audited model with the reference under the same attack, or, without one, with
itself before it.
"""

# Dims: N questions, S seeds

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from trace_engine.attacks.asking import NOT_ASKED
from trace_engine.attacks.paired import Shares, difference, mean
from trace_engine.attacks.settings import TrainingConfig, Trains
from trace_engine.audit.rules import Excess, Kind, Yardstick
from trace_engine.audit.settings import ROLES, AuditConfig
from trace_engine.evaluation.estimate import Estimate

Items = Mapping[str, Any]
RETAINED: Final = "training on retained text"
TRAINED: Final[Mapping[Trains, str]] = {"all": "all weights", "routers": "the routers alone"}
TOGETHER: Final[Mapping[str, str | None]] = {
    "quantisation": None,
    "paraphrases": "all wordings together",
    "prefixes": None,
}
"""The attacks that only ask, and what the mean over their ways is called where it is judged."""


@dataclass(frozen=True, slots=True)
class Course:
    """One way of training: its name in the report and in the marks, and how it is judged."""

    name: str
    stored: str
    kind: Kind
    config: TrainingConfig

    def marks(self, role: str, seed: int, step: int) -> str:
        """The key of one asking among the items."""
        return f"{role}, {self.stored}, seed {seed}, step {step}"


def courses_of(part: str, config: AuditConfig) -> list[Course]:
    """The trainings of a part; none for a part that does not train."""
    if part == "recovery":
        return [Course(RETAINED, RETAINED, "recovered", config.recovery)]
    if part != "relearning":
        return []
    return [
        Course(
            f"relearning, {TRAINED[trains]}",
            TRAINED[trains],
            "relearned" if trains == "all" else "intact",
            config.relearning,
        )
        for trains in config.relearning.trains
    ]


def attack_figures(part: str, config: AuditConfig, items: Items) -> dict[str, Any]:
    """What follows from the marks of an attack: rows, excesses, and for a training its curves and
    guessing. What older versions did not store (utility, numbers of choices) is left out."""
    if part in TOGETHER:
        return _asked(TOGETHER[part], config.seed, items)
    rows: list[dict[str, Any]] = []
    curves: dict[str, list[dict[str, Any]]] = {}
    tests = []
    for course in courses_of(part, config):
        tests.append(_course(course, config.seed, items, rows, curves))
    found = {"rows": rows, "curves": curves, "excess": [test.to_dict() for test in tests]}
    return found | ({"chance": chance_of(items["choices"])} if "choices" in items else {})


def chance_of(choices: Sequence[int]) -> float:
    """What guessing gets right, from each question's number of choices."""
    return sum(1 / number for number in choices) / len(choices)


def _asked(together: str | None, seed: int, items: Items) -> dict[str, Any]:
    """Of ways of asking; `together` names their mean, which is then what is judged."""
    right: dict[str, dict[str, str]] = {}
    for name, marks in items["right"].items():
        role, _, way = name.partition(", ")
        right.setdefault(role, {})[way] = marks
    ways = [way for way in right["model"] if way != "plain"]
    on = "forget questions"
    rows = [
        row_of(way, role, on, mean(known_of(shares_of(marks)), seed))
        for role, of in right.items()
        for way, marks in of.items()
    ]
    groups = {together: ways} if together else {way: [way] for way in ways}
    tests = [
        excess_of(name, "intact", {r: _mean([m[w] for w in of]) for r, m in right.items()},
                  shares_of(right["model"]["plain"]), seed)
        for name, of in groups.items()
    ]  # fmt: skip
    if together:
        rows += [
            row_of(together, role, on, mean(known_of(_mean([of[way] for way in ways])), seed))
            for role, of in right.items()
        ]
    return {"rows": rows, "excess": [test.to_dict() for test in tests]}


def _course(
    course: Course,
    seed: int,
    items: Items,
    rows: list[dict[str, Any]],
    curves: dict[str, list[dict[str, Any]]],
) -> Excess:
    """Adds a training's rows and curves to those of the part; returns its excess."""
    seeds, steps = course.config.seeds, [0, *course.config.ask_at]
    shown = np.stack([shares_of(items["shown"][str(of)]) for of in seeds])
    hide_SN, show_SN = np.where(shown, np.nan, 1.0), np.where(shown, 1.0, np.nan)
    after: dict[str, Shares] = {}
    before: dict[str, Shares] = {}
    for role in _roles(course, items):
        at = {step: _stacked(items["right"], course, role, step) for step in steps}
        lines = {
            "answers not shown": {step: nanmean(at[step] * hide_SN) for step in steps},
            "answers shown": {step: nanmean(at[step] * show_SN) for step in steps},
        }
        if items.get("utility"):
            lines["utility"] = {
                step: nanmean(_stacked(items["utility"], course, role, step)) for step in steps
            }
        for on, by_step in lines.items():
            points = []
            for step, shares_N in by_step.items():
                if np.isnan(shares_N).all():
                    continue
                estimate = mean(known_of(shares_N), seed)
                rows.append(row_of(course.name, role, f"{on}, step {step}", estimate, step=step))
                points.append({"step": step, **_figure(estimate)})
            if points:
                curves.setdefault(f"{course.name.capitalize()}: {on}", []).append(
                    {"model": role, "points": points}
                )
        after[role] = nanmean(np.stack([nanmean(at[s] * hide_SN) for s in steps[1:]]))
        before[role] = nanmean(at[0] * hide_SN)
    return excess_of(course.name, course.kind, after, before["model"], seed)


def _roles(course: Course, items: Items) -> Iterator[str]:
    """The models that were trained so, in their order."""
    for role in ROLES:
        if course.marks(role, course.config.seeds[0], 0) in items["right"]:
            yield role


def _stacked(marks: Mapping[str, str], course: Course, role: str, step: int) -> Shares:
    """(S, N) of one step."""
    return np.stack([shares_of(marks[course.marks(role, s, step)]) for s in course.config.seeds])


def excess_of(
    test: str, kind: Kind, after: Mapping[str, Shares], before_N: Shares, seed: int
) -> Excess:
    over: Yardstick = "reference" if "reference" in after else "itself"
    against = after.get("reference", before_N)
    keep = ~np.isnan(after["model"]) & ~np.isnan(against)
    return Excess(test, kind, over, difference(after["model"][keep], against[keep], seed))


def row_of(
    attack: str, role: str, on: str, estimate: Estimate, *, step: int | None = None
) -> dict[str, Any]:
    return {"attack": attack, "model": role, "on": on, "step": step, **estimate.to_dict()}


def shares_of(marks: str) -> Shares:
    """Right 1, wrong 0, not asked NaN."""
    return np.array([np.nan if mark == NOT_ASKED else float(mark == "1") for mark in marks])


def _mean(texts: Sequence[str]) -> Shares:
    return nanmean(np.stack([shares_of(text) for text in texts]))


def nanmean(values: Shares) -> Shares:
    """Mean over the first axis of what is there; NaN where nothing is."""
    there = ~np.isnan(values)
    count_N = there.sum(axis=0)
    total_N = np.where(there, values, 0.0).sum(axis=0)
    return np.asarray(
        np.divide(total_N, count_N, out=np.full(count_N.shape, np.nan), where=count_N > 0)
    )


def known_of(values_N: Shares) -> Shares:
    return np.asarray(values_N[~np.isnan(values_N)])


def _figure(estimate: Estimate) -> dict[str, Any]:
    return {"value": estimate.value, "low": estimate.low, "high": estimate.high}
