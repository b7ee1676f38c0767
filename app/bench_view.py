"""Compare's view of the committed tables: what `trace-moe bench` found on the bundled pack, and
when weights help.

It reads the tables' files and computes nothing. A checkout without a table says how to make one.
"""

from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from app import bench_figure, charts, tables, wording
from trace_engine import formats
from trace_engine.benchmark import BenchConfig, bundled_bench
from trace_engine.benchmark.plan import rows_of as plan_rows
from trace_engine.benchmark.report import left_out
from trace_engine.benchmark.settings import checked
from trace_engine.bundled import PACK
from trace_engine.disk import read_json
from trace_engine.errors import RunError
from trace_engine.spelling import NBSP, NINETY_FIVE, number

FOLDER = PACK / "benchmark"
EXPLORED = {
    "strength": "How strongly the retain term holds, from α 1 to 16: GradDiff on the mixed retain "
    "set.",
    "facts": f"How much of the retain text is like what is forgotten: from prose alone (0{NBSP}%) "
    f"to facts alone (100{NBSP}%), GradDiff at fixed settings.",
    "weights": "How many experts are selected, which rule, how hard and how clipped: GradDiff at "
    "fixed settings, on the mixed retain set.",
}
"""Tables in folders of their own inside it: when weights help, asked on validation questions."""
ALL = "all but forget"
OWN = "†"
"""Marks a row whose chosen settings of the method are not those of the compared row."""
COMMAND = "trace-moe bench --pack demo --seeds 5 --out benchmark"


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
        line["settings"] = OWN if row.get("own_settings") else ""
        found.append(line | {"seeds": f"{row['reached']} of {row['seeds']}"})
    return pd.DataFrame(found)


def differences(figures: pd.DataFrame, summary: dict[str, Any]) -> pd.DataFrame:
    """Per row with TRACE weights or a control, the paired difference of utility at the first level:
    label, role, value, low, high. Rows that never forget so far are left out.
    """
    config = summary["config"]
    shown = figures[
        (figures["measure"] == "utility")
        & (figures["group"] == ALL)
        & (figures["level"] == config["levels"][0])
        & (figures["weighting"] != config["compare_to"])
        & figures["difference_value"].notna()
    ]
    named = [name for name in ("retain", "method") if figures[name].nunique() > 1]
    keys = ("retain", "method", "weighting")
    own = {tuple(row[k] for k in keys) for row in summary["rows"] if row.get("own_settings")}
    return pd.DataFrame(
        {
            "label": [" · ".join(row[name] for name in (*named, "weighting"))
                      + (f" {OWN}" if tuple(row[k] for k in keys) in own else "")
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
    lacking = not_computed(summary, bundled_bench())
    if lacking:
        st.caption(lacking)
    _draw_differences(figures, summary, "Utility kept at matched forgetting", "benchmark")
    tables.show(
        lines(figures, summary),
        "benchmark",
        alt="One line per retain set, method and weighting: utility at matched forgetting with "
        "interval, and the paired difference to the compared weighting.",
        column_config=tables.numbers("utility", "difference"),
        missing="–",
    )
    _draw_same(folder, config)
    _draw_explored(folder)


def _draw_differences(
    figures: pd.DataFrame, summary: dict[str, Any], heading: str, name: str
) -> None:
    config = summary["config"]
    found = differences(figures, summary)
    told = verdict(found, config["compare_to"])
    if any(label.endswith(OWN) for label in found["label"]):
        told += (
            f" {OWN}: chosen at other settings of the method than {config['compare_to']}, so the "
            "difference is one of settings too; “at the same settings” has it without."
        )
    rules = sorted(set(checked(config, "the table").controlled.values()))
    if rules and "control" in set(found["role"]):
        told += f" Controls stand in the place of {' and '.join(rules)}, and not of other rules."
    if found.empty:
        st.markdown(told)
        return
    charts.show(
        bench_figure.difference_figure(
            found,
            f"{heading}: difference to {config['compare_to']} weights ({NINETY_FIVE} interval)",
            "difference in utility",
        ),
        name=name,
        alt="One dot per row: the paired difference to the compared weighting, with its interval.",
        caption=told,
    )


def _draw_explored(folder: Path) -> None:
    """Tables that vary one thing at a time; a folder without them has nothing to show."""
    loaded = {name: read(folder / name) for name in EXPLORED}
    if not any(loaded.values()):
        return
    st.markdown("**When do weights help?**")
    st.caption(
        "Explored on validation questions, so it says where to look and proves nothing. What it "
        "comes to is in docs/benchmark.md."
    )
    for name, table in loaded.items():
        if table is not None:
            st.caption(EXPLORED[name])
            heading = str(table[1]["config"]["name"])
            _draw_differences(*table, heading, f"benchmark-{name}")


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
