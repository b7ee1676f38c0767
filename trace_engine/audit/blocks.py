"""What the report's sections are made of: tables, lists, figures in words, and what is missing."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from trace_engine.audit.html import Child, Markup, el
from trace_engine.audit.names import ROLE_WORDS
from trace_engine.spelling import number

Report = Mapping[str, Any]


def table(header: Sequence[str], rows: Iterable[Sequence[Child]], numeric: str = "") -> Markup:
    """A table; `numeric` has an `n` for every column of numbers and an `h` for one of hashes."""
    classes = [{"n": "n", "h": "hash"}.get(c) for c in numeric.ljust(len(header))]
    head = el(
        "tr",
        *(
            el("th", title, class_="n" if kind == "n" else None)
            for title, kind in zip(header, classes, strict=True)
        ),
    )
    body = [
        el("tr", *(el("td", cell, class_=kind) for cell, kind in zip(row, classes, strict=True)))
        for row in rows
    ]
    return el("div", el("table", el("thead", head), el("tbody", *body)), class_="scroll")


def figure(row: Report, digits: int = 3) -> str:
    """`0.412 [0.380, 0.445]`, or why there is none."""
    if row.get("value") is None:
        return str(row.get("note") or "no figure")
    text = number(row["value"], f".{digits}f")
    if row.get("low") is None or row.get("high") is None:
        return text
    return f"{text} [{number(row['low'], f'.{digits}f')}, {number(row['high'], f'.{digits}f')}]"


def count(row: Report) -> str:
    """A row's n; empty where it has none."""
    return "" if row.get("n") is None else f"{row['n']:,}"


def items(sentences: Iterable[str]) -> Markup:
    """A list of sentences."""
    return el("ul", *(el("li", sentence) for sentence in sentences))


def named(role: str) -> str:
    """What a model is here, in words."""
    return ROLE_WORDS.get(role, role)


def summary_of(report: Report, part: str) -> Report | None:
    """What a part found; None where it was not made."""
    found = report["parts"].get(part)
    return found["summary"] if found and found["done"] else None


def untested(report: Report, part: str) -> Markup:
    """The sentence that stands where a part's figures would."""
    why = report["parts"].get(part, {}).get("why") or "not part of this version"
    return el("p", f"Not tested: {why}.".replace("..", "."))


def attack_rows(rows: Sequence[Report]) -> Markup:
    """Who answered how much, under which treatment."""
    return table(
        ("attack", "model", "on", "right", "n"),
        [(row["attack"], named(row["model"]), row["on"], figure(row), count(row)) for row in rows],
        "   nn",
    )
