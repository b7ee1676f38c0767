"""When a run has forgotten enough or broken too much, and which of its evaluations was the best.

Pure functions of evaluation rows. Both rules look at the run's own questions (or held-out loss), so
a state that they choose is flattered by them: its score is to be measured again on questions that
chose nothing. The start is no candidate and ends nothing: no update has been made by then.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple, Self

from trace_engine.config import KeepConfig, StopConfig, UnlearnConfig
from trace_engine.errors import InputError
from trace_engine.evaluation.outcome import forget_and_utility
from trace_engine.sets import Question

UTILITY, RETAIN_LOSS = "utility", "held-out retain loss"
"""What a floor is of, first in the sentence of a run that fell below it."""


class Standing(NamedTuple):
    """What one evaluation says, so that for both less forgotten and less kept are larger."""

    forget: float
    """Accuracy on the questions to forget; without questions minus the held-out forget loss."""
    utility: float
    """Accuracy pooled over all other questions; without questions minus the held-out retain
    loss."""


def standing(row: Mapping[str, Any], config: UnlearnConfig) -> Standing:
    """The figures of an eval row that rules look at."""
    if config.evaluation.questions is None:
        return Standing(-row["forget_nll"]["value"], -row["retain_nll"]["value"])
    forget, utility = forget_and_utility(row["accuracy"], config.evaluation.forget_category)
    return Standing(forget.value, utility.value)


def check_rules(config: UnlearnConfig, questions: Iterable[Question]) -> None:
    """Raise InputError where a rule asks for a utility that these questions do not measure."""
    named = {
        "stop.utility_at_least": config.stop.utility_at_least is not None,
        "keep.which": config.keep.which == "best",
    }
    others = {question.category for question in questions} - {config.evaluation.forget_category}
    for name, wanted in named.items():
        if wanted and not others:
            raise InputError(
                f"{name} asks for utility, and {config.evaluation.questions} has only questions of "
                f"the category to forget, {config.evaluation.forget_category!r}. Add questions of "
                f"another category, or leave {name} out."
            )


def why_stop(stop: StopConfig, found: Standing) -> str | None:
    """The sentence of the first rule that ends the run, or None."""
    if stop.forget_at_most is not None and found.forget <= stop.forget_at_most:
        return _ends("forget accuracy", found.forget, "at most", stop.forget_at_most)
    if stop.utility_at_least is not None and found.utility < stop.utility_at_least:
        return _ends(UTILITY, found.utility, "below", stop.utility_at_least)
    loss = stop.forget_loss_at_least
    if loss is not None and -found.forget >= loss:
        return _ends("held-out forget loss", -found.forget, "at least", loss)
    loss = stop.retain_loss_at_most
    if loss is not None and -found.utility > loss:
        return _ends(RETAIN_LOSS, -found.utility, "above", loss)
    return None


def _ends(what: str, value: float, relation: str, threshold: float) -> str:
    return f"{what} {value:.4g} is {relation} {threshold:.4g}"


@dataclass(frozen=True, slots=True)
class Best:
    """The best evaluation so far, and among how many it is."""

    step: int
    forget: float
    utility: float
    enough: bool
    """Whether it has forgotten as much as was asked for."""
    evaluations: int
    """Evaluations after the start, so far."""
    candidates: int
    """Those of them that have forgotten enough."""
    above: bool = True
    """Whether its utility is not below the floor that ends the run, where there is one."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        return cls(**data)


def better(
    before: Best | None,
    step: int,
    found: Standing,
    keep: KeepConfig,
    stop: StopConfig = StopConfig(),  # noqa: B008 - frozen
) -> Best:
    """The best of what was best and a new evaluation; the earlier one where they are equal.

    Among evaluations that have forgotten enough the largest utility, then the least forget accuracy
    (the largest loss); without any, the least forget accuracy, then the largest utility, of those
    whose utility is not below the floor of `stop` before all others.
    """
    enough = found.forget <= _threshold(keep)
    evaluations = (before.evaluations if before else 0) + 1
    candidates = (before.candidates if before else 0) + enough
    new = Best(
        step,
        found.forget,
        found.utility,
        enough,
        evaluations,
        candidates,
        above=not _below_floor(stop, found),
    )
    if before is None or _rank(new) > _rank(before):
        return new
    return replace(before, evaluations=evaluations, candidates=candidates)


def _below_floor(stop: StopConfig, found: Standing) -> bool:
    floor, most = stop.utility_at_least, stop.retain_loss_at_most
    return (floor is not None and found.utility < floor) or (
        most is not None and -found.utility > most
    )


def _rank(found: Best) -> tuple[bool, bool, float, float]:
    # Of those that forgot enough, the largest utility is above the floor if any is.
    if found.enough:
        return True, found.above, found.utility, -found.forget
    return False, found.above, -found.forget, found.utility


def _has_floor(stop: StopConfig) -> bool:
    return stop.utility_at_least is not None or stop.retain_loss_at_most is not None


def _threshold(keep: KeepConfig) -> float:
    if keep.forget_at_most is not None:
        return keep.forget_at_most
    assert keep.forget_loss_at_least is not None
    return -keep.forget_loss_at_least


def why_last(ended: str | None) -> str:
    """What to know of the last step's model; empty unless a floor ended the run there."""
    if ended is None or not ended.startswith((UTILITY, RETAIN_LOSS)):
        return ""
    return (
        "The model of the last step is saved, which is the one beyond that floor; keep.which best "
        "saves the best evaluation's instead, before all one on the right side of it."
    )


def why_kept(best: Best, config: UnlearnConfig) -> str:
    """Which step's model is saved and why, in one or two sentences."""
    keep, asked = config.keep, config.evaluation.questions is not None
    goal = abs(_threshold(keep))
    if asked:
        reached = f"forget accuracy at most {goal:.4g}"
        utility = f"largest utility ({best.utility:.4g})"
        most = f"least forget accuracy ({best.forget:.4g})"
        judged = "the run's own questions, which flatter the choice: measure it on others"
    else:
        reached = f"held-out forget loss at least {goal:.4g}"
        utility = f"smallest held-out retain loss ({-best.utility:.4g})"
        most = f"largest held-out forget loss ({-best.forget:.4g})"
        judged = "the run's own held-out documents, which flatter the choice"
    if best.enough:
        count = best.candidates
        why = f"of {count} evaluation{'s' * (count > 1)} with {reached} it has the {utility}"
    else:
        why = f"none of {best.evaluations} evaluations reached {reached}, and it has the {most}"
    if not best.enough and best.evaluations > 1 and _has_floor(config.stop):
        why += f" of those {'within' if best.above else 'beyond'} the run's floor of utility"
    elif not best.above:
        why += ", which is beyond the run's floor"
    return f"The model of step {best.step} is saved: {why}. Judged on {judged}."
