"""A table put together from answers whose figures can be told by hand."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.benchmark.cases import tiny_bench
from trace_engine.benchmark.choose import Choice
from trace_engine.benchmark.plan import RowId, Trial
from trace_engine.benchmark.report import markdown
from trace_engine.benchmark.results import Measured
from trace_engine.benchmark.settings import BenchConfig
from trace_engine.benchmark.table import ALL, Table, make_table
from trace_engine.config import SetConfig, UnlearnConfig

ROWS = {
    # Row: right of 10 general questions at the end; validation score; chosen α.
    ("a", "uniform"): (6, 0.20, 4),
    ("a", "mean"): (7, 0.90, 8),
    ("a", "shuffled"): (9, 0.99, 4),
    ("b", "uniform"): (5, 0.95, 4),
    ("b", "mean"): (8, 0.30, 4),
}
"""Validation and test disagree on who is best, and a control is best of all on both."""


def plan(folder: Path) -> BenchConfig:
    method = {"settings": {"method": "graddiff"}, "grid": {"alpha": [2, 4, 8]}}
    rules = {"uniform": "baseline", "mean": "trace", "shuffled": "control"}
    return tiny_bench(
        folder,
        methods={"a": method, "b": method | {"weightings": ["uniform", "mean"]}},
        weightings={name: {"role": role} for name, role in rules.items()},
        levels=[0.5],
        area=[0.5, 0.9],
        seeds=1,
    )


def marks(right: int) -> str:
    return "1" * right + "0" * (10 - right)


def result(right: int, seconds: float) -> dict[str, Any]:
    """Everything known at step 0; at step 10 half of hazard, and so much of the rest."""
    known = {"hazard": (10, 5), "general": (10, right)}
    return {
        "failed": None, "selected": 2, "ess_share": None, "hardness": None,
        "evaluations": [
            {
                "step": step,
                "right": {group: marks(of[at]) for group, of in known.items()},
                "overlap": (1.0, 0.75)[at],
                "seconds": at * seconds,
            }
            for at, step in enumerate((0, 10))
        ],
    }  # fmt: skip


@pytest.fixture
def table(tmp_path: Path) -> Table:
    config = plan(tmp_path)
    chosen: dict[RowId, Choice] = {}
    measured: list[Measured] = []
    settings = UnlearnConfig(forget=SetConfig(source="f"), retain=SetConfig(source="r"))
    for number, ((method, weighting), (right, score, alpha)) in enumerate(ROWS.items()):
        row, point = RowId("plain", method, weighting), {"alpha": alpha}
        chosen[row] = Choice(0, point, score, (score, None), (0.4, 0.6))
        trial = Trial(row, "test", 0, point, 0, settings, f"{number}", {})
        measured.append((trial, result(right, 10.0 * (number + 1))))
    facts = {
        "questions": {"hazard": 10, "general": 10},
        "fingerprints": {"plain": {"model": "0" * 64}},
        "retain": {"plain": {"documents": 3, "covered": {"general": 0.5}}},
        "not_computed": [],
    }
    return make_table(config, chosen, measured, facts, [])


def figure(table: Table, method: str, weighting: str, measure: str, group: str) -> pd.Series:
    frame = table.figures
    [(_, found)] = frame[
        (frame["method"] == method)
        & (frame["weighting"] == weighting)
        & (frame["measure"] == measure)
        & (frame["group"] == group)
    ].iterrows()
    return found


def test_every_difference_is_to_the_methods_own_uniform_row(table: Table) -> None:
    found = {row: figure(table, *row, "utility", ALL) for row in ROWS}
    assert {row: line["value"] for row, line in found.items()} == pytest.approx(
        {row: right / 10 for row, (right, _, _) in ROWS.items()}
    )
    assert {
        row: line["difference_value"] for row, line in found.items() if row[1] != "uniform"
    } == pytest.approx({("a", "mean"): 0.1, ("a", "shuffled"): 0.3, ("b", "mean"): 0.3})
    assert pd.isna([found[method, "uniform"]["difference_value"] for method in "ab"]).all()
    # Read at the same place of the path.
    assert figure(table, "a", "mean", "forget", "hazard")["value"] == 0.5
    assert figure(table, "a", "mean", "steps", "")["value"] == 10
    seconds = figure(table, "b", "mean", "train seconds", "")
    assert seconds["value"] == 50
    assert pd.isna(seconds["difference_value"])


def test_the_headline_is_picked_by_validation_and_controls_compete_for_nothing(
    table: Table,
) -> None:
    (found,) = table.headlines
    assert (found["trace"], found["baseline"]) == (["a", "mean"], ["b", "uniform"])
    assert found["value"] == pytest.approx(0.7 / 0.5 - 1)


def test_rows_at_other_settings_and_at_an_end_of_the_grid_are_told(
    table: Table, tmp_path: Path
) -> None:
    rows = {(row["method"], row["weighting"]): row for row in table.rows}
    assert [key for key, row in rows.items() if row["own_settings"]] == [("a", "mean")]
    assert {key: row["at_the_end"] for key, row in rows.items() if row["at_the_end"]} == {
        ("a", "mean"): ["alpha"]
    }
    text = markdown(plan(tmp_path), table)
    (line,) = [line for line in text.splitlines() if line.startswith("| a | mean | 0.700")]
    assert line.split("|")[4].strip().endswith("†")
    assert text.count("† Chosen at other settings") == 1
    assert '| a | mean | `{"alpha": 8}` | alpha | 0.900 |' in text
    assert '| b | mean | `{"alpha": 4}` | none | 0.300 |' in text
