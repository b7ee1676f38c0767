"""Parts of a report taken once more from models and sets: ablations, the map, drift.

By default the report's experts are taken out together once more, a few of them by themselves, and
one of the random sets; `thorough` makes map, drift and all ablations again, from a profile of its
own. On the machine that made the report every figure comes out the same. Elsewhere rounding may
turn an answer or two, so figures agree within bounds, and what is smaller is not found.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from trace_engine.audit import caused
from trace_engine.audit.follows import RANDOM_SINCE, random_of
from trace_engine.audit.settings import ROLES, PartName, Role
from trace_engine.causal.ablation import ablate_in, harm_of, load_of
from trace_engine.causal.groups import group
from trace_engine.causal.replay import Examination
from trace_engine.causal.results import FORGET, UTILITY
from trace_engine.causal.scanning import effects, measure
from trace_engine.config import Cell
from trace_engine.disk import strict
from trace_engine.progress import ProgressCallback

if TYPE_CHECKING:
    from trace_engine.audit.case import Case

APART: Final[Mapping[str, float]] = {"causal": 0.02, "routing": 0.002, "drift": 0.002}
"""By how much a figure may be apart (beyond 1, relative): nats; shares of tokens."""
TURNED: Final = 2
"""Questions that rounding may turn: in counts, and in accuracies, which are shares of n."""
P_APART: Final = 20.0
"""Factor between two p-values: two turned questions are one of up to 12."""
CELLS: Final = 3
"""So many of the experts are taken out by themselves."""
WHOLE: Final[tuple[PartName, ...]] = ("routing", "causal", "drift")
"""Parts that `thorough` makes again, in this order."""
_IN_WORDS: Final = ("sentence", "notes", "profile")

Summary = Mapping[str, Any]


def ablated_again(
    case: Case, found: Mapping[str, Any], drawn: int, version: int, report: ProgressCallback
) -> Iterator[tuple[str, list[str]]]:
    """What was taken out, and where the part says otherwise: its experts together, a few by
    themselves, and one random set, on the questions of the part."""
    summary, role = found["summary"], found["summary"]["role"]
    mode, config, seed = summary["mode"], case.config.causal, case.config.seed
    asked = list(caused.some_questions(case).values())
    groups = group(asked, case.config.forget_category)
    examination = Examination(case.open(role), asked, style=case.config.style, report=report)
    cells = [Cell(row["layer"], row["expert"]) for row in summary["cells"]]
    # Before loads were kept, p of experts taken out together was not corrected.
    known = Known("causal", corrected="loads" in summary, whole=version >= RANDOM_SINCE)

    together = ablate_in(
        examination, groups, cells, mode=mode, draws=0, permutations=config.permutations, seed=seed
    )
    now = [effect.to_dict() for effect in together.effects]
    said = list(unlike(known, "causal.effects", summary["effects"], strict(now)))
    yield f"{len(cells)} experts taken out again, {role}", said

    order = np.random.default_rng(drawn).permutation(len(cells))[:CELLS]
    some = sorted(cells[place] for place in order)
    after = measure(examination, some, mode, None, report)
    load = load_of(examination)
    alone = effects(examination, groups, some, after, mode, load, config.permutations, seed)
    rows = {Cell(row["layer"], row["expert"]): row for row in summary["cells"]}
    for again in alone.table().astype(object).to_dict("records"):
        cell = Cell(again["layer"], again["expert"])
        name = f"L{cell.layer} E{cell.expert}"
        own = {str(key): value for key, value in again.items() if _of_one_cell(str(key))}
        stored = {key: value for key, value in rows[cell].items() if _of_one_cell(key)}
        yield f"{name} taken out again, {role}", list(unlike(known, name, stored, strict(own)))

    if version >= RANDOM_SINCE and (sets := random_of(found["items"])):
        one = sets[drawn % len(sets)]
        answers = examination.without(one.cells, mode)
        harm = harm_of(groups, examination.answers, answers)
        size = {"n": min(len(groups.forget), len(groups.utility))}
        said = list(unlike(known, "random", one.harm | size, harm | size))
        yield f"a random set of {len(one.cells)} experts taken out again, {role}", said


def parts_again(
    case: Case, parts: Mapping[str, Any], version: int, report: ProgressCallback
) -> Iterator[tuple[PartName, list[str]]]:
    """Each whole part that is there and whose models are: what differs from the report. `parts` are
    summaries."""
    from trace_engine.audit.parts import COMPUTED

    case.close()
    with TemporaryDirectory(prefix="trace-verify-") as empty:
        # Nothing that was computed before: a profile that somebody kept may be the forged one.
        alone = replace(case, base=Path(empty))
        for part in WHOLE:
            if part in parts and not lacking(case, part, parts[part]):
                stored = parts[part]
                if part == "causal":
                    # Those of the report: near ties of the map may be chosen otherwise elsewhere.
                    cells = [Cell(row["layer"], row["expert"]) for row in stored["cells"]]
                    made = caused.causal(alone, report, cells)
                else:
                    made = COMPUTED[part](alone, report)
                known = Known(part, corrected="loads" in stored, whole=version >= RANDOM_SINCE)
                yield part, list(unlike(known, part, stored, strict(dict(made.summary))))
        alone.close()


def lacking(case: Case, part: PartName, summary: Summary) -> list[Role]:
    """The models that a part was made of and that are not there now."""
    made_of: dict[PartName, list[Any]] = {
        "causal": [summary.get("role")],
        "routing": [*summary],
        "drift": ["before", "model"],
    }
    return [role for role in ROLES if role in made_of[part] and role not in case.models]


@dataclass(frozen=True, slots=True)
class Known:
    """What is compared."""

    part: PartName
    corrected: bool
    """Whether corrected p-values mean what they mean now."""
    whole: bool
    """Whether every figure of now must be there; older versions had fewer."""


def unlike(known: Known, where: str, stored: Any, now: Any, n: int | None = None) -> Iterator[str]:
    """The places where a figure is further from the report's than rounding takes it, by name; `n`
    is the number of questions behind it."""
    if isinstance(stored, dict) and isinstance(now, dict):
        n = _questions(now, n)
        for name in sorted({*stored, *now}):
            if name in _IN_WORDS or (name.endswith("corrected") and not known.corrected):
                continue
            if name not in now:
                yield f"{where}.{name}: is in the report, and does not come out again"
            elif name in stored:
                yield from unlike(known, f"{where}.{name}", stored[name], now[name], n)
            elif known.whole:
                yield f"{where}.{name}: is not in the report, and comes out again"
    elif isinstance(stored, list) and isinstance(now, list) and len(stored) == len(now):
        for place, (one, other) in enumerate(zip(stored, now, strict=True)):
            yield from unlike(known, f"{where}[{place}]", one, other, n)
    elif not _agree(known.part, where, stored, now, n):
        yield f"{where}: the report says {str(stored)[:80]}, it is {str(now)[:80]}"


def _questions(figures: Mapping[str, Any], n: int | None) -> int | None:
    """Of an effect its questions, of a cell those of the smaller group."""
    counts = [figures[name] for name in ("n", "n_forget", "n_utility") if name in figures]
    return min(counts) if counts else n


def _of_one_cell(name: str) -> bool:
    """Whether a figure of a cell is its own: not its load in a profile, nor of all cells
    together."""
    return name.startswith((FORGET, UTILITY, "specific", "n_")) and "corrected" not in name


def _agree(part: PartName, where: str, stored: Any, now: Any, n: int | None) -> bool:
    number = (int, float)
    if isinstance(stored, bool) or not (isinstance(stored, number) and isinstance(now, number)):
        return bool(stored == now)
    name = where.rpartition(".")[2]
    bound = APART[part] * max(1.0, abs(stored))
    if isinstance(stored, int) and isinstance(now, int):
        return abs(stored - now) <= max(TURNED, bound)
    if name in ("p", "p_max", "q_bh") or name.endswith(("_p", "p_corrected")):
        return abs(math.log(max(stored, 1e-12) / max(now, 1e-12))) <= math.log(P_APART)
    if "accuracy" in where and n:
        # An answer more or less also moves the interval around it, a little further.
        bound = max(bound, 1.5 * TURNED / n)
    return abs(stored - now) <= bound
