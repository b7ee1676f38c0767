"""What both the report and the page show of experts that were taken out together: what it changes,
and the same figures of random sets. Pure, from the part's summary.

Reports of earlier versions did not keep what the random sets carry, and their p was not corrected:
they are shown as they were.
"""

from collections.abc import Mapping
from typing import Any, Final

from trace_engine.causal.results import HARMS, Loads
from trace_engine.spelling import NBSP, number

Summary = Mapping[str, Any]

CORRECTED: Final = (
    "p: McNemar's exact test of the accuracy, sign flips of the loss, corrected by Holm's method "
    "over all lines and both figures."
)
BANDS: Final = ("figure", "these experts", f"random sets, 2.5 to 97.5{NBSP}%", "do as much", "p")


def keeps_loads(summary: Summary) -> bool:
    """Whether it is of a version that kept what random sets carry."""
    return "loads" in summary


def loads_of(summary: Summary) -> Loads | None:
    """What the random sets carry; None without one."""
    found = summary.get("loads")
    return None if found is None else Loads(**found)


def told_loads(summary: Summary) -> str:
    """What the bands stand for, and how far the loads are alike."""
    loads = loads_of(summary)
    if loads is None:
        return "No random set was taken out beside them."
    apart = (
        ""
        if loads.equal == loads.n
        else " The others are the nearest in load that were found; heavier sets do more harm."
    )
    return (
        f"Beside random sets of as many experts in each layer: {loads.sentence}.{apart} Load: "
        f"{summary['load_source']}. Figures are turned so that more is more harm; p is one-sided, "
        "(1 + sets that do as much) / (1 + sets), each figure by itself."
    )


def band_rows(summary: Summary) -> list[tuple[str, ...]]:
    """A line a figure, under `BANDS`."""
    found: list[tuple[str, ...]] = []
    for name, words in HARMS.items():
        band = summary["bands"].get(name)
        if band is None:
            continue
        found.append(
            (
                words,
                number(band["value"], "+.3f"),
                f"{number(band['low'], '+.3f')} to {number(band['high'], '+.3f')}",
                f"{band['as_much']} of {band['n']}",
                number(band["p"], ".3f"),
            )
        )
    return found


COLUMNS: Final = (
    "figure", "value", "low", "high", "as_much", "n", "p", "load", "load_low", "load_high",
    "n_equal",
)  # fmt: skip


def random_rows(summary: Summary) -> list[dict[str, Any]]:
    """The same as a table of figures; none where no set was drawn."""
    loads = loads_of(summary)
    if loads is None:
        return []
    carried = {
        "load": loads.own,
        "load_low": loads.low,
        "load_high": loads.high,
        "n_equal": loads.equal,
    }
    return [
        {"figure": HARMS[name], **band, **carried}
        for name, band in summary["bands"].items()
        if name in HARMS
    ]
