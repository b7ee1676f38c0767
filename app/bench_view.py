"""Compare's view of the committed table: what `trace-moe bench` found on the bundled pack.

It reads the table's files and computes nothing. A checkout without a table says how to make one.
"""

from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from app import tables, wording
from trace_engine import formats
from trace_engine.benchmark import BenchConfig, bundled_bench
from trace_engine.bundled import PACK
from trace_engine.disk import read_json
from trace_engine.errors import RunError
from trace_engine.spelling import NBSP, NINETY_FIVE, number

FOLDER = PACK / "benchmark"
ALL = "all but forget"
COMMAND = "trace-moe bench --pack demo --seeds 5 --workers 2 --out benchmark"


def read(folder: Path) -> tuple[pd.DataFrame, dict[str, Any]] | None:
    """Figures and summary of a table, or None when there is none. Raises RunError for one that a
    newer version wrote."""
    summary = read_json(folder / "table.json")
    if summary is None or not (folder / "table.csv").is_file():
        return None
    formats.require_known(summary, formats.TABLE, "The table", RunError)
    return pd.read_csv(folder / "table.csv", keep_default_na=True), summary


def lines(figures: pd.DataFrame, summary: dict[str, Any]) -> pd.DataFrame:
    """One line per row of the table: utility at matched forgetting and its paired difference."""
    level = summary["config"]["levels"][0]
    found = []
    for row in summary["rows"]:
        line = {name: row[name] for name in ("retain", "method", "weighting")}
        same = figures[
            (figures["retain"] == row["retain"])
            & (figures["method"] == row["method"])
            & (figures["weighting"] == row["weighting"])
            & (figures["measure"] == "utility")
            & (figures["group"] == ALL)
            & (figures["level"] == level)
        ]
        figure = None if same.empty else same.iloc[0]
        line["utility"] = None if figure is None else figure["value"]
        line["95 % CI"] = _interval(figure, "")
        line["difference"] = None if figure is None else figure["difference_value"]
        line["difference 95 % CI"] = _interval(figure, "difference_")
        found.append(line | {"seeds": f"{row['reached']} of {row['seeds']}"})
    return pd.DataFrame(found)


def same_lines(same: pd.DataFrame) -> pd.DataFrame:
    """One line per row that is compared at the same settings."""
    found = [
        {
            "retain": row["retain"],
            "method": row["method"],
            "weighting": row["weighting"],
            "difference": row["value"],
            "95 % CI": _interval(row, ""),
            "higher in": f"{row['higher']} of {row['both']}",
            "only one forgot": row["only_this"] + row["only_compared"],
        }
        for _, row in same.iterrows()
    ]
    return pd.DataFrame(found)


def _interval(figure: Any, prefix: str) -> str:
    if figure is None or pd.isna(figure[f"{prefix}low"]):
        return ""
    return f"{figure[f'{prefix}low']:.3f} to {figure[f'{prefix}high']:.3f}"


def not_computed(config: dict[str, Any], plan: BenchConfig) -> str:
    """What the pack's plan has and this table lacks, as a sentence; empty when nothing."""
    lacks = [
        f"{what} {', '.join(missing)}"
        for what, there, wanted in (
            ("methods", config["methods"], plan.methods),
            ("retain sets", config["retain"], plan.retain),
        )
        if (missing := [name for name in wanted if name not in there])
    ]
    return f"Of the pack's plan not computed yet: {'; '.join(lacks)}." if lacks else ""


def headline(found: dict[str, Any]) -> str:
    """A retain set's headline as a sentence."""
    if found.get("value") is None:
        return (
            f"{found['retain']}: no row with TRACE, or no baseline, forgets far enough to compare."
        )
    trace, baseline = (" with ".join(found[role]) for role in ("trace", "baseline"))
    gain, low, high = (
        None if found[name] is None else number(100 * found[name], "+.1f")
        for name in ("value", "low", "high")
    )
    interval = "no interval" if low is None else f"{NINETY_FIVE} interval {low} to {high}"
    return f"{found['retain']}: {trace} against {baseline}: {gain}{NBSP}% ({interval})."


def draw(folder: Path = FOLDER) -> None:
    """The section of the page."""
    st.subheader("Across methods and seeds")
    loaded = read(folder)
    if loaded is None:
        st.caption(
            "Not computed in this checkout. One run a setting cannot tell a gain from chance; this "
            "command makes the table, in hours, and goes on where it was stopped:"
        )
        st.code(COMMAND, language="sh")
        return
    figures, summary = loaded
    config = summary["config"]
    st.caption(
        f"Test utility where forget accuracy has come down to {config['levels'][0]:g}, mean over "
        f"seeds; the difference is to {config['compare_to']} weights, paired by seed and question. "
        "Hyperparameters were chosen on validation questions. Relative gain of the best row with "
        "TRACE over the strongest baseline:"
    )
    for found in summary["headlines"]:
        st.markdown(wording.plain(headline(found)))
    lacking = not_computed(config, bundled_bench())
    if lacking:
        st.caption(lacking)
    tables.show(
        lines(figures, summary),
        "benchmark",
        alt="One line per retain set, method and weighting: utility at matched forgetting with "
        "interval, and the paired difference to the compared weighting.",
        column_config=tables.numbers("utility", "difference"),
        missing="–",
    )
    _draw_same(folder, config)


def _draw_same(folder: Path, config: dict[str, Any]) -> None:
    """The comparison in which nothing is chosen; a table of an earlier version has none."""
    if not (folder / "same-settings.csv").is_file():
        return
    same = pd.read_csv(folder / "same-settings.csv")
    if same.empty:
        return
    st.markdown("**At the same settings**")
    st.caption(
        "The table above compares settings that were chosen for each row, and a lucky choice can "
        f"look like a gain. Here every tuning run stands against the one with "
        f"{config['compare_to']} weights that shares its settings and its seed: validation "
        f"utility at forget accuracy {config['levels'][0]:g}, mean over pairs. Pairs in which one "
        "of the two never forgot so far have no difference and are counted in the last column."
    )
    tables.show(
        same_lines(same),
        "benchmark-same",
        alt="One line per weighting: paired difference of utility at the same settings with "
        "interval, in how many pairs it is higher, and pairs without a difference.",
        column_config=tables.numbers("difference"),
        missing="no pair",
    )
