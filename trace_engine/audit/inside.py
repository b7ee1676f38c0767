"""The report's sections on what is inside the model: which experts forget text uses more and what
hangs on them, whether routing moved, and whether what is gone was erased or routed around."""

from collections.abc import Callable, Sequence
from typing import Final

from trace_engine.audit.ablated import BANDS, CORRECTED, band_rows, keeps_loads, told_loads
from trace_engine.audit.blocks import (
    Report,
    attack_rows,
    figure,
    items,
    named,
    summary_of,
    table,
    untested,
)
from trace_engine.audit.experts import MEASURES, SHOWN, selected_experts, told_ablation
from trace_engine.audit.html import Child, Markup, el, together
from trace_engine.audit.retold import INTERVALS, Told, retold
from trace_engine.spelling import NBSP, number

WIDE: Final = 7
"""Columns from which on a line of figures with their intervals is wider than the page."""


def _experts(report: Report) -> Markup:
    found, parts = summary_of(report, "routing"), _done(report)
    head = el("h2", "Where is it? Experts that forget text uses more, and what hangs on them")
    rows = selected_experts(parts)
    if not rows:
        return el("section", head, untested(report, "routing"))
    sections: list[Child] = [head]
    if found is None:
        sections.append(untested(report, "routing"))
    sections.append(
        el("p", "Activation says where tokens go, not where knowledge is; that is what taking an "
           "expert out is for. Gap: share of forget tokens minus share of retain tokens routed to "
           "the expert, with a 95" + NBSP + "% interval over documents; p: permutation over "
           "documents, corrected over all cells (max statistic); null: the same gap in a random "
           "split of both sets; matched: the gap when retain tokens are re-drawn to the forget "
           "set's token ids. Under a change stands its 95" + NBSP + "% interval over questions and "
           "its p, corrected over all experts that were taken out.")
    )  # fmt: skip
    for role in dict.fromkeys(row["model"] for row in rows):
        shown = [row for row in rows if row["model"] == role]
        sections += [*_map_of(role, found), _expert_table(report, role, shown)]
    return el("section", *sections)


def _map_of(role: str, found: Report | None) -> list[Child]:
    """What is to be said of a model's map."""
    if found is None or role not in found:
        return [el("h3", named(role).capitalize())]
    model = found[role]
    n, cells = model["documents"], model["cells"]
    significant = sum(cell["p_max"] < 0.05 for cell in cells)
    return [
        el("h3", f"{named(role).capitalize()}: {significant} of {len(cells)} experts "
           "differ at corrected p < 0.05"),
        el("p", f"n: {n['forget']:,} forget and {n['retain']:,} retain documents, "
           f"{model['permutations']:,} permutations, {model['bootstrap']:,} resamples. The "
           f"{min(SHOWN, len(cells))} largest gaps are shown, all cells are in "
           "tables/experts.csv."),
        items(model["notes"]) if model["notes"] else None,
    ]  # fmt: skip


def _expert_table(report: Report, role: str, rows: Sequence[Report]) -> Markup:
    """One line an expert; the columns of an ablation only for a model that had one."""
    ablated = any(row["ablated"] for row in rows)
    why = report["parts"].get("causal", {}).get("why") or "not part of this version"
    head = ["expert", "forget / retain", "gap", "null / matched"]
    head += [name.replace("_", " ") for name in MEASURES] if ablated else []
    body = [
        (
            f"L{row['layer']} E{row['expert']}",
            _lines(_share(row["forget"]), _share(row["retain"])),
            _gap(row),
            _lines(_share(row["null_difference"]), _share(row["matched_difference"])),
            *((_effect(row, name) for name in MEASURES) if ablated else ()),
        )
        for row in rows
    ]
    return together(
        el("p", told_ablation(role, _done(report), why)),
        table(head, body, " " + "n" * (len(head) - 1)),
    )


def _share(value: float | None) -> str:
    return "—" if value is None else number(value, ".3f")


def _gap(row: Report) -> Child:
    if row["difference"] is None:
        return "—"
    return _lines(
        _share(row["difference"]), _interval(row["low"], row["high"]), f"p {_p(row['p_max'])}"
    )


def _effect(row: Report, name: str) -> Child:
    value = row[name]
    if not row["ablated"]:
        return "not taken out"
    # What an older version did not keep.
    if value is None:
        return "—"
    return _lines(
        number(value, "+.3f"),
        _interval(row[f"{name}_low"], row[f"{name}_high"]),
        f"p {_p(row[f'{name}_p_corrected'])}",
    )


def _interval(low: float | None, high: float | None) -> str:
    if low is None or high is None:
        return "no interval"
    return f"[{number(low, '.3f')}, {number(high, '.3f')}]"


def _lines(*texts: str) -> Markup:
    """One under the other."""
    parts: list[Child] = []
    for text in texts:
        parts += [el("br"), text] if parts else [text]
    return together(*parts)


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else number(value, ".3f")


def _done(report: Report) -> dict[str, Report]:
    return {name: part["summary"] for name, part in report["parts"].items() if part["done"]}


def _causal(report: Report) -> Markup:
    found = summary_of(report, "causal")
    head = el("h2", "What hangs on these experts together? Ablation")
    if found is None:
        return el("section", head, untested(report, "causal"))
    known = keeps_loads(found)
    p, title = ("p_corrected", "corrected p") if known else ("p", "p")
    rows = [
        (
            effect["group"],
            _changed(effect["accuracy"]),
            _p(effect["accuracy"][p]),
            _changed(effect["loss"]),
            _p(effect["loss"][p]),
            f"{effect['n']:,}",
        )
        for effect in found["effects"]
    ]
    return el(
        "section",
        head,
        el("p", f"In the {named(found['role'])}, the experts with the largest gaps all taken out "
           "at once; each by itself stands beside its gap above. Change of accuracy, and of the "
           "right answers' loss in nats a token, with 95" + NBSP + "% intervals."
           + (" " + CORRECTED if known else "")),
        table(("questions", "accuracy", title, "loss", title, "n"), rows, " nnnnn"),
        el("p", "All together: " + found["sentence"]),
        el("p", told_loads(found)) if known else None,
        table(BANDS, band_rows(found), " nnnn") if known and found["bands"] else None,
    )  # fmt: skip


def _changed(change: Report) -> str:
    value = number(change["change"], "+.3f")
    return f"{value} {_interval(change['low'], change['high'])}"


def _rerouted(report: Report) -> Markup:
    found = summary_of(report, "rerouted")
    head = el("h2", "Erased, or only re-routed?")
    if found is None:
        return el("section", head, untested(report, "rerouted"))
    if "figures" not in found:
        # Older versions kept no routing; those of formats 1 and 2 have no rows either.
        rows = found.get("rows")
        told = items(found["sentences"].values())
        return el("section", head, told, attack_rows(rows) if rows else None)
    return el(
        "section", head, el("p", INTERVALS, class_="faint"), *(_test(one) for one in retold(found))
    )


def _test(one: Told) -> Markup:
    return together(
        el("h3", one.title),
        *(el("p", sentence) for sentence in one.sentences),
        table(one.header, map(_narrow, one.rows), " " + "n" * (len(one.header) - 1))
        if one.rows
        else None,
    )


def _narrow(row: Sequence[str]) -> list[Child]:
    """A table's cells with every interval under its figure, where they do not fit in a line."""
    if len(row) < WIDE:
        return list(row)
    return [_lines(*cell.replace(" [", "\n[").replace("], ", "]\n").split("\n")) for cell in row]


def _drift(report: Report) -> Markup:
    found = summary_of(report, "drift")
    head = el("h2", "Did routing move?")
    if found is None:
        return el("section", head, untested(report, "drift"))
    layers = sorted({row["layer"] for row in found["rows"]})
    by = {(row["on"], row["layer"]): row for row in found["rows"]}
    sides = list(dict.fromkeys(row["on"] for row in found["rows"]))
    rows = [
        (str(layer), *(_kept(by[side, layer]) for side in sides), number(chance, ".3f"))
        for layer, chance in zip(layers, found["chance"], strict=True)
    ]
    n = " and ".join(f"{by[side, layers[0]]['n']:,} ({side})" for side in sides)
    return el(
        "section",
        head,
        el("p", "Share of a token's experts that are the same as in the start model. 1: unmoved. "
           f"Documents: {n}."),
        table(("layer", *sides, "by chance"), rows, "n" * (len(sides) + 2)),
    )  # fmt: skip


def _kept(row: Report) -> str:
    return figure({"value": row["overlap"], "low": row["low"], "high": row["high"]})


SECTIONS: Final[tuple[Callable[[Report], Markup], ...]] = (_experts, _causal, _drift, _rerouted)
"""In the report's order."""
