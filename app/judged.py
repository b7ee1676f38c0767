"""What a run was judged on, so that only like runs are set against each other.

Model, questions, their number per category, scoring style and the category to forget: runs that
agree on all of them share a Pareto front, others are left out with the reason. Accepted trade-off:
runs that asked different samples of one file, equally many per category, stay together; the page
says so, and their intervals cover it.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from app import wording
from app.curves import last_per_step
from app.replay import StoredRun
from trace_engine.bundled import PACK, is_bundled
from trace_engine.disk import read_json
from trace_engine.evaluation.outcome import number

TARGET = "demo:target"


@dataclass(frozen=True, slots=True)
class Judged:
    """What the figures of a run are about. Equal values can be compared."""

    model: str
    """Fingerprint of the start model (its source where none was recorded); `demo:target` for the
    bundled model under whatever name it was opened."""
    questions: str
    """Bundled name, or fingerprint of the file (its path where none was recorded)."""
    counts: tuple[tuple[str, int], ...]
    """Category and number of its questions, in alphabetical order."""
    style: str
    forget_category: str

    @property
    def key(self) -> str:
        """A short name for the address."""
        return hashlib.sha256(repr(self).encode()).hexdigest()[:8]


def judged(run: StoredRun) -> Judged | None:
    """What a run was judged on; None where its last evaluation has no accuracies."""
    evaluations = last_per_step(run.rows, "eval")
    accuracy = (evaluations[-1].get("accuracy") or {}) if evaluations else {}
    settings = run.config.evaluation
    if settings.questions is None or not accuracy:
        return None
    asked = run.facts.get("questions") or {}
    bundled = is_bundled(settings.questions)
    counts = ((name, number(cell.get("n"))) for name, cell in sorted(accuracy.items()))
    return Judged(
        model=_model(run),
        questions=settings.questions
        if bundled
        else str(asked.get("fingerprint") or settings.questions),
        counts=tuple((name, int(n)) for name, n in counts if n == n),
        style=settings.style,
        forget_category=settings.forget_category,
    )


def _model(run: StoredRun) -> str:
    model = run.config.model
    fingerprint = (run.facts.get("model") or {}).get("fingerprint")
    if model.source == TARGET or (fingerprint and fingerprint == target_fingerprint()):
        return TARGET
    return str(fingerprint or f"{model.source}@{model.revision or ''}")


@cache
def target_fingerprint() -> str | None:
    """Fingerprint of the bundled model, as its bundled profile records it."""
    recorded = read_json(PACK / "profile" / "profile.json") or {}
    found = recorded.get("meta", {}).get("model", {}).get("fingerprint")
    return None if found is None else str(found)


def groups(chosen: Sequence[StoredRun]) -> dict[str, list[StoredRun]]:
    """Like runs together: key -> runs, the largest group first, then the one met first."""
    found: dict[str, list[StoredRun]] = {}
    for run in chosen:
        what = judged(run)
        if what is not None:
            found.setdefault(what.key, []).append(run)
    return dict(sorted(found.items(), key=lambda item: -len(item[1])))


def describe(run: StoredRun) -> str:
    """What a run was judged on, in words."""
    what = judged(run)
    if what is None:
        return "no questions"
    counts = " + ".join(f"{n} {name}" for name, n in what.counts)
    style = "" if what.style == "continuation" else f", scored as {what.style}"
    goal = f"to forget: {what.forget_category}{style}"
    return f"{_questions(run)} ({counts}; {goal}), {_model_name(run)}"


def left_out(
    like: StoredRun, chosen: Sequence[StoredRun], labels: Mapping[str, str]
) -> list[tuple[str, str]]:
    """Label and reason of every run that was judged on something else than `like`."""
    here = judged(like)
    found = []
    for run in chosen:
        there = judged(run)
        if there == here:
            continue
        if there is None or here is None:
            reason = "it has no accuracies"
        else:
            reason = ", ".join(_reasons(here, there, run))
        found.append((labels[run.id], reason))
    return found


def _reasons(here: Judged, there: Judged, run: StoredRun) -> list[str]:
    reasons = []
    if there.questions != here.questions:
        reasons.append(f"other questions ({_questions(run)})")
    elif there.counts != here.counts:
        counts = " + ".join(f"{n} {name}" for name, n in there.counts)
        reasons.append(f"another number of questions ({counts})")
    if there.model != here.model:
        reasons.append(f"another model ({_model_name(run)})")
    if there.style != here.style:
        reasons.append(f"another scoring style ({there.style})")
    if there.forget_category != here.forget_category:
        reasons.append(f"another category to forget ({there.forget_category})")
    return reasons


def other_samples(group: Sequence[StoredRun]) -> bool:
    """Whether runs of a group were asked different questions of the same file."""
    asked = set()
    for run in group:
        picked = last_per_step(run.rows, "eval")[-1].get("picked")
        if picked:
            asked.add(frozenset(picked))
    return len(asked) > 1


def _questions(run: StoredRun) -> str:
    source = run.config.evaluation.questions or ""
    if is_bundled(source):
        return f"bundled {source.removeprefix('demo:questions/')} questions"
    return f"questions of {Path(source).name}"


def _model_name(run: StoredRun) -> str:
    source = run.config.model.source
    return wording.MODEL_NAMES.get(source) or Path(source).name or source
