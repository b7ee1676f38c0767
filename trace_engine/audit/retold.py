"""What both the report and the page show of "erased, or re-routed": titles, sentences, tables of
text. Pure, from the part's summary.

What did not come from single questions (random sets beside the forbidden experts, shuffled answers
beside the probe) is told in a sentence of its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from trace_engine.audit.names import ROLE_WORDS
from trace_engine.audit.rerouting import (
    CHANGE,
    FOUND,
    FURTHER,
    GROUPS,
    KEPT,
    OTHER_ROUTING,
    RETURNED,
    RIGHT,
    p_of,
    told,
)
from trace_engine.audit.settings import ROLES
from trace_engine.causal.results import Loads
from trace_engine.spelling import NBSP, NINETY_FIVE, number

Summary = Mapping[str, Any]
Row = Mapping[str, Any]

TITLES: Final = {
    "overlap": "How far did routing move?",
    "restored": "The start model's routers put back",
    "forced": "The experts that serve the forget questions now, forbidden",
    "probing": "Do hidden states still point to the answer?",
}
INTERVALS: Final = (
    f"Intervals are {NINETY_FIVE}, by bootstrap over questions (where all questions came out "
    "alike they have no width, and are too narrow); changes are paired, question by question, with "
    "the model as it is, and p is McNemar's exact test of each by itself."
)


@dataclass(frozen=True, slots=True)
class Told:
    """One of the four tests."""

    test: str
    title: str
    sentences: tuple[str, ...]
    header: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()


def retold(summary: Summary) -> list[Told]:
    """The tests in their order; of an older report, which kept no figures, sentences alone."""
    made = summary.get("figures", ())
    tables = {
        "overlap": _overlap,
        "restored": _treated,
        "forced": _treated,
        "probing": _probing,
    }
    found = []
    for test, sentence in summary["sentences"].items():
        rows = [row for row in made if row["test"] in (test, "plain")]
        if any(row["test"] == test for row in rows):
            header, body = tables[test](rows, test)
            sentences = (sentence, *_beside(test, summary))
            found.append(Told(test, TITLES[test], sentences, header, body))
        else:
            found.append(Told(test, TITLES[test], (sentence,)))
    return found


Table = tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]


def _overlap(rows: Sequence[Row], test: str) -> Table:
    by = {(row["on"], row["layer"]): row for row in rows if row["figure"] == KEPT}
    layers = list(dict.fromkeys(layer for _, layer in by))
    header = ("layer", *(part for on in GROUPS.values() for part in (on, f"n ({on.split()[0]})")))
    return header, tuple(
        (str(layer), *(
            part
            for on in GROUPS.values()
            for part in (told(by[on, layer]), f"{by[on, layer]['n']:,}")
        ))
        for layer in layers
    )  # fmt: skip


def _treated(rows: Sequence[Row], test: str) -> Table:
    """A line a group of questions: the models as they are, the treated one, and what it changed."""
    plain = [row for row in rows if row["test"] == "plain"]
    # The other models stand once, with the routers that are put back.
    roles = [
        role
        for role in ROLES
        if role == "model" or test == OTHER_ROUTING[0]
        if any(row["model"] == role for row in plain)
    ]
    own = [row for row in rows if row["test"] == test]
    back = [row for row in own if row["figure"] == RETURNED]
    header = (
        "questions",
        *(ROLE_WORDS[role] for role in roles),
        "treated so",
        "change",
        *(("of what was lost",) if back else ()),
        "n",
    )
    body = []
    for on in GROUPS.values():
        right = {row["model"]: row for row in plain if row["on"] == on}
        by = {row["figure"]: row for row in own if row["on"] == on}
        if CHANGE not in by:
            continue
        change = by[CHANGE]
        body.append(
            (
                on,
                *(told(right[role]) if role in right else "—" for role in roles),
                told(by[RIGHT]),
                f"{told(change, '+.3f')}, p {p_of(change['p'])}",
                *((told(by[RETURNED]) if RETURNED in by else "—",) if back else ()),
                f"{change['n']:,}",
            )
        )
    return header, tuple(body)


def _probing(rows: Sequence[Row], test: str) -> Table:
    own = [row for row in rows if row["test"] == test]
    roles = [role for role in ROLES if any(_is(row, FOUND, role) for row in own)]
    further = [figure for figure in FURTHER.values() if any(r["figure"] == figure for r in own)]
    layers = list(dict.fromkeys(row["layer"] for row in own))
    body = []
    for layer in layers:
        here = [row for row in own if row["layer"] == layer]
        body.append(
            (
                str(layer),
                *(_one(here, FOUND, role) for role in roles),
                *(_one(here, figure, "model", "+.3f") for figure in further),
                f"{here[0]['n']:,}",
            )
        )
    beyond = (figure.removeprefix("found ") for figure in further)
    return ("layer", *(ROLE_WORDS[role] for role in roles), *beyond, "n"), tuple(body)


def _one(rows: Sequence[Row], figure: str, role: str, form: str = ".3f") -> str:
    return next((told(row, form) for row in rows if _is(row, figure, role)), "—")


def _is(row: Row, figure: str, role: str) -> bool:
    return bool((row["figure"], row["model"]) == (figure, role))


def _beside(test: str, summary: Summary) -> tuple[str, ...]:
    """What random sets and shuffled answers come to."""
    if test == "forced":
        forced = summary["forced"]
        if forced["random_low"] is None:
            return ()
        # Earlier versions did not keep what the sets carry, and called it like load.
        loads = forced.get("loads")
        carried = " of like load" if loads is None else f" ({Loads(**loads).sentence})"
        return (
            f"{forced['random_n']:,} random sets{carried}, forbidden instead, change the "
            f"accuracy by {number(forced['random_low'], '+.3f')} to "
            f"{number(forced['random_high'], '+.3f')} (2.5 to 97.5{NBSP}%).",
        )
    if test == "probing" and summary["probing"]["layers"]:
        probing = summary["probing"]
        p = ", ".join(
            f"{ROLE_WORDS[role]} p {p_of(probing[name])}"
            for role, name in (("model", "p_after"), ("before", "p_before"),
                               ("reference", "p_reference"))
            if probing[name] is not None
        )  # fmt: skip
        best = max(probing["layers"], key=lambda row: row["after"]["value"])
        return (
            f"With answers shuffled {probing['shuffles']:,} times a probe of the audited model "
            f"finds {number(best['shuffled'], '.3f')} of them in layer {best['layer']} "
            f"({NINETY_FIVE} of the shuffles at most {number(best['shuffled_high'], '.3f')}). The "
            f"best layer against the best layer of every shuffle: {p}.",
        )
    return ()
