"""Weightings compared at the same settings: pairs, and nothing else."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.benchmark.cases import tiny_bench
from trace_engine.benchmark import plan
from trace_engine.benchmark.materials import contents
from trace_engine.benchmark.results import Measured
from trace_engine.benchmark.same_settings import same_settings
from trace_engine.benchmark.settings import BenchConfig


def path(*places: tuple[int, int]) -> list[dict[str, Any]]:
    """Evaluations with so many of ten hazard and of ten general questions right."""
    return [
        {"right": {group: "1" * n + "0" * (10 - n) for group, n in zip(GROUPS, place, strict=True)}}
        for place in places
    ]


GROUPS = ("hazard", "general")
START = (10, 10)
LOST = path(START, (9, 9))
"""Never comes down to 0.4."""


def tuned(config: BenchConfig, folder: Path, **paths: list[list[dict[str, Any]]]) -> list[Measured]:
    """The tuning runs of every row with these evaluations, in the order of setting and seed."""
    materials = contents(config, folder, "validation")
    return [
        (trial, {"failed": None, "evaluations": evaluations})
        for row in plan.rows_of(config)
        for trial, evaluations in zip(
            plan.tuning(config, materials, row), paths[row.weighting], strict=True
        )
    ]


def only_line(frame: pd.DataFrame) -> dict[str, Any]:
    (line,) = frame.to_dict("records")
    return {str(name): value for name, value in line.items()}


def test_a_difference_is_the_mean_over_the_pairs_that_both_reach(tmp_path: Path) -> None:
    config = tiny_bench(tmp_path, tuning_seeds=2, levels=(0.4,))
    found = tuned(
        config,
        tmp_path,
        uniform=[path(START, (1, 5)), path(START, (1, 6)), LOST, path(START, (1, 7))],
        mean=[path(START, (1, 8)), path(START, (1, 4)), path(START, (1, 9)), LOST],
    )
    line = only_line(same_settings(config, found))
    # A path from (1, 1) to (0.1, u) is at 1 − 2/3 (1 − u) where forget accuracy is 0.4.
    assert line["value"] == pytest.approx(2 / 3 * ((0.8 - 0.5) + (0.4 - 0.6)) / 2)
    assert (line["pairs"], line["both"], line["higher"]) == (4, 2, 1)
    assert (line["only_this"], line["only_compared"]) == (1, 1)
    assert line["low"] < line["value"] < line["high"]
    assert (line["weighting"], line["role"], line["level"]) == ("mean", "trace", 0.4)


def test_the_same_runs_differ_by_nothing_whatever_is_drawn(tmp_path: Path) -> None:
    config = tiny_bench(tmp_path, levels=(0.4,))
    same = [path(START, (1, 5)), path(START, (0, 6))]
    line = only_line(same_settings(config, tuned(config, tmp_path, uniform=same, mean=same)))
    assert (line["value"], line["low"], line["high"], line["higher"]) == (0, 0, 0, 0)


def test_one_pair_has_no_interval_and_none_has_no_difference(tmp_path: Path) -> None:
    config = tiny_bench(tmp_path, levels=(0.4,))
    reached = path(START, (4, 5))
    one = tuned(config, tmp_path, uniform=[reached, reached], mean=[path(START, (4, 6)), LOST])
    line = only_line(same_settings(config, one))
    assert line["value"] == pytest.approx(0.1)
    assert pd.isna(line["low"])
    assert pd.isna(line["high"])
    none = tuned(config, tmp_path, uniform=[reached, LOST], mean=[LOST, reached])
    line = only_line(same_settings(config, none))
    assert (line["pairs"], line["both"], line["only_this"], line["only_compared"]) == (2, 0, 1, 1)
    assert pd.isna(line["value"])


def test_a_failed_run_reaches_nothing(tmp_path: Path) -> None:
    config = tiny_bench(tmp_path, levels=(0.4,))
    reached = path(START, (4, 5))
    found = tuned(config, tmp_path, uniform=[reached, reached], mean=[reached, reached])
    trial, _ = found[-1]
    found[-1] = (trial, {"failed": "diverged", "evaluations": []})
    line = only_line(same_settings(config, found))
    assert (line["both"], line["only_compared"]) == (1, 1)
