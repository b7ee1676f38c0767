"""From stored marks to an attack's figures: pure functions of an audit's settings and a part's
items, so that `verify` derives what decides from what was answered.

An excess compares the audited model with the reference under the same attack (asked plainly, where
no reference can have the treatment), or, without one, with itself before it. Beside it stand the
same before the attack, and the rise from there: the difference of both models' changes. Reports of
formats 1 and 2 had neither, judged the mean over all steps and wordings, and compared other routing
with the model as it is; up to format 4 nothing said which shown answers were right ones.
"""

# Dims: N questions, S seeds

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from trace_engine.attacks.asking import NOT_ASKED
from trace_engine.attacks.paired import Shares, difference, mean
from trace_engine.attacks.settings import TrainingConfig, Trains
from trace_engine.audit.controls import controls_of
from trace_engine.audit.names import TOLD_SINCE
from trace_engine.audit.rerouting import rerouted_figures
from trace_engine.audit.rules import Excess, Kind, Yardstick
from trace_engine.audit.settings import ROLES, AuditConfig
from trace_engine.evaluation.estimate import Estimate
from trace_engine.formats import AUDIT

Items = Mapping[str, Any]
RETAINED: Final = "training on retained text"
TRAINED: Final[Mapping[Trains, str]] = {"all": "all weights", "routers": "the routers alone"}
TOGETHER: Final[Mapping[str, str | None]] = {
    "quantisation": None,
    "paraphrases": "all wordings together",
    "prefixes": None,
}
"""The attacks that only ask, and what the mean over their ways is called."""
RISEN_SINCE: Final = 3
"""The format of reports from which on every excess has its rise."""


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
            "relearned" if trains == "all" else "routed",
            config.relearning,
        )
        for trains in config.relearning.trains
    ]


def attack_figures(
    part: str, config: AuditConfig, items: Items, version: int = AUDIT
) -> dict[str, Any]:
    """What follows from the marks of an attack: rows, excesses, and for a training its curves and
    guessing. What older versions did not store (utility, numbers of choices) is left out, and an
    older `version` of reports is judged as it was."""
    older = version < RISEN_SINCE
    rows: list[dict[str, Any]] = []
    curves: dict[str, list[dict[str, Any]]] = {}
    if part == "rerouted":
        tests = _routed(config.seed, items, rows)
    elif part in TOGETHER:
        tests = _asked(TOGETHER[part], config.seed, items, rows, older)
        controls = _controls(config.seed, items)
    else:
        tests = [
            _course(course, config.seed, items, rows, curves, older)
            for course in courses_of(part, config)
        ]
    found: dict[str, Any] = {"rows": rows, "excess": [_told(test, version) for test in tests]}
    if part == "rerouted":
        return found | rerouted_figures(items, config.seed)
    if part in TOGETHER:
        return found | ({"controls": controls} if controls else {})
    chance = {"chance": chance_of(items["choices"])} if "choices" in items else {}
    return found | {"curves": curves} | chance


def _told(test: Excess, version: int) -> dict[str, Any]:
    """As that version wrote it."""
    told = test.to_dict()
    if version < TOLD_SINCE:
        told["kind"] = "intact" if test.kind == "routed" else test.kind
        del told["learned"]
    if version < RISEN_SINCE:
        del told["before"], told["rise"]
    return told


def chance_of(choices: Sequence[int]) -> float:
    """What guessing gets right, from each question's number of choices."""
    return sum(1 / number for number in choices) / len(choices)


def _ways(items: Items) -> dict[str, dict[str, str]]:
    """Model -> way of asking -> marks."""
    right: dict[str, dict[str, str]] = {}
    for name, marks in items["right"].items():
        role, _, way = name.partition(", ")
        right.setdefault(role, {})[way] = marks
    return right


def _routed(seed: int, items: Items, rows: list[dict[str, Any]]) -> list[Excess]:
    """Of other routing: no reference can have it, so the reference is asked plainly."""
    right = _ways(items)
    rows += _rows(right, seed)
    plain = {r: shares_of(of["plain"]) for r, of in right.items() if r in ("model", "reference")}
    return [
        excess_of(way, "routed", plain | {"model": shares_of(marks)}, plain, seed, "untreated")
        for way, marks in right["model"].items()
        if way != "plain"
    ]


def _rows(right: Mapping[str, Mapping[str, str]], seed: int) -> list[dict[str, Any]]:
    return [
        row_of(way, role, "forget questions", mean(known_of(shares_of(marks)), seed))
        for role, of in right.items()
        for way, marks in of.items()
    ]


def _asked(
    together: str | None, seed: int, items: Items, rows: list[dict[str, Any]], older: bool
) -> list[Excess]:
    """Of ways of asking, each by itself; `together` names their mean, which is judged too."""
    every = _ways(items)
    right = {role: of for role, of in every.items() if role in ("model", "reference")}
    ways = [way for way in right["model"] if way != "plain"]
    rows += _rows(every, seed)
    groups = {way: [way] for way in ways}
    if together:
        groups = {together: ways} | ({} if older else groups)
        rows += [
            row_of(together, role, "forget questions",
                   mean(known_of(_mean([of[way] for way in ways])), seed))
            for role, of in every.items()
        ]  # fmt: skip
    plain = {role: shares_of(of["plain"]) for role, of in right.items()}
    return [
        excess_of(
            name, "intact", {r: _mean([m[w] for w in of]) for r, m in right.items()}, plain, seed
        )
        for name, of in groups.items()
    ]


def _controls(seed: int, items: Items) -> list[dict[str, Any]]:
    """What the start model shows in each way of asking; none where it was not asked."""
    right = {
        role: {way: shares_of(marks) for way, marks in of.items()}
        for role, of in _ways(items).items()
    }
    if "before" not in right:
        return []
    ways = [way for way in right["before"] if way != "plain"]
    found = controls_of(ways, right["before"], right.get("reference"), items["choices"], seed)
    return [control.to_dict() for control in found]


def _course(
    course: Course,
    seed: int,
    items: Items,
    rows: list[dict[str, Any]],
    curves: dict[str, list[dict[str, Any]]],
    older: bool,
) -> Excess:
    """Adds a training's rows and curves to those of the part; returns its excess after the last
    step at which was asked."""
    seeds, steps = course.config.seeds, [0, *course.config.ask_at]
    shown_SN = np.stack([shares_of(items["shown"][str(of)]) for of in seeds]) == 1
    told = items.get("told", items["shown"])
    told_SN = np.stack([shares_of(told[str(of)]) for of in seeds]) == 1
    groups = {"answers not shown": ~shown_SN, "answers shown": told_SN}
    if "told" in items:
        groups["only wrong choices shown"] = shown_SN & ~told_SN
    learned: Estimate | None = None
    after: dict[str, Shares] = {}
    before: dict[str, Shares] = {}
    for role in _roles(course, items):
        at = {step: _stacked(items["right"], course, role, step) for step in steps}
        lines = {
            on: {step: nanmean(np.where(in_SN, at[step], np.nan)) for step in steps}
            for on, in_SN in groups.items()
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
        if role == "model" and "told" in items and told_SN.any():
            taught = lines["answers shown"]
            learned = mean_difference(taught[steps[-1]] - taught[0], seed)
        unseen = lines["answers not shown"]
        mean_N = nanmean(np.stack([unseen[step] for step in steps[1:]]))
        before[role], after[role] = unseen[0], mean_N if older else unseen[steps[-1]]
        if not older and len(steps) > 2:
            estimate = mean(known_of(mean_N), seed)
            rows.append(row_of(course.name, role, "answers not shown, mean over steps", estimate))
    return replace(excess_of(course.name, course.kind, after, before, seed), learned=learned)


def _roles(course: Course, items: Items) -> Iterator[str]:
    """The models that were trained so, in their order."""
    for role in ROLES:
        if course.marks(role, course.config.seeds[0], 0) in items["right"]:
            yield role


def _stacked(marks: Mapping[str, str], course: Course, role: str, step: int) -> Shares:
    """(S, N) of one step."""
    return np.stack([shares_of(marks[course.marks(role, s, step)]) for s in course.config.seeds])


def excess_of(
    test: str,
    kind: Kind,
    after: Mapping[str, Shares],
    before: Mapping[str, Shares],
    seed: int,
    over: Yardstick = "reference",
) -> Excess:
    """Of the same questions after and before the attack, by model."""
    gained_N = after["model"] - before["model"]
    if "reference" not in after:
        alone = mean_difference(gained_N, seed)
        return Excess(test, kind, "itself", alone, rise=alone)
    excess_N = after["model"] - after["reference"]
    start_N = before["model"] - before["reference"]
    # What was not asked after the attack does not count before it either.
    start_N = np.where(np.isnan(excess_N), np.nan, start_N)
    return Excess(
        test,
        kind,
        over,
        mean_difference(excess_N, seed),
        before=mean_difference(start_N, seed),
        rise=mean_difference(excess_N - start_N, seed),
    )


def mean_difference(values_N: Shares, seed: int) -> Estimate:
    """Of paired differences, where there are both."""
    known_N = known_of(values_N)
    return difference(known_N, np.zeros_like(known_N), seed)


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
