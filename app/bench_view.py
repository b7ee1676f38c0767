"""Compare's view of tables: what `trace-moe bench` found, on the bundled pack or on one's own, and
when weights help.

It reads the tables' files and computes nothing. A checkout without a table says how to make one.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from app import bench_figure, charts, state, tables, wording
from trace_engine.benchmark import (
    BenchConfig,
    StoredTable,
    bundled_bench,
    list_tables,
    read_table,
)
from trace_engine.benchmark.plan import rows_of as plan_rows
from trace_engine.benchmark.report import left_out
from trace_engine.bundled import PACK
from trace_engine.errors import TraceError
from trace_engine.spelling import NBSP, NINETY_FIVE, number

FOLDER = PACK / "benchmark"
EXPLORED = {
    "strength": "How strongly the retain term holds, from α 1 to 16: GradDiff on the mixed retain "
    "set.",
    "facts": f"How much of the retain text is like what is forgotten: from prose alone (0{NBSP}%) "
    f"to facts alone (100{NBSP}%), GradDiff at fixed settings.",
    "size": "How large the retain set is, from 250 documents to 4,006: GradDiff at fixed settings, "
    f"15{NBSP}% facts in each.",
    "weights": "How many experts are selected, which rule, how hard and how clipped: GradDiff at "
    "fixed settings, on the mixed retain set.",
}
"""Tables in folders of their own inside it: when weights help, asked on validation questions."""
ALL = "all but forget"
ROW = ("retain", "method", "weighting")
"""What names a row of a table."""
OWN = "†"
"""Marks a row whose chosen settings of the method are not those of the compared row."""
COMMAND = "trace-moe bench --pack demo --seeds 5"
OWN_COMMAND = (
    "trace-moe config --kind bench > my-table.yaml\ntrace-moe bench --config my-table.yaml"
)
MANY_ROWS = 24
"""So many are one figure; beyond, each retain set has its own."""
BUNDLED = ""
"""Stands for the bundled pack's table among the names of the home's."""


def lines(table: StoredTable) -> pd.DataFrame:
    """One line per row of the table: utility at matched forgetting and its paired difference."""
    known = {tuple(row[key] for key in ROW): row for _, row in _matched(table).iterrows()}
    found = []
    for row in table.summary["rows"]:
        line = {name: row[name] for name in ROW}
        figure = known.get(tuple(line.values()))
        line["utility"] = None if figure is None else figure["value"]
        line["95 % CI"] = _interval(figure, "")
        line["difference"] = None if figure is None else figure["difference_value"]
        line["difference 95 % CI"] = _interval(figure, "difference_")
        line["settings"] = OWN if row.get("own_settings") else ""
        found.append(line | {"seeds": f"{row['reached']} of {row['seeds']}"})
    return pd.DataFrame(found)


def _matched(table: StoredTable) -> pd.DataFrame:
    """Utility over all groups at the first level, one line a row of the table."""
    figures = table.figures
    return figures[
        (figures["measure"] == "utility")
        & (figures["group"] == ALL)
        & (figures["level"] == table.config.levels[0])
    ]


def differences(table: StoredTable) -> pd.DataFrame:
    """Per row with TRACE weights or a control, the paired difference of utility at the first level:
    label, role, value, low, high. Rows that never forget so far are left out.
    """
    figures, matched = table.figures, _matched(table)
    shown = matched[
        (matched["weighting"] != table.config.compare_to) & matched["difference_value"].notna()
    ]
    named = [name for name in ("retain", "method") if figures[name].nunique() > 1]
    own = {tuple(row[k] for k in ROW) for row in table.summary["rows"] if row.get("own_settings")}
    return pd.DataFrame(
        {
            "label": [" · ".join(row[name] for name in (*named, "weighting"))
                      + (f" {OWN}" if tuple(row[k] for k in ROW) in own else "")
                      for _, row in shown.iterrows()],
            "role": shown["role"],
            "value": shown["difference_value"],
            "low": shown["difference_low"],
            "high": shown["difference_high"],
        }
    )  # fmt: skip


def verdict(found: pd.DataFrame, compared: str) -> str:
    """How many rows lie above, below and on neither side of zero, as a sentence."""
    parts = []
    for role, what in (("trace", "with TRACE weights"), ("control", "with a control")):
        part = found[found["role"] == role]
        if part.empty:
            continue
        above, below = int((part["low"] > 0).sum()), int((part["high"] < 0).sum())
        unknown = int(part["low"].isna().sum())
        parts.append(
            f"of {len(part)} {'row' if len(part) == 1 else 'rows'} {what}, {above} "
            f"{'keeps' if above == 1 else 'keep'} more than {compared} weights beyond the "
            f"interval, {below} {'keeps' if below == 1 else 'keep'} less"
            + (f", {unknown} {'has' if unknown == 1 else 'have'} no interval" if unknown else "")
        )
    if not parts:
        return "No row forgets far enough to compare."
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}. One in twenty would by chance."


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
    return " to ".join(number(figure[f"{prefix}{end}"], ".3f") for end in ("low", "high"))


def not_computed(summary: dict[str, Any], plan: BenchConfig) -> str:
    """What the pack's plan has and this table lacks, as a sentence; empty when nothing."""
    there = {(row["retain"], row["method"], row["weighting"]) for row in summary["rows"]}
    missing = [row for row in plan_rows(plan) if row not in there]
    lacks = left_out(missing, {(retain, method) for retain, method, _ in there})
    return f"Of the pack's plan not computed yet: {lacks}." if lacks else ""


def headline(found: dict[str, Any]) -> str:
    """A retain set's headline as a sentence."""
    if found.get("value") is None:
        return (
            f"{found['retain']}: no row with TRACE, or no baseline, forgets far enough to compare."
        )
    trace, baseline = (" with ".join(found[role]) for role in ("trace", "baseline"))
    gain, low, high = (
        None if found.get(name) is None else number(100 * found[name], "+.1f")
        for name in ("value", "low", "high")
    )
    interval = "no interval" if low is None else f"{NINETY_FIVE} interval {low} to {high}"
    return f"{found['retain']}: {trace} against {baseline}: {gain}{NBSP}% ({interval})."


def draw() -> None:
    """The section of the page: the bundled pack's table, or one of the home's."""
    st.subheader("Across methods and seeds")
    own: dict[str, Path] = {}
    try:
        own = list_tables()
        name = _pick(list(own)) if own else BUNDLED
        folder = own.get(name, FOLDER)
        table = read_table(folder)
        if table is None:
            st.caption(
                "Not computed in this checkout. One run a setting cannot tell a gain from chance; "
                "this command makes the table, in hours, and goes on where it was stopped:"
            )
            st.code(COMMAND, language="sh")
            return
        if name == BUNDLED:
            _draw_finding(folder)
        _draw_table(table, bundled=name == BUNDLED)
        if name == BUNDLED:
            _draw_explored(folder)
    except TraceError as error:
        st.warning(wording.plain(f"This table cannot be read: {error}"), icon=":material/warning:")
    if not own:
        st.caption(
            "For a table of your own model, sets and questions, edit the pack's plan and run it; "
            "it appears here when it is done:"
        )
        st.code(OWN_COMMAND, language="sh")


def _pick(own: list[str]) -> str:
    names = [BUNDLED, *own]
    state.bound("compare_table", BUNDLED, names)
    return st.selectbox(
        "Table",
        names,
        format_func=lambda name: name or "Bundled pack",
        key="compare_table",
        help="Tables that `trace-moe bench` has written under the data folder.",
    )


def _draw_finding(folder: Path) -> None:
    """What the bundled pack's tables come to, in the words of docs/benchmark.md."""
    found = folder / "finding.md"
    if found.is_file():
        st.markdown(found.read_text(encoding="utf-8"))


def _draw_table(table: StoredTable, *, bundled: bool) -> None:
    config = table.config
    if not bundled:
        st.markdown(f"**{wording.plain(config.name or 'A table without a name')}**")
    st.caption(
        f"Test utility where forget accuracy has come down to {config.levels[0]:g}, mean over "
        f"seeds; the difference is to {wording.plain(config.compare_to)} weights, paired by seed "
        "and question. Hyperparameters were chosen on validation questions. Relative gain of the "
        "best row with TRACE over the strongest baseline:"
    )
    for found in table.summary["headlines"]:
        st.markdown(wording.plain(headline(found)))
    lacking = not_computed(table.summary, bundled_bench()) if bundled else ""
    if lacking:
        st.caption(lacking)
    _draw_differences(_one_set(table), "Utility kept at matched forgetting", "benchmark")
    tables.show(
        lines(table),
        "benchmark",
        alt="One line per retain set, method and weighting: utility at matched forgetting with "
        "interval, and the paired difference to the compared weighting.",
        column_config=tables.numbers("utility", "difference"),
        missing="–",
    )
    _draw_same(table)


def _one_set(table: StoredTable) -> StoredTable:
    """Of a table with more rows than one figure holds legibly, the rows of the chosen retain set;
    how all rows come out is said above."""
    everything, sets = differences(table), list(table.config.retain)
    if len(everything) <= MANY_ROWS or len(sets) == 1:
        return table
    st.markdown(wording.plain(f"All retain sets: {verdict(everything, table.config.compare_to)}"))
    state.bound("compare_set", sets[0], sets)
    chosen = st.segmented_control(
        "Retain set", sets, key="compare_set", required=True, format_func=wording.plain
    )
    return replace(table, figures=table.figures[table.figures["retain"] == chosen])


def _draw_differences(table: StoredTable, heading: str, name: str) -> None:
    compared = table.config.compare_to
    found = differences(table)
    told = verdict(found, compared)
    if any(label.endswith(OWN) for label in found["label"]):
        told += (
            f" {OWN}: chosen at other settings of the method than {compared}, so the "
            "difference is one of settings too; “at the same settings” has it without."
        )
    rules = sorted(set(table.config.controlled.values()))
    if rules and "control" in set(found["role"]):
        told += f" Controls stand in the place of {' and '.join(rules)}, and not of other rules."
    if found.empty:
        st.markdown(wording.plain(told))
        return
    charts.show(
        bench_figure.difference_figure(
            found,
            f"{heading}: difference to {compared} weights ({NINETY_FIVE} interval)",
            "difference in utility",
        ),
        name=name,
        alt="One dot per row: the paired difference to the compared weighting, with its interval.",
        caption=told,
    )


def _draw_explored(folder: Path) -> None:
    """Tables that vary one thing at a time; a folder without them has nothing to show."""
    loaded = {name: read_table(folder / name) for name in EXPLORED}
    if not any(loaded.values()):
        return
    st.markdown("**When do weights help?**")
    st.caption("Explored on validation questions, so it says where to look and proves nothing.")
    for name, table in loaded.items():
        if table is not None:
            st.caption(EXPLORED[name])
            _draw_differences(table, table.config.name, f"benchmark-{name}")


def _draw_same(table: StoredTable) -> None:
    """The comparison in which nothing is chosen; a table of an earlier version has none."""
    if table.same.empty:
        return
    st.markdown("**At the same settings**")
    st.caption(
        "The table above compares settings that were chosen for each row, and a lucky choice can "
        f"look like a gain. Here every tuning run stands against the one with "
        f"{wording.plain(table.config.compare_to)} weights that shares its settings and its seed: "
        f"validation utility at forget accuracy {table.config.levels[0]:g}, mean over pairs. Pairs "
        "in which one of the two never forgot so far have no difference and are counted in the "
        "last column."
    )
    tables.show(
        same_lines(table.same),
        "benchmark-same",
        alt="One line per weighting: paired difference of utility at the same settings with "
        "interval, in how many pairs it is higher, and pairs without a difference.",
        column_config=tables.numbers("difference"),
        missing="no pair",
    )
