"""MUSE and TOFU on the page of an audit: every model's figures in a table, and what each says."""

from typing import Any

import pandas as pd
import streamlit as st

from app import tables
from trace_engine.audit.names import NAMES, ROLE_WORDS
from trace_engine.audit.published_section import BESIDE_FINDING, Line, lines, meanings, reasons
from trace_engine.audit.settings import PUBLISHED

_LINE = 35
"""Pixels of a table's line; every line is seen without scrolling."""


def show(report: dict[str, Any]) -> None:
    """Both, where the audit has them."""
    there = [name for name in PUBLISHED if report["parts"].get(name, {}).get("done")]
    for name in there:
        found = lines(report["parts"][name]["summary"])
        st.markdown(f"**{NAMES[name]}**")
        tables.show(
            _table(found, list(report["models"])),
            name,
            alt=f"Figures of {NAMES[name]}, one line a measure, one column a model",
            height=_LINE * (len(found) + 1) + 3,
        )
        for sentence in reasons(found):
            st.text(f"• {sentence}")
        with st.expander(f"What the figures of {NAMES[name]} say", icon=":material/help:"):
            for sentence in meanings(found):
                st.text(f"• {sentence}")
    if there:
        st.caption(BESIDE_FINDING)


def _table(found: list[Line], roles: list[str]) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "measure": line.measure,
                **({"set": line.on} if any(line.on for line in found) else {}),
                "n": line.count,
                **{ROLE_WORDS.get(role, role): line.cell(role) for role in roles},
            }
            for line in found
        ]
    )
