"""MUSE and TOFU as a section of the page: every model's figures side by side, and what each says.

The page of the app shows the same lines. It accepts that a measure is known here by its name in the
rows; one of another name is shown without a sentence.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from trace_engine.audit.blocks import Report, figure, items, named, summary_of, table, untested
from trace_engine.audit.figures import Dot, dots
from trace_engine.audit.html import Markup, el, together
from trace_engine.audit.names import NAMES
from trace_engine.audit.settings import PUBLISHED, PublishedName
from trace_engine.spelling import NBSP

TITLE: Final = "Published benchmarks: MUSE and TOFU"
BESIDE_FINDING: Final = (
    "Asked as their authors ask, of every model alike. What they are about may be something else "
    "than the forget set of this audit, so the finding does not rest on them."
)
MEANS: Final[Mapping[str, str]] = {
    "VerbMem, ROUGE-L F1": "how well what the model writes after a passage of the forget set "
    "matches what follows there. 0: nothing of it, 1: word for word.",
    "KnowMem on forget, ROUGE-L F1": "how well its answers about the forget set match the true "
    "ones. 1: in the same words.",
    "KnowMem on retain, ROUGE-L F1": "the same about what should stay: where it falls, more was "
    "lost than what was to be forgotten.",
    "AUC of PrivLeak, Min-40 %": "how often a held-out document looks more trained on than one of "
    "the forget set. 0.5: they cannot be told apart, 0: each of the forget set is told.",
    "PrivLeak, %": "how far that is from the reference's, in percent of it. 0: as after "
    "retraining, −100: every forget document is still told, far above 0: the model avoids them, "
    "which tells them too.",
    "forget quality, KS p-value": "whether its truth ratios differ from the reference's. 1: it is "
    "not to be told from one that was trained again, near 0: it is. More questions tell smaller "
    "differences, so only figures of one n compare; a p-value has no interval.",
    "log truth ratio minus the reference's": "by how much less it prefers true answers to false "
    "ones than the reference does. Below 0: it prefers them more, as a model that still knows.",
    "model utility, harmonic mean of nine": "probability, recall and truth ratio on retained "
    "authors, real authors and world facts as one number. 1 is best; one of the nine near 0 pulls "
    "the whole down.",
    "probability of the answer": "how likely it finds the true answer, per token; on real authors "
    "and world facts as a share of all offered answers.",
    "ROUGE-L recall": "how much of the true answer stands in what it writes.",
    "truth ratio, 1 where true and false are alike": "on what was to be forgotten. 1: it holds "
    "false answers for as likely as the true one, near 0: it tells them apart.",
    "truth ratio, max(0, 1 - R)": "on what should stay. 1: it prefers the true answer wholly, 0: "
    "not at all.",
}
"""What each figure says, after its name and a colon."""
_ABOUT: Final[Mapping[str, str]] = {
    "forget quality, KS p-value": "forget",
    "log truth ratio minus the reference's": "forget",
    "model utility, harmonic mean of nine": "the other three",
}
"""Of TOFU's sets those that a figure over no single one is about."""
_DRAWN: Final[Mapping[tuple[str, str], str]] = {
    ("VerbMem, ROUGE-L F1", ""): "VerbMem",
    ("KnowMem on forget, ROUGE-L F1", ""): "KnowMem on forget",
    ("KnowMem on retain, ROUGE-L F1", ""): "KnowMem on retain",
    ("probability of the answer", "forget"): "probability on forget",
    ("ROUGE-L recall", "forget"): "recall on forget",
    ("model utility, harmonic mean of nine", "the other three"): "model utility",
}


@dataclass(frozen=True, slots=True)
class Line:
    """One measure on one set, of every model."""

    measure: str
    on: str
    """Which of TOFU's four sets; empty for MUSE."""
    by: Mapping[str, Report]
    """Row by model."""

    def cell(self, role: str) -> str:
        """`0.412 [0.380, 0.445]`, or in short why there is none."""
        row = self.by.get(role)
        if row is None:
            return "—"
        value = row.get("value")
        if value is None:
            return str(row.get("note") or "no figure").partition(":")[0]
        if "p-value" in self.measure and value < 0.001:
            return "< 0.001"
        return figure(row, 1 if self.measure.startswith("PrivLeak") else 3)

    @property
    def count(self) -> str:
        """n, the same of every model but where a text has no token in one of them."""
        found = {f"{row['n']:,}" for row in self.by.values() if row["n"] is not None}
        return " / ".join(sorted(found))


def lines(summary: Report) -> list[Line]:
    """The rows of one benchmark, a line a measure."""
    grouped: dict[tuple[str, str], dict[str, Report]] = {}
    for row in summary["rows"]:
        whole = row["on"] == summary["source"]
        on = _ABOUT.get(row["measure"], "") if whole else row["on"].rpartition(", ")[2]
        grouped.setdefault((row["measure"], on), {})[row["model"]] = row
    return [Line(measure, on, by) for (measure, on), by in grouped.items()]


def meanings(found: list[Line]) -> list[str]:
    """A sentence for each measure that is there."""
    names = dict.fromkeys(line.measure for line in found)
    return [f"{name}: {MEANS[name]}" for name in names if name in MEANS]


def reasons(found: list[Line]) -> list[str]:
    """Why a figure is not there, where the table has room for its first words only."""
    notes = {
        f"{line.measure}: {row['note']}": None
        for line in found
        for row in line.by.values()
        if ":" in row["note"]
    }
    return [f"{note}." for note in notes]


def published(report: Report) -> Markup | None:
    """The section; none in a report of before there was one."""
    if not any(name in report["parts"] for name in PUBLISHED):
        return None
    return el(
        "section",
        el("h2", TITLE),
        el("p", BESIDE_FINDING),
        *(part for name in PUBLISHED for part in _benchmark(report, name)),
    )


def _benchmark(report: Report, name: PublishedName) -> Iterator[Markup]:
    yield el("h3", NAMES[name])
    summary = summary_of(report, name)
    if summary is None:
        yield untested(report, name)
        return
    found, roles = lines(summary), list(report["models"])
    shown = [
        Dot(label, row["value"], row["low"], row["high"], roles.index(role))
        for line in found
        if (label := _DRAWN.get((line.measure, line.on))) is not None
        for role, row in line.by.items()
        if row["value"] is not None
    ]
    if shown:
        title = f"{NAMES[name]}: shares from 0 to 1, with 95{NBSP}% intervals"
        yield dots(title, shown, [named(role) for role in roles], guides=[])
    split = any(line.on for line in found)
    head = ("measure", *(["set"] if split else []), *map(named, roles), "n")
    body = [
        (line.measure, *([line.on] if split else []), *map(line.cell, roles), line.count)
        for line in found
    ]
    numeric = " " * (1 + split) + "n" * (len(roles) + 1)
    yield together(table(head, body, numeric), items([*meanings(found), *reasons(found)]))
    code = dict.fromkeys(row["implementation"] for row in summary["rows"])
    yield el(
        "p",
        f"Source: {summary['source']}. Intervals resample passages, questions or documents. "
        "Implementations: " + "; ".join(code) + ".",
        class_="faint",
    )
