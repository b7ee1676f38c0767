"""Compare's section on the table of methods: a made table, and none."""

import errno
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

from app import bench_figure, bench_view, wording
from app.bench_view import OWN
from tests.app.conftest import ROOT
from tests.benchmark.cases import tiny_bench
from trace_engine.benchmark import bundled_bench, list_tables, read_table, run_table
from trace_engine.benchmark.stored import default_folder
from trace_engine.benchmark.table import ALL
from trace_engine.errors import RunError
from trace_engine.spelling import NBSP, number


def test_a_table_that_the_command_made_is_shown_as_it_is(tmp_path: Path) -> None:
    table = run_table(tiny_bench(tmp_path), tmp_path / "out").table
    loaded = read_table(tmp_path / "out")
    assert loaded is not None
    assert bench_view.ALL == ALL
    shown = bench_view.lines(loaded)
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
    monkeypatch.setattr(bench_view, "FOLDER", tmp_path / "out")
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


def test_every_compared_row_is_a_dot_and_the_sentence_counts_them(tmp_path: Path) -> None:
    found = pd.DataFrame(
        [
            ("mixed · npo · mean", "trace", 0.05, 0.01, 0.09),
            ("mixed · npo · exact", "trace", -0.02, -0.05, 0.01),
            ("mixed · npo · odds", "trace", -0.07, None, None),
            ("mixed · npo · shuffled", "control", -0.06, -0.09, -0.02),
        ],
        columns=["label", "role", "value", "low", "high"],
    )
    assert bench_view.verdict(found, "uniform") == (
        "Of 3 rows with TRACE weights, 1 keeps more than uniform weights beyond the interval, 0 "
        "keep less, 1 has no interval; of 1 row with a control, 0 keep more than uniform weights "
        "beyond the interval, 1 keeps less. One in twenty would by chance."
    )
    figure = bench_figure.difference_figure(found, "Kept", "difference")
    trace, control = figure.data
    assert [*trace.x, *control.x] == list(found["value"])
    assert list(trace.error_x.array) == pytest.approx([0.04, 0.03, 0.0])
    assert list(trace.error_x.arrayminus) == pytest.approx([0.04, 0.03, 0.0])
    assert list(figure.layout.yaxis.categoryarray) == list(found["label"])[::-1]
    assert bench_view.verdict(found[:0], "uniform").startswith("No row")
    run_table(tiny_bench(tmp_path), tmp_path / "out")
    loaded = read_table(tmp_path / "out")
    assert loaded is not None
    shown = bench_view.differences(loaded)
    figures = loaded.figures.query("measure == 'utility' and level == 0.9 and group == @ALL")
    assert list(shown["value"]) == list(figures["difference_value"].dropna())
    assert list(shown["label"]) == ["mean"]
    summary = loaded.summary
    own = [row | {"own_settings": row["weighting"] == "mean"} for row in summary["rows"]]
    marked = replace(loaded, summary=summary | {"rows": own})
    assert list(bench_view.differences(marked)["label"]) == ["mean †"]
    assert list(bench_view.lines(marked)["settings"]) == ["", "†"]
    rows = [row for row in map(dict, own) if row.pop("own_settings") in (0, 1)]
    older = replace(loaded, summary=summary | {"rows": rows})
    assert list(bench_view.differences(older)["label"]) == ["mean"]


@pytest.mark.slow
def test_tables_that_explore_are_shown_beside_the_main_one(
    tmp_path: Path,
    bundled: object,
    open_page: Callable[..., AppTest],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run_table(tiny_bench(tmp_path), tmp_path / "out")
    monkeypatch.setattr(bench_view, "FOLDER", tmp_path / "out")
    app = open_page("compare")
    assert not any("When do weights help" in block.value for block in app.markdown)
    run_table(tiny_bench(tmp_path), tmp_path / "out" / "facts")
    app = open_page("compare")
    assert not app.exception
    assert any("When do weights help" in block.value for block in app.markdown)
    assert any(bench_view.EXPLORED["facts"] == block.value for block in app.caption)
    assert not any(bench_view.EXPLORED["weights"] == block.value for block in app.caption)


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
    monkeypatch.setattr(bench_view, "FOLDER", Path("no-such-folder"))
    app = open_page("compare")
    assert not app.exception
    assert any(block.value == bench_view.COMMAND for block in app.code)


def test_what_a_control_is_a_control_of_is_said(
    bundled: object, open_page: Callable[..., AppTest]
) -> None:
    app = open_page("compare")
    assert not app.exception
    words = "Controls stand in the place of exact, and not of other rules."
    assert any(words in block.value for block in [*app.caption, *app.markdown])


def test_what_the_bundled_table_lacks_is_said() -> None:
    plan = bundled_bench()
    loaded = read_table(bench_view.FOLDER)
    assert loaded is not None
    assert bench_view.not_computed(loaded.summary, plan) == "", "the bundled table is whole"
    names = ("retain", "method", "weighting")
    every = [dict(zip(names, row, strict=True)) for row in bench_view.plan_rows(plan)]
    assert bench_view.not_computed({"rows": every[1:]}, plan).endswith(
        f"{every[0]['retain']}: {every[0]['method']} ({every[0]['weighting']})."
    )


def test_the_summaries_count_what_the_table_holds() -> None:
    loaded = read_table(bench_view.FOLDER)
    assert loaded is not None
    found = bench_view.differences(loaded)
    counts = {}
    for role, part in found.groupby("role"):
        counts[role] = (len(part), int((part["low"] > 0).sum()), int((part["high"] < 0).sum()))
    trace, controls = counts["trace"], counts["control"]
    mean = number(found.loc[found["role"] == "trace", "value"].mean(), ".3f")
    page = " ".join((ROOT / "docs" / "benchmark.md").read_text(encoding="utf-8").split())
    assert (
        f"Of {trace[0]} rows with TRACE weights that can be compared, {trace[1]} keep more than "
        "uniform weights beyond their interval"
    ) in page
    assert f"{trace[2]} keep less (mixed:" in page
    assert controls[1] == 0
    assert f"of {controls[0]} rows with a control none keeps more, and {controls[2]} less" in page
    assert f"the mean over the {trace[0]} rows is {mean}" in page
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert f"of {trace[0]} rows with TRACE weights" in readme
    assert f"{trace[1]} lie above their 95 % interval, {trace[2]} below, and the mean" in readme


def test_the_summarys_cells_are_the_tables() -> None:
    loaded = read_table(bench_view.FOLDER)
    assert loaded is not None
    page = (ROOT / "docs" / "benchmark.md").read_text(encoding="utf-8")
    rows = bench_view.lines(loaded).set_index(["retain", "method", "weighting"])
    columns = ("uniform", "mean", "exact", "uniform-matched-norm", "random-experts",
               "shuffled-weights")  # fmt: skip
    written = re.findall(r"^\| (mixed|prose|same-style), (\w+) \|(.*)\|$", page, re.M)
    assert len(written) == 3 * len(loaded.config.methods)
    for retain, method, rest in written:
        for weighting, cell in zip(columns, rest.split(" | "), strict=True):
            key = (retain, method, weighting)
            row = rows.loc[key] if key in rows.index else None
            value = (
                None if row is None else row["utility" if weighting == "uniform" else "difference"]
            )
            if value is None or pd.isna(value):
                assert cell.strip() == "–", (key, cell)
                continue
            form = ".3f" if weighting == "uniform" else "+.3f"
            assert cell.strip().startswith(number(value, form)), (key, cell)
            assert (OWN in cell) is (weighting != "uniform" and row["settings"] == OWN), key
            if weighting != "uniform" and row["difference 95 % CI"]:
                assert f"({row['difference 95 % CI']})" in cell.replace("+", ""), key


def test_the_bundled_table_and_its_page_are_of_the_same_numbers() -> None:
    """docs/benchmark.md is what `trace-moe bench` wrote beside the table that Compare shows."""
    loaded = read_table(bench_view.FOLDER)
    assert loaded is not None
    page = (ROOT / "docs" / "benchmark.md").read_text(encoding="utf-8").replace(NBSP, " ")
    for found in loaded.summary["headlines"]:
        told = bench_view.headline(found).replace(NBSP, " ").replace("95 % interval ", "")
        assert told.removesuffix(").") in page
    shown = bench_view.lines(loaded)
    for retain in shown["retain"].unique():
        [section] = re.findall(rf"^## Retain set: {retain}$(.*?)(?=^## |\Z)", page, re.M | re.S)
        for _, row in shown[shown["retain"] == retain].iterrows():
            utility = number(row["utility"], ".3f") if pd.notna(row["utility"]) else "–"
            paired = number(row["difference"], "+.3f") if pd.notna(row["difference"]) else "–"
            if row["95 % CI"]:
                utility += f" ({row['95 % CI']})"
            beginning = f"| {row['method']} | {row['weighting']} | {utility} | {paired}"
            assert beginning in section, beginning


def test_a_large_table_is_drawn_by_retain_set(
    bundled: object, open_page: Callable[..., AppTest]
) -> None:
    loaded = read_table(bench_view.FOLDER)
    assert loaded is not None
    every = bench_view.differences(loaded)
    assert len(every) > bench_view.MANY_ROWS
    told = wording.plain(f"All retain sets: {bench_view.verdict(every, 'uniform')}")
    drawn = {}
    for name in loaded.config.retain:
        app = open_page("compare", compare_runs="none", compare_set=name)
        assert not app.exception
        assert told in [block.value for block in app.markdown]
        part = replace(loaded, figures=loaded.figures.query("retain == @name"))
        drawn[name] = bench_view.differences(part)
        said = wording.plain(bench_view.verdict(drawn[name], "uniform"))
        assert any(block.value.startswith(said) for block in app.caption), said
        assert not any(name in label for label in drawn[name]["label"])
        assert not any("\\\\" in block.value for block in app.caption), "escaped twice"
    assert sum(map(len, drawn.values())) == len(every)


def test_the_finding_on_the_page_is_the_one_of_the_docs(
    bundled: object, open_page: Callable[..., AppTest]
) -> None:
    finding = (bench_view.FOLDER / "finding.md").read_text(encoding="utf-8").strip()
    assert finding in (ROOT / "docs" / "benchmark.md").read_text(encoding="utf-8")
    app = open_page("compare", compare_runs="none")
    assert not app.exception
    assert any(block.value.strip() == finding for block in app.markdown)


# --- tables of one's own -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    run_table(tiny_bench(folder), folder / "out")
    return folder / "out"


@pytest.fixture
def own(made: Path, trace_home: Path) -> Path:
    """A table where the command writes it when nobody says where."""
    folder = default_folder("mine")
    for name in ("table.json", "table.csv", "same-settings.csv"):
        folder.mkdir(exist_ok=True)
        shutil.copy(made / name, folder)
    return folder


def test_a_table_of_ones_own_is_offered_and_shown(
    own: Path, bundled: object, open_page: Callable[..., AppTest]
) -> None:
    app = open_page("compare")
    assert app.selectbox(key="compare_table").options == ["Bundled pack", "mine"]
    app = open_page("compare", compare_table="mine")
    assert not app.exception
    words = [block.value for block in app.markdown]
    assert "**tiny**" in words
    assert not any("When do weights help" in word for word in words)
    assert not any("Of the pack's plan" in block.value for block in app.caption)
    [shown] = [frame.value for frame in app.dataframe if "seeds" in frame.value.columns]
    assert list(shown["weighting"]) == ["uniform", "mean"]


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        ("table.json", '"format": 1', '"format": 9', "a newer version wrote it"),
        ("table.json", '"rows"', '"lines"', "table.json is damaged: rows: Field required"),
        ("table.json", '"compare_to"', '"compared"', "table.json is damaged: "),
        ("table.json", "{", "", "table.json is damaged: it is not JSON"),
        ("table.csv", "weighting", "weights", "table.csv is damaged: it has no column weighting"),
        ("table.csv", ",0.", ",zero.", "table.csv is damaged: Unable to parse string"),
        ("table.csv", "retain,", '"retain,', "table.csv is damaged: "),
        (
            "table.json",
            '"headlines": [',
            '"headlines": [{"retain": "x", "value": 0.1},',
            "a headline with a number says which two rows it compares",
        ),
        ("same-settings.csv", "higher", "above", "it has no column higher"),
    ],
)
def test_a_damaged_table_is_refused_in_a_sentence(
    own: Path, file: str, old: str, new: str, said: str
) -> None:
    text = (own / file).read_text(encoding="utf-8")
    assert old in text
    (own / file).write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(RunError, match=re.escape(said)):
        read_table(own)


def test_names_that_look_missing_are_names_and_a_table_that_leads_elsewhere_is_none(
    own: Path, made: Path
) -> None:
    text = (own / "table.csv").read_text(encoding="utf-8")
    (own / "table.csv").write_text(text.replace(",graddiff,", ",NA,"), encoding="utf-8")
    found = read_table(own)
    assert found is not None
    assert set(found.figures["method"]) == {"NA"}
    (own / "table.csv").unlink()
    (own / "table.csv").symlink_to(made / "table.csv")
    assert list_tables() == {}


def test_a_table_whose_folder_may_not_be_looked_into_hides_no_other(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = own.with_name("closed")
    shutil.copytree(own, closed)
    look = Path.is_file

    def is_file(path: Path) -> bool:
        if path.parent == closed:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return look(path)

    monkeypatch.setattr(Path, "is_file", is_file)
    assert set(list_tables()) == {own.name, "closed"}
    with pytest.raises(RunError, match="cannot be read: Permission denied"):
        read_table(closed)


def test_a_grid_that_nobody_could_list_is_refused_before_it_is_listed(own: Path) -> None:
    data = json.loads((own / "table.json").read_text(encoding="utf-8"))
    grid = {f"weights.hardness{n}": list(range(10)) for n in range(12)}
    data["config"]["methods"]["graddiff"]["grid"] = grid
    (own / "table.json").write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(RunError, match="a grid of 1000000000000 points"):
        read_table(own)


def test_a_damaged_table_leaves_the_rest_of_the_page(
    own: Path, bundled: object, open_page: Callable[..., AppTest]
) -> None:
    (own / "table.csv").write_text("retain\n", encoding="utf-8")
    app = open_page("compare", compare_table="mine")
    assert not app.exception
    said = wording.plain("This table cannot be read: table.csv is damaged: it has no column")
    assert any(block.value.startswith(said) for block in app.warning)
    assert app.selectbox(key="compare_table").value == "mine"


def test_what_a_table_calls_itself_is_text(
    own: Path, bundled: object, open_page: Callable[..., AppTest]
) -> None:
    text = (own / "table.json").read_text(encoding="utf-8")
    (own / "table.json").write_text(text.replace('"tiny"', '"<b>[x](http://y)</b>"'), "utf-8")
    app = open_page("compare", compare_table="mine")
    assert not app.exception
    [shown] = [block.value for block in app.markdown if "http" in block.value]
    assert "[x](" not in shown
