"""Compare's section on the table of methods: a made table, and none."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

from app import bench_view
from tests.app.conftest import ROOT
from tests.benchmark.cases import tiny_bench
from trace_engine.benchmark import bundled_bench, run_table
from trace_engine.benchmark.table import ALL


def test_a_table_that_the_command_made_is_shown_as_it_is(tmp_path: Path) -> None:
    table = run_table(tiny_bench(tmp_path), tmp_path / "out").table
    loaded = bench_view.read(tmp_path / "out")
    assert loaded is not None
    assert bench_view.ALL == ALL
    shown = bench_view.lines(*loaded)
    assert list(shown["weighting"]) == ["uniform", "mean"]
    figures = table.figures.query("measure == 'utility' and level == 0.9 and group == @ALL")
    assert list(shown["utility"]) == pytest.approx(list(figures["value"]), abs=1e-4)
    assert list(shown["seeds"]) == ["2 of 2", "2 of 2"]
    assert shown["difference 95 % CI"].iloc[0] == ""
    assert " to " in shown["difference 95 % CI"].iloc[1]
    same = bench_view.same_lines(pd.read_csv(tmp_path / "out" / "same-settings.csv"))
    assert list(same["weighting"]) == ["mean"]
    assert same["higher in"].iloc[0].endswith(" of 2")
    assert same["difference"].iloc[0] == pytest.approx(table.same["value"].iloc[0], abs=1e-4)


def test_the_page_shows_both_comparisons(
    tmp_path: Path,
    bundled: object,
    open_page: Callable[..., AppTest],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run_table(tiny_bench(tmp_path), tmp_path / "out")
    monkeypatch.setattr(bench_view.draw, "__defaults__", (tmp_path / "out",))
    app = open_page("compare")
    assert not app.exception
    shown = [set(frame.value.columns) for frame in app.dataframe]
    assert any({"utility", "difference 95 % CI", "seeds"} <= columns for columns in shown)
    assert any({"higher in", "only one forgot"} <= columns for columns in shown)
    # An earlier version's table has one comparison and is shown too.
    (tmp_path / "out" / "same-settings.csv").unlink()
    app = open_page("compare")
    assert not app.exception
    assert not any("higher in" in frame.value.columns for frame in app.dataframe)


def test_headlines_are_sentences_with_and_without_a_number() -> None:
    known = {
        "retain": "mixed", "trace": ["npo", "exact"], "baseline": ["npo", "uniform"],
        "value": 0.0312, "low": -0.01, "high": 0.07,
    }  # fmt: skip
    text = bench_view.headline(known)
    assert text.startswith(
        "mixed: npo with exact against npo with uniform: +3.1\N{NO-BREAK SPACE}%"
    )
    assert "\N{MINUS SIGN}1.0 to +7.0" in text
    assert "no row with TRACE" in bench_view.headline({"retain": "prose", "value": None})


def test_without_a_table_the_page_says_how_to_make_one(
    bundled: object, open_page: Callable[..., AppTest], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_view.draw, "__defaults__", (Path("no-such-folder"),))
    app = open_page("compare")
    assert not app.exception
    assert any(block.value == bench_view.COMMAND for block in app.code)


def test_what_the_bundled_table_lacks_is_said() -> None:
    plan = bundled_bench()
    loaded = bench_view.read(bench_view.FOLDER)
    assert loaded is not None
    config = loaded[1]["config"]
    told = bench_view.not_computed(config, plan)
    for name in (*plan.methods, *plan.retain):
        there = name in config["methods"] or name in config["retain"]
        assert (f" {name}" in told.replace(",", " ").replace(".", " ")) is not there
    everything = {"methods": plan.methods, "retain": plan.retain}
    assert bench_view.not_computed(everything, plan) == ""


def test_the_bundled_table_and_its_page_are_of_the_same_numbers() -> None:
    """docs/benchmark.md is what `trace-moe bench` wrote beside the table that Compare shows."""
    loaded = bench_view.read(bench_view.FOLDER)
    assert loaded is not None
    page = (ROOT / "docs" / "benchmark.md").read_text(encoding="utf-8")
    for found in loaded[1]["headlines"]:
        assert bench_view.headline(found).split(":")[0] in page
    shown = bench_view.lines(*loaded)
    for _, row in shown.iterrows():
        cells = f"| {row['method']} | {row['weighting']} | {row['utility']:.3f}"
        assert cells in page, cells
