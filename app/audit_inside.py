"""An audit's experts and its tests of "erased, or re-routed", on its page: the report's own rows.

The page computes nothing. Accepted trade-off: figures stand as text with their intervals, so a
table sorts by its words.
"""

from collections.abc import Mapping
from typing import Any

import pandas as pd
import streamlit as st

from app import tables, wording
from trace_engine.audit.ablated import (
    BANDS,
    CORRECTED,
    band_rows,
    keeps_loads,
    random_rows,
    told_loads,
)
from trace_engine.audit.experts import MEASURES, selected_experts, told_ablation
from trace_engine.audit.names import ROLE_WORDS
from trace_engine.audit.retold import INTERVALS, retold
from trace_engine.spelling import number

Row = Mapping[str, Any]


def show(report: Row, summaries: Mapping[str, Row]) -> None:
    """Both sections, where the audit has their parts."""
    rows = selected_experts(summaries)
    if rows:
        st.markdown("**Experts that forget text uses more, and what hangs on them**")
        st.text(
            "Gap: share of forget tokens minus share of retain tokens, p corrected over all cells. "
            "Null: a random split of both sets. Matched: retain tokens re-drawn to the forget "
            "set's token ids. Effects of taking the expert out: p corrected over those taken out."
        )
        why = report["parts"].get("causal", {}).get("why") or "not part of this version"
        for role in dict.fromkeys(row["model"] for row in rows):
            of_model = [row for row in rows if row["model"] == role]
            st.markdown(f"*{wording.plain(ROLE_WORDS.get(role, role).capitalize())}*")
            st.text(told_ablation(role, summaries, why))
            tables.show(
                expert_table(of_model),
                f"experts-{role}",
                alt="One line an expert: gap, its controls, and what taking it out changes.",
                download=pd.DataFrame(of_model),
            )
    if "causal" in summaries and keeps_loads(summaries["causal"]):
        _together(summaries["causal"])
    if "rerouted" in summaries:
        _rerouted(summaries["rerouted"])


def _together(summary: Row) -> None:
    st.markdown("**What hangs on these experts together**")
    st.text(summary["sentence"])
    tables.show(
        pd.DataFrame(
            [
                {
                    "questions": effect["group"],
                    **{
                        f"{measure}{end}": text
                        for measure in ("accuracy", "loss")
                        for end, text in _change(effect[measure]).items()
                    },
                    "n": f"{effect['n']:,}",
                }
                for effect in summary["effects"]
            ]
        ),
        "together",
        alt="One line a group of questions: what taking all of them out changes.",
    )
    st.text(CORRECTED)
    st.text(told_loads(summary))
    if summary["bands"]:
        tables.show(
            pd.DataFrame([dict(zip(BANDS, row, strict=True)) for row in band_rows(summary)]),
            "random-sets",
            alt="One line a figure: these experts, and the range of random sets.",
            download=pd.DataFrame(random_rows(summary)),
        )


def _change(found: Row) -> dict[str, str]:
    return {"": _figure(found, "change", "low", "high", "+.3f"), ", p": _p(found["p_corrected"])}


def expert_table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """One line an expert; effects only where some of them were taken out."""
    ablated = any(row["ablated"] for row in rows)
    return pd.DataFrame([_map(row) | (_effects(row) if ablated else {}) for row in rows])


def _map(row: Row) -> dict[str, Any]:
    n = (row["n_forget_documents"], row["n_retain_documents"])
    return {
        "expert": f"L{row['layer']} E{row['expert']}",
        "gap": _figure(row, "difference", "low", "high", ".3f"),
        "p": _p(row["p_max"]),
        "null": _plain(row["null_difference"]),
        "matched": _plain(row["matched_difference"]),
        "documents": "none" if None in n else f"{n[0]:,} / {n[1]:,}",
    }


def _effects(row: Row) -> dict[str, Any]:
    if not row["ablated"]:
        return dict.fromkeys(_EFFECTS, "not taken out")
    found = {
        _NAMES[name]: f"{_figure(row, name, f'{name}_low', f'{name}_high', '+.3f')}, "
        f"p {_p(row[f'{name}_p_corrected'])}"
        for name in MEASURES
    }
    return found | {_ASKED: f"{row['n_forget']:,} / {row['n_utility']:,}"}


_NAMES = {name: name.replace("_", " ") for name in MEASURES}
_ASKED = "questions"
_EFFECTS = (*_NAMES.values(), _ASKED)


def _figure(row: Row, value: str, low: str, high: str, form: str) -> str:
    if row[value] is None:
        return "not there"
    bounds = (
        ""
        if row[low] is None or row[high] is None
        else f" [{number(row[low], form)}, {number(row[high], form)}]"
    )
    return f"{number(row[value], form)}{bounds}"


def _plain(value: float | None) -> str:
    return "not there" if value is None else number(value, ".3f")


def _p(value: float | None) -> str:
    if value is None:
        return "not there"
    return "< 0.001" if value < 0.001 else number(value, ".3f")


def _rerouted(summary: Row) -> None:
    st.markdown("**Erased, or only re-routed?**")
    if "figures" in summary:
        st.text(INTERVALS)
    for one in retold(summary):
        st.markdown(f"*{one.title}*")
        for sentence in one.sentences:
            st.text(sentence)
        if one.rows:
            tables.show(
                pd.DataFrame([dict(zip(one.header, row, strict=True)) for row in one.rows]),
                f"rerouted-{one.test}",
                alt=f"{one.title} One line a layer or a group of questions.",
                download=pd.DataFrame(
                    [row for row in summary["figures"] if row["test"] in (one.test, "plain")]
                ),
            )
