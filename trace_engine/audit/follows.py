"""What a report says of experts that were taken out, against its own figures: no model is opened.

The sentence, intervals and p follow from counts, corrections from p, bands and loads from the
random sets, and which experts were taken out from the map. Losses' intervals and p do not: for
those the experts are taken out again (`made_again`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any, Final

import numpy as np

from trace_engine.audit.ablated import loads_of
from trace_engine.audit.phrases import bare
from trace_engine.causal.paired import agresti_min, corrected_together, holm, mcnemar
from trace_engine.causal.results import (
    FORGET,
    UTILITY,
    Loads,
    RandomSet,
    band,
    band_of,
    effect_of,
    random_set_of,
    told,
)
from trace_engine.config import Cell

Summary = Mapping[str, Any]
WHERE: Final = "parts/causal.json"
RANDOM_SINCE: Final = 6
"""The format of reports from which on the random sets are in the part's items."""
LOADS_SINCE: Final = 5
"""And their loads in its summary, with every p corrected."""
_ROUNDED: Final = 2e-6
"""By how much gaps of the map may be apart that were equal before they were rounded."""


def unlike_ablation(
    summary: Summary,
    items: Mapping[str, Any],
    map_: Mapping[str, Any] | None,
    forget_category: str,
    version: int,
) -> Iterator[str]:
    """Where a part does not follow from itself and from the map of the same model."""
    if map_ is not None:
        yield from _unlike_chosen(summary, map_)
    if version < LOADS_SINCE:
        return
    if "loads" not in summary:
        yield f"{WHERE}: loads is missing"
        return
    follows = told_together(summary, forget_category)
    if bare(summary["sentence"]) != bare(follows):
        yield f"{WHERE}, sentence: {summary['sentence']!r} is said, {follows!r} follows"
    yield from _unlike_counts(summary)
    yield from _unlike_corrections(summary)
    if version >= RANDOM_SINCE:
        yield from _unlike_random(summary, items)


def told_together(summary: Summary, forget_category: str) -> str:
    """The sentence on the experts taken out together, from the part's figures."""
    cells = sorted(Cell(row["layer"], row["expert"]) for row in summary["cells"])
    effects = {effect["group"]: effect_of(effect) for effect in summary["effects"]}
    specific = summary["bands"].get("specific_loss")
    return told(
        cells,
        summary["mode"],
        forget_category,
        effects,
        None if specific is None else band_of(specific),
        loads_of(summary),
    )


def _unlike_chosen(summary: Summary, map_: Mapping[str, Any]) -> Iterator[str]:
    """The experts are those with the largest gaps of the map."""
    gaps = {(cell["layer"], cell["expert"]): cell["difference"] for cell in map_["cells"]}
    rows = [(row["layer"], row["expert"]) for row in summary["cells"]]
    least = sorted(gaps.values(), reverse=True)[len(rows) - 1]
    for cell in rows:
        if cell not in gaps or gaps[cell] < least - _ROUNDED:
            yield (
                f"{WHERE}: L{cell[0]} E{cell[1]} was taken out, and {len(rows)} others have larger "
                "gaps in the map"
            )


def _unlike_counts(summary: Summary) -> Iterator[str]:
    """An accuracy's change, interval and p follow from the questions it lost and gained."""
    for effect in summary["effects"]:
        lost, gained, n = effect["lost"], effect["gained"], effect["n"]
        low, high = agresti_min(lost, gained, n)
        follows = {"change": (gained - lost) / n, "low": low, "high": high}
        for name, value in (follows | {"p": mcnemar(lost, gained)}).items():
            yield from _apart(
                f"{effect['group']}, accuracy.{name}", effect["accuracy"][name], value
            )


def _unlike_corrections(summary: Summary) -> Iterator[str]:
    effects = summary["effects"]
    again = corrected_together([effect_of(effect) for effect in effects])
    for effect, one in zip(effects, again, strict=True):
        for name in ("accuracy", "loss"):
            value = getattr(one, name).p_corrected
            where = f"{effect['group']}, {name}.p_corrected"
            yield from _apart(where, effect[name]["p_corrected"], value)
    rows = summary["cells"]
    for group in (FORGET, UTILITY):
        name = f"{group}_accuracy_p"
        corrected = holm(np.array([row[name] for row in rows], dtype=np.float64))
        for row, value in zip(rows, corrected.tolist(), strict=True):
            where = f"L{row['layer']} E{row['expert']}, {name}_corrected"
            yield from _apart(where, row[f"{name}_corrected"], value)
        for row in rows:
            # Of the largest statistic of all: no less than that of one.
            alone, together = row[f"{group}_loss_p"], row[f"{group}_loss_p_corrected"]
            if together < alone:
                yield (
                    f"{WHERE}, L{row['layer']} E{row['expert']}, {group}_loss_p_corrected: "
                    f"{together} is said, and p alone is {alone}"
                )


def _unlike_random(summary: Summary, items: Mapping[str, Any]) -> Iterator[str]:
    """Loads and bands follow from the random sets, what a band stands for from the effects."""
    sets = random_of(items)
    if len(sets) != summary["draws"]:
        yield f"{WHERE}: {summary['draws']} random sets are said, {len(sets)} are there"
        return
    if not sets:
        return
    loads = Loads.of(summary["loads"]["own"], sets)
    assert loads is not None  # there are sets
    for name, value in asdict(loads).items():
        yield from _apart(f"loads.{name}", summary["loads"][name], value)
    effects = {effect["group"]: effect for effect in summary["effects"]}
    for name, shown in summary["bands"].items():
        group, _, measure = name.partition("_")
        sign = -1 if measure == "accuracy" else 1
        change = {g: sign * effects[g][measure]["change"] for g in (FORGET, UTILITY)}
        change["specific"] = change[FORGET] - change[UTILITY]
        yield from _apart(f"bands.{name}.value", shown["value"], change[group])
        follows = band(shown["value"], [one.harm[name] for one in sets]).to_dict()
        for part, value in follows.items():
            yield from _apart(f"bands.{name}.{part}", shown[part], value)


def random_of(items: Mapping[str, Any]) -> list[RandomSet]:
    """The random sets of a part's items."""
    return [random_set_of(row) for row in items["random"]]


def _apart(where: str, said: float, value: float) -> Iterator[str]:
    if not math.isclose(said, value, rel_tol=1e-6, abs_tol=1e-9):
        yield f"{WHERE}, {where}: {said} is said, {value:.6g} follows"
