"""What is to be measured, by the names of its files: the one form that command, page and Python
fill in.

Everything is read before a model is opened, so that a typo costs no load. A metric that is asked
for without its material is refused, and says what to give.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, get_args

from trace_engine.errors import InputError
from trace_engine.evaluation.families import Accuracy, Family, Loss
from trace_engine.evaluation.membership import Membership
from trace_engine.evaluation.memorisation import Memorisation
from trace_engine.evaluation.multiple_choice import Style
from trace_engine.evaluation.muse import Muse
from trace_engine.evaluation.tofu import Tofu
from trace_engine.sets import DocumentSet, load_questions, load_set, set_config
from trace_engine.sets.muse import read_muse
from trace_engine.sets.tofu import FORGET, read_tofu

Metric = Literal["accuracy", "loss", "memorisation", "membership", "muse", "tofu"]
METRICS: Final[tuple[Metric, ...]] = get_args(Metric)


@dataclass(frozen=True, slots=True, kw_only=True)
class Materials:
    """Sources as a person names them: files, folders, `hub:owner/name`, `demo:forget`."""

    questions: Sequence[str] = ()
    """Files, folders or hub sets of multiple-choice questions, for `accuracy`."""
    style: Style = "continuation"
    """How choices are shown and scored: `letters` is MMLU's and WMDP's form in the harness."""
    description: str = ""
    """Stands before every question, as a task's description in the harness."""
    split: str = "test"
    """Which split of a published set of questions is asked."""
    sets: Sequence[str] = ()
    """Sets, for `loss`."""
    forget: str | None = None
    """The forget set, for `memorisation` and `membership`."""
    holdout: str | None = None
    """Documents like the forget set's that the model never saw, for `membership`."""
    muse: str | None = None
    """A corpus of MUSE: its folder, `hub:muse-bench/MUSE-Books`, or `demo:book`."""
    tofu: str | None = None
    """TOFU's folder, or `hub:locuslab/TOFU`."""
    tofu_forget: str = FORGET
    """Which of TOFU's forget sets: `forget01`, `forget05`, `forget10`."""
    prompt: str | None = None
    """How questions of MUSE and TOFU are asked, with `{question}` in it. None: as published."""
    max_length: int | None = None
    """Tokens per document; the rest is cut. None: 256; 512 for TOFU; 4096 for MUSE, whose documents
    are long."""

    def given(self) -> list[Metric]:
        """The metrics whose material is there."""
        there: dict[Metric, bool] = {
            "accuracy": bool(self.questions),
            "loss": bool(self.sets),
            "memorisation": self.forget is not None,
            "membership": self.forget is not None and self.holdout is not None,
            "muse": self.muse is not None,
            "tofu": self.tofu is not None,
        }
        return [metric for metric in METRICS if there[metric]]


_NEEDS: Final[dict[Metric, str]] = {
    "accuracy": "a file of multiple-choice questions (--questions)",
    "loss": "a set (--set)",
    "memorisation": "the forget set (--forget)",
    "membership": "the forget set and documents that were never trained on (--forget, --holdout)",
    "muse": "a corpus of MUSE (--muse)",
    "tofu": "the sets of TOFU (--tofu)",
}


def families_of(materials: Materials, metrics: Sequence[str] | None = None) -> list[Family]:
    """Read the materials and make the families of `metrics`; None: all that the materials allow.

    Raises InputError when nothing can be measured, a metric is unknown or lacks its material, or a
    source cannot be read.
    """
    given = materials.given()
    if metrics is None and not given:
        raise InputError(
            "Name what to evaluate on: --questions FILE, --set FILE, --forget FILE, --muse FOLDER, "
            "--tofu FOLDER, or several."
        )
    asked: list[Metric] = []
    for metric in METRICS if metrics is not None else given:
        if metrics is None or metric in metrics:
            asked.append(metric)
    for name in metrics or ():
        if name not in METRICS:
            raise InputError(f"There is no metric {name!r}; there are {', '.join(METRICS)}.")
    for metric in asked:
        if metric not in given:
            raise InputError(f"{metric} needs {_NEEDS[metric]}.")
    return _read(materials, asked)


def _read(materials: Materials, asked: Sequence[Metric]) -> list[Family]:
    families: list[Family] = []
    length = materials.max_length or 256
    if "accuracy" in asked:
        families += [
            Accuracy(
                load_questions(source, materials.split),
                source,
                materials.style,
                materials.description,
            )
            for source in materials.questions
        ]
    if "loss" in asked:
        for source in materials.sets:
            families.append(Loss(_documents(source).documents, source, length))
    forget = _documents(materials.forget) if {"memorisation", "membership"} & {*asked} else None
    if forget is not None and "memorisation" in asked:
        families.append(Memorisation(forget.documents, forget.source, length))
    if forget is not None and "membership" in asked:
        holdout = _documents(materials.holdout)
        on = f"{forget.source} against {holdout.source}"
        families.append(Membership(forget.documents, holdout.documents, on, length))
    if materials.muse is not None and "muse" in asked:
        muse = read_muse(materials.muse)
        muse = replace(muse, prompt=_prompt(materials, muse.prompt))
        families.append(Muse(muse, materials.max_length or 4096))
    if materials.tofu is not None and "tofu" in asked:
        tofu = read_tofu(materials.tofu, materials.tofu_forget)
        tofu = replace(tofu, prompt=_prompt(materials, tofu.prompt))
        families.append(Tofu(tofu, materials.max_length or 512))
    return families


def _prompt(materials: Materials, published: str) -> str:
    if materials.prompt is None:
        return published
    if "{question}" not in materials.prompt:
        raise InputError(
            f"The prompt {materials.prompt!r} has no {{question}}, which stands for the question."
        )
    return materials.prompt


def _documents(source: str | None) -> DocumentSet:
    return load_set(set_config(source or ""))
