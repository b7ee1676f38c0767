"""Whole parts of a report taken once more from models and sets: ablations, the map, drift.

By default the experts of the report are taken out together once more, and one of them by itself;
`thorough` makes map, drift and all ablations again, from a profile of its own. On the machine that
made the report every figure comes out the same. Elsewhere rounding may turn an answer, so figures
agree within `APART` and p-values within a factor of `P_APART`; what is smaller is not found.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

from trace_engine.audit import caused
from trace_engine.audit.settings import ROLES, PartName, Role
from trace_engine.causal import ablate, scan
from trace_engine.causal.results import FORGET
from trace_engine.config import Cell
from trace_engine.disk import strict
from trace_engine.progress import ProgressCallback

if TYPE_CHECKING:
    from trace_engine.audit.case import Case

APART: Final[Mapping[str, float]] = {"causal": 0.02, "routing": 0.002, "drift": 0.002}
"""By how much a figure may be apart (beyond 1, relative): accuracies, nats; shares of tokens."""
P_APART: Final = 5.0
"""Two questions of a few that changed, turned by rounding, are a factor of four."""
COUNTS_APART: Final = 2
WHOLE: Final[tuple[PartName, ...]] = ("routing", "causal", "drift")
"""Parts that `thorough` makes again, in this order."""
_IN_WORDS: Final = ("sentence", "notes", "profile")

Summary = Mapping[str, Any]


def ablated_again(
    case: Case, summary: Summary, drawn: int, report: ProgressCallback
) -> Iterator[tuple[str, list[str]]]:
    """What was taken out, and where the report says otherwise: its experts together, and one of
    them by itself, on the questions of the part. Random sets and corrections over all experts are
    left out."""
    role = summary["role"]
    asked = list(caused.some_questions(case).values())
    cells = [Cell(row["layer"], row["expert"]) for row in summary["cells"]]
    common: dict[str, Any] = {
        "mode": summary["mode"],
        "forget_category": case.config.forget_category,
        "style": case.config.style,
        "permutations": case.config.causal.permutations,
        "seed": case.config.seed,
        "report": report,
    }
    opened = case.open(role)
    together = ablate(opened, asked, cells, draws=0, **common)
    now = {"effects": [effect.to_dict() for effect in together.effects]}
    said = unlike("causal", "causal", {"effects": summary["effects"]}, strict(now))
    yield f"{len(cells)} experts taken out again, {role}", list(said)
    row = summary["cells"][drawn % len(cells)]
    cell = Cell(row["layer"], row["expert"])
    [again] = scan(opened, asked, cells=[cell], **common).table().astype(object).to_dict("records")
    alone = {name: again[name] for name in row if _of_one_cell(name)}
    known = {name: row[name] for name in alone}
    name = f"L{cell.layer} E{cell.expert}"
    yield f"{name} taken out again, {role}", list(unlike("causal", name, known, strict(alone)))


def parts_again(
    case: Case, parts: Mapping[str, Any], report: ProgressCallback
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
                now = strict(dict(COMPUTED[part](alone, report).summary))
                yield part, list(unlike(part, part, parts[part], now))
        alone.close()


def lacking(case: Case, part: PartName, summary: Summary) -> list[Role]:
    """The models that a part was made of and that are not there now."""
    made_of: dict[PartName, list[Any]] = {
        "causal": [summary.get("role")],
        "routing": [*summary],
        "drift": ["before", "model"],
    }
    return [role for role in ROLES if role in made_of[part] and role not in case.models]


def unlike(part: str, where: str, stored: Any, now: Any) -> Iterator[str]:
    """The places where a figure is further from the report's than rounding takes it, by name."""
    if isinstance(stored, dict) and isinstance(now, dict):
        for name in stored:
            if name in _IN_WORDS:
                continue
            if name not in now:
                yield f"{where}.{name}: is in the report, and does not come out again"
                continue
            yield from unlike(part, f"{where}.{name}", stored[name], now[name])
    elif isinstance(stored, list) and isinstance(now, list) and len(stored) == len(now):
        for place, (one, other) in enumerate(zip(stored, now, strict=True)):
            yield from unlike(part, f"{where}[{place}]", one, other)
    elif not _agree(part, where.rpartition(".")[2], stored, now):
        yield f"{where}: the report says {str(stored)[:80]}, it is {str(now)[:80]}"


def _of_one_cell(name: str) -> bool:
    """Whether a figure of a cell is its own: not its load in a profile, nor of all cells
    together."""
    return name.startswith((FORGET, "utility", "specific", "n_")) and "corrected" not in name


def _agree(part: str, name: str, stored: Any, now: Any) -> bool:
    number = (int, float)
    if isinstance(stored, bool) or not (isinstance(stored, number) and isinstance(now, number)):
        return bool(stored == now)
    if isinstance(stored, int) and isinstance(now, int):
        return abs(stored - now) <= max(COUNTS_APART, APART[part] * abs(stored))
    if name in ("p", "p_max", "q_bh") or name.endswith(("_p", "_p_corrected", "p_corrected")):
        return abs(math.log(max(stored, 1e-12) / max(now, 1e-12))) <= math.log(P_APART)
    return abs(stored - now) <= APART[part] * max(1.0, abs(stored))
