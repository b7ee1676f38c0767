"""One row an expert: where forget text goes, joined with what hangs on it where it was taken out.

Pure, from the parts' summaries. An expert that was not taken out has no effect here, which is not
an effect of 0: `ablated` says which it is.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from trace_engine.audit.names import ROLE_WORDS
from trace_engine.spelling import number

Parts = Mapping[str, Mapping[str, Any]]

LEVEL: Final = 0.05
"""Of a corrected p."""
SHOWN: Final = 20
"""So many of the largest gaps are shown; all cells are in the tables."""
MAP: Final = (
    "n_forget_documents", "n_retain_documents", "forget", "retain", "difference", "low", "high",
    "p_max", "q_bh", "null_difference", "matched_difference",
)  # fmt: skip
"""Columns of the map: shares of tokens, the gap with its interval over documents, its corrected p,
the false discovery rate, and the gap in both controls."""
MEASURES: Final = ("forget_accuracy", "utility_accuracy", "forget_loss", "utility_loss")
"""What an ablation changes: shares of right answers, and nats a token of the right answer."""
EFFECTS: Final = (
    *(f"{name}{end}" for name in MEASURES for end in ("", "_low", "_high", "_p_corrected")),
    "n_forget", "n_utility",
)  # fmt: skip
COLUMNS: Final = ("model", "layer", "expert", *MAP, "ablated", *EFFECTS)


def expert_rows(parts: Parts) -> list[dict[str, Any]]:
    """Every cell of every map, in the map's order, and ablated cells of which there is no map."""
    rows: dict[tuple[str, int, int], dict[str, Any]] = {}
    for role, model in parts.get("routing", {}).items():
        documents = model["documents"]
        for cell in model["cells"]:
            found = cell | {
                "n_forget_documents": documents["forget"],
                "n_retain_documents": documents["retain"],
            }
            rows[role, cell["layer"], cell["expert"]] = _row(role, cell, found, None)
    causal = parts.get("causal", {})
    for cell in causal.get("cells", ()):
        place = (causal["role"], cell["layer"], cell["expert"])
        rows[place] = _row(causal["role"], cell, rows.get(place, {}), cell)
    return list(rows.values())


def _row(
    role: str, cell: Mapping[str, Any], found: Mapping[str, Any], effect: Mapping[str, Any] | None
) -> dict[str, Any]:
    return {
        "model": role,
        "layer": cell["layer"],
        "expert": cell["expert"],
        **{name: found.get(name) for name in MAP},
        "ablated": effect is not None,
        **{name: None if effect is None else effect.get(name) for name in EFFECTS},
    }


def selected_experts(parts: Parts) -> list[dict[str, Any]]:
    """Of every model the largest gaps, and whatever was taken out beside them; first the model that
    had experts taken out."""
    chosen: list[dict[str, Any]] = []
    rows = expert_rows(parts)
    first = parts.get("causal", {}).get("role")
    roles = dict.fromkeys(row["model"] for row in rows)
    for role in sorted(roles, key=lambda role: role != first):
        ranked = sorted(
            (row for row in rows if row["model"] == role),
            key=lambda row: 0.0 if row["difference"] is None else -row["difference"],
        )
        chosen += [row for place, row in enumerate(ranked) if place < SHOWN or row["ablated"]]
    return chosen


def told_where(causal: Mapping[str, Any] | None, why: str) -> str:
    """In which experts, as far as taking them out one by one can say; `why` it was not done."""
    if causal is None:
        return f"In which experts: not tested ({why})."
    cells = causal["cells"]
    more = [
        cell for cell in cells
        if cell["forget_loss_p_corrected"] <= LEVEL and (cell["specific_low"] or 0.0) > 0
    ]  # fmt: skip
    n = cells[0]
    said = (
        f"In which experts: {len(cells)} of the {ROLE_WORDS.get(causal['role'], causal['role'])}, "
        f"those with the largest gaps, were taken out one by one{_how(causal)} "
        f"({n['n_forget']:,} forget questions, {n['n_utility']:,} others). "
    )
    if not more:
        said += "None of them is shown to cost the forget questions more than the others. "
    else:
        named = ", ".join(
            f"L{cell['layer']} E{cell['expert']} ({number(cell['specific'], '+.3f')})"
            for cell in sorted(more, key=lambda cell: -cell["specific"])
        )
        said += (
            f"{len(more)} of them cost the forget questions more than the others, in nats a token "
            f"of the right answer: {named}. {_beside_load(more, len(cells) - 1)} "
        )
    return said + "Of experts that were not taken out nothing is known."


def _how(causal: Mapping[str, Any]) -> str:
    """What became of the tokens of an expert that was taken out, where it is not dropped alone."""
    return ", the next best taking over" if causal.get("mode") == "reroute" else ""


def _beside_load(more: Sequence[Mapping[str, Any]], others: int) -> str:
    """Whether experts of like load cost as much; with few of them no p could be small enough."""
    if 1 / (others + 1) > LEVEL:
        return (
            f"Whether experts of like load cost as much is not known: {others} others taken out "
            f"are too few to tell (causal.experts: {round(1 / LEVEL)} or more)."
        )
    beyond = sum(cell["band_p"] is not None and cell["band_p"] <= LEVEL for cell in more)
    return (
        f"{beyond or 'None'} of these {'costs' if beyond < 2 else 'cost'} more than the experts "
        "nearest in load that were taken out too."
    )


def told_ablation(role: str, parts: Parts, why: str) -> str:
    """What was taken out of a model, and what the empty places beside a map mean."""
    causal = parts.get("causal")
    if causal is None:
        return f"No expert was taken out ({why}), so what hangs on them is not known."
    there = ROLE_WORDS.get(causal["role"], causal["role"])
    if role != causal["role"]:
        return (
            f"No expert of the {ROLE_WORDS.get(role, role)} was taken out: those of the {there} "
            "were, which still knows."
        )
    rows = [row for row in selected_experts(parts) if row["model"] == role]
    taken = [row for row in rows if row["ablated"]]
    n = taken[0]
    said = (
        f"{len(taken)} of these {len(rows)} were taken out, each by itself{_how(causal)}, and "
        f"{n['n_forget']:,} forget questions and {n['n_utility']:,} others asked again: the change "
        "of accuracy, and of the right answers' loss in nats a token (up is worse)."
    )
    if len(taken) < len(rows):
        said += " The others were not taken out; of those, nothing says what hangs on them."
    return said
