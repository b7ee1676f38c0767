"""The whole command on a tiny plan: resumable, extendable, tuned on validation questions only."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from tests.benchmark.cases import tiny_bench, without_clock
from trace_engine.benchmark import list_tables, plan, pool, read_table, run_table
from trace_engine.benchmark.materials import contents
from trace_engine.benchmark.report import _steps
from trace_engine.benchmark.run import select
from trace_engine.benchmark.settings import bundled_bench, checked, read_bench
from trace_engine.benchmark.store import TrialStore
from trace_engine.cli.main import main
from trace_engine.config import SetConfig, UnlearnConfig
from trace_engine.errors import InputError
from trace_engine.models import inspection
from trace_engine.models.memory import Machine
from trace_engine.sets import load_set
from trace_engine.spelling import number

ALPHAS = {"alpha": [1, 2]}


def test_a_table_is_written_and_never_computed_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, out = tiny_bench(tmp_path), tmp_path / "out"
    finished = run_table(config, out)
    for name in ("results.csv", "table.csv", "curves.csv", "table.json", "figure.svg"):
        assert (out / name).stat().st_size > 50
    assert len(list((out / "trials").glob("*.json"))) == 8
    results = pd.read_csv(out / "results.csv")
    assert len(results) == 8 * 4
    assert set(results["phase"]) == {"validation", "test"}
    assert set(results.loc[results["phase"] == "validation", "seed"]) == {1000}
    figures = finished.table.figures
    # The value is the mean over seeds of what the raw rows say; here it is attained at the best
    # evaluation, because every evaluation lies below the level.
    test = results[(results["phase"] == "test") & (results["weighting"] == "mean")]
    best = test.groupby("seed")["utility"].max().mean()
    row = figures[(figures["weighting"] == "mean") & (figures["level"] == 0.9)].iloc[0]
    assert row["value"] == pytest.approx(best, abs=1e-4)

    def refuse(*_: object) -> None:
        raise AssertionError("a finished run was computed again")

    before = (out / "table.csv").read_bytes()
    monkeypatch.setattr(pool, "execute", refuse)
    run_table(config, out)
    assert (out / "table.csv").read_bytes() == before


def test_hyperparameters_are_chosen_without_the_test_questions(tmp_path: Path) -> None:
    config = tiny_bench(tmp_path)
    Path(config.test).unlink()
    store = TrialStore(tmp_path / "out")
    chosen, _ = select(config, store, plan.rows_of(config))
    assert all(choice.number is not None for choice in chosen.values())
    assert not (tmp_path / "out" / "questions" / "test.jsonl").exists()
    # Said before anything runs, without reading them.
    with pytest.raises(InputError, match="no such questions file"):
        run_table(config, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_unreadable_test_questions_do_not_disturb_the_choice(tmp_path: Path) -> None:
    config = tiny_bench(tmp_path)
    Path(config.test).write_text("not a question\n")
    with pytest.raises(InputError, match=r"test\.jsonl, line 1"):
        run_table(config, tmp_path / "out")
    assert len(json.loads((tmp_path / "out" / "choices.json").read_text())) == 2


@pytest.mark.slow
@pytest.mark.faults
def test_killed_in_the_middle_it_goes_on_to_the_same_table(tmp_path: Path) -> None:
    config = tiny_bench(tmp_path)
    file, out = tmp_path / "bench.yaml", tmp_path / "out"
    file.write_text(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
    command = [sys.executable, "-m", "trace_engine.cli", "bench", "--config", str(file)]
    child = subprocess.Popen([*command, "--out", str(out)], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len(list((out / "trials").glob("*.json"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert 2 <= len(list((out / "trials").glob("*.json"))) < 8
    run_table(config, out)
    run_table(config, tmp_path / "whole")
    for name in ("results.csv", "table.csv"):
        pd.testing.assert_frame_equal(
            without_clock(out / name), without_clock(tmp_path / "whole" / name)
        )


@pytest.mark.slow
def test_as_many_processes_as_processors_and_memory_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_bench(tmp_path)
    alone, two = (
        config.model_copy(update={"settings": {"model": config.settings["model"], **threads}})
        for threads in ({}, {"threads": 2})
    )
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(inspection, "machine_memory", lambda: Machine(main=64 * 2**30))
    assert pool.fitting_workers(alone) == 1
    assert pool.fitting_workers(two) == 4
    monkeypatch.setattr(inspection, "machine_memory", lambda: Machine(main=2 * 2**30))
    assert 1 <= pool.fitting_workers(two) < 4


@pytest.mark.slow
def test_two_workers_make_the_table_of_one(tmp_path: Path) -> None:
    config = tiny_bench(tmp_path)
    run_table(config, tmp_path / "two", workers=2)
    run_table(config, tmp_path / "one")
    for name in ("results.csv", "table.csv"):
        pd.testing.assert_frame_equal(
            without_clock(tmp_path / "two" / name), without_clock(tmp_path / "one" / name)
        )


@pytest.mark.slow
def test_a_table_of_what_is_computed_names_the_rest_and_computes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, out = tiny_bench(tmp_path), tmp_path / "out"
    with pytest.raises(InputError, match=r"None of the table's 2 rows is computed yet"):
        run_table(config, out, computed=True)
    own = config.methods["graddiff"]
    longer = own.model_copy(update={"settings": own.settings | {"max_steps": 4}})
    both = config.model_copy(update={"methods": {"graddiff": own, "other": longer}})
    first = run_table(both.only((), ("graddiff",), ("uniform",)), out).table
    before = sorted((out / "trials").iterdir())
    table = run_table(both, out, computed=True).table
    assert sorted((out / "trials").iterdir()) == before
    assert [row["weighting"] for row in table.rows] == ["uniform"]
    same = first.figures.drop(columns=["seeds"])
    pd.testing.assert_frame_equal(table.figures.drop(columns=["seeds"]), same)
    retain = next(iter(config.retain))
    [told] = re.findall(r"\*\*Not computed:\*\* (.*)", (out / "benchmark.md").read_text())
    assert told == f"{retain}: graddiff (mean), other."
    assert json.loads((out / "table.json").read_text())["facts"]["not_computed"] == [
        [retain, "graddiff", "mean"],
        [retain, "other", "uniform"],
        [retain, "other", "mean"],
    ]
    whole = run_table(config, out).table
    assert whole.facts["not_computed"] == []
    assert "Not computed" not in (out / "benchmark.md").read_text()


def test_a_row_that_never_forgets_far_enough_gets_no_number(tmp_path: Path) -> None:
    # At this rate nothing moves: each stays at its start, which is above the level.
    grid = {"learning_rate": [1e-12, 2e-12]}
    still = {"graddiff": {"settings": {"method": "graddiff"}, "grid": grid}}
    config = tiny_bench(tmp_path, levels=[0.06], margin=0.05, methods=still)
    finished = run_table(config, tmp_path / "out")
    text = (tmp_path / "out" / "benchmark.md").read_text()
    unreached = [row for row in finished.table.rows if row["point"] is None]
    assert [row["weighting"] for row in unreached] == ["uniform", "mean"]
    for row in unreached:
        assert f"{row['method']} with {row['weighting']}: none of 2 settings" in text
        assert finished.table.figures.query("weighting == @row['weighting']").empty


@pytest.mark.slow
def test_the_page_links_what_lies_beside_it_and_names_no_folder(tmp_path: Path) -> None:
    own = tiny_bench(tmp_path).methods["graddiff"]
    longer = own.model_copy(update={"settings": own.settings | {"max_steps": 4}})
    config = tiny_bench(tmp_path, seeds=1).model_copy(
        update={"methods": {"graddiff": own, "longer": longer}}
    )
    run_table(config, tmp_path / "out")
    text = (tmp_path / "out" / "benchmark.md").read_text()
    [linked] = re.findall(r"!\[[^]]*\]\(([^)]*)\)", text)
    assert (tmp_path / "out" / linked).is_file()
    assert "Steps: graddiff 3, longer 4. " in text
    source = config.settings["model"]["source"]
    assert f"Model {Path(source).name} (`" in text
    assert source not in text
    one = config.model_copy(update={"methods": {"graddiff": own}})
    assert _steps(one) == "3"


def test_the_command_says_how_much_is_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "bench.yaml"
    file.write_text(yaml.safe_dump(tiny_bench(tmp_path).model_dump(mode="json"), sort_keys=False))
    options = ["bench", "--config", str(file), "--out", str(tmp_path / "out")]
    assert main([*options, "--plan", "--json", "--seeds", "3"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "rows": 2, "runs": 10, "tuning_left": 4, "test_left": None,
    }  # fmt: skip
    assert main([*options, "--weightings", "nothing"]) == 2
    assert "no weightings 'nothing'; it has uniform, mean" in capsys.readouterr().err


def test_without_out_it_is_written_where_the_page_finds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TRACE_HOME", str(tmp_path / "home"))
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(tiny_bench(tmp_path).model_dump(mode="json"), sort_keys=False))
    options = ["--weightings", "uniform", "--seeds", "1", "--workers", "1"]
    assert main(["bench", "--config", str(file), *options]) == 0
    assert list_tables() == {"mine": tmp_path / "home" / "tables" / "mine"}
    found = read_table(list_tables()["mine"])
    assert found is not None
    assert [row["weighting"] for row in found.summary["rows"]] == ["uniform"]
    assert f"In {list_tables()['mine']}: " in capsys.readouterr().err


def test_the_packs_table_can_be_printed_edited_and_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["config", "--kind", "bench"]) == 0
    file = tmp_path / "mine.yaml"
    file.write_text(capsys.readouterr().out)
    assert read_bench(file) == bundled_bench()


def test_every_row_tries_as_many_settings_and_a_method_the_same_ones() -> None:
    config = bundled_bench()
    for method in config.methods:
        rows = [row for row in plan.rows_of(config) if row.method == method]
        tried = [plan.points_of(config, row) for row in rows]
        assert {len(points) for points in tried} == {config.budget}
        grid = config.methods[method].grid
        own = [[tuple(point[name] for name in grid) for point in points] for points in tried]
        assert all(points == own[0] and len(set(points)) == len(points) for points in own)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"budget": 3}, "grid of 2 points, fewer than the budget of 3"),
        ({"compare_to": "none"}, "compare_to names no weighting"),
        ({"area": [0.9, 0.4]}, "area must rise"),
        ({"retain": {}}, "retain is empty"),
        ({"settings": {"seed": 1}}, "sets seed, which the table itself decides"),
        ({"bugdet": 3}, "did you mean budget"),
        (
            {
                "weightings": {
                    "uniform": {"role": "baseline", "settings": {"forget": {"source": "f"}}}
                }
            },
            "a forget set of its own is for a method's settings",
        ),
        (
            {"methods": {"npo": {"settings": {"model": {"dtype": "bfloat16"}}, "grid": ALPHAS}}},
            "methods.npo sets model.dtype: a table has one model",
        ),
    ],
)
def test_impossible_tables_are_refused(tmp_path: Path, changes: dict, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        tiny_bench(tmp_path, **changes)


def test_a_misspelt_setting_is_named_with_its_row(tmp_path: Path) -> None:
    config = tiny_bench(tmp_path)
    method = config.methods["graddiff"].model_copy(update={"settings": {"metod": "npo"}})
    with pytest.raises(InputError, match=r"Row plain, graddiff, uniform: metod: there is no such"):
        run_table(config.model_copy(update={"methods": {"graddiff": method}}), tmp_path / "out")


def test_an_address_follows_contents_and_settings_not_places(tmp_path: Path) -> None:
    config = tiny_bench(tmp_path)
    prints = {"model": "m", "forget": "f", "retain": "r", "questions": "q"}

    def key(seed: int = 0, place: str = "a", fingerprints: dict[str, str] = prints) -> str:
        contents = plan.Contents({"plain": {"source": place}}, place, {"plain": fingerprints})
        row = plan.rows_of(config)[0]
        return plan.trial(config, contents, row, "test", 0, seed).key

    assert key() == key(place="b")
    assert len({key(), key(seed=1), key(fingerprints=prints | {"retain": "other"})}) == 3


def test_every_control_of_the_bundled_table_is_one_of_exact() -> None:
    config = bundled_bench()
    names = {name for name, found in config.weightings.items() if found.role == "control"}
    assert config.controlled == dict.fromkeys(names, "exact")


def test_a_forget_set_of_a_methods_own_has_its_own_address(tmp_path: Path) -> None:
    config = tiny_bench(tmp_path)
    other = tmp_path / "other.jsonl"
    other.write_text('{"text": "the seed grows"}\n{"text": "the leaf falls"}\n')
    row = plan.rows_of(config)[0]
    method = config.methods[row.method]
    own = method.model_copy(
        update={"settings": {**method.settings, "forget": {"source": str(other)}}}
    )
    changed = config.model_copy(update={"methods": {**config.methods, row.method: own}})
    (tmp_path / "out").mkdir()
    first, second = (
        plan.trial(asked, contents(asked, tmp_path / "out", "test"), row, "test", 0, 0)
        for asked in (config, changed)
    )
    assert first.config.forget.source != second.config.forget.source == str(other)
    assert second.fingerprints["forget"] == load_set(SetConfig(source=str(other))).fingerprint
    assert {name for name in first.fingerprints
            if first.fingerprints[name] != second.fingerprints[name]} == {"forget"}  # fmt: skip
    assert first.key != second.key


def test_a_table_that_was_read_back_is_the_same(tmp_path: Path) -> None:
    config = bundled_bench()
    assert checked(config.model_dump(mode="json"), "again") == config


def test_a_result_that_wrote_the_retain_term_out_is_still_this_runs() -> None:
    """It is left to the method now; what another version recorded as `nll` is the same run."""
    sets: dict[str, Any] = {"forget": {"source": "f"}, "retain": {"source": "r"}}
    now = UnlearnConfig.model_validate(sets)
    recorded = plan.content(now.model_dump(mode="json"))
    assert recorded["retain_term"] is None
    assert plan.same_question(recorded, now)
    assert plan.same_question(recorded | {"retain_term": "nll"}, now)
    assert not plan.same_question(recorded | {"retain_term": "kl"}, now)
    other = UnlearnConfig.model_validate(sets | {"retain_term": "kl"})
    assert not plan.same_question(recorded, other)
    assert not plan.same_question(recorded | {"retain_term": "nll"}, other)


def test_a_result_that_wrote_numbers_out_is_still_this_runs() -> None:
    """γ and β are left to the method now; files once held 1 and 0.1 whatever the method."""
    sets = {"forget": {"source": "demo:forget"}, "retain": {"source": "demo:retain"}}
    now = UnlearnConfig.model_validate(sets | {"method": "graddiff"})
    recorded = plan.content(now.model_dump(mode="json"))
    assert recorded["gamma"] is recorded["beta"] is None
    assert plan.same_question(recorded | {"gamma": 1.0, "beta": 0.1}, now)
    assert not plan.same_question(recorded | {"gamma": 0.5}, now)
    assert not plan.same_question(recorded | {"beta": 0.2}, now)
    simnpo = UnlearnConfig.model_validate(sets | {"method": "simnpo"})
    recorded = plan.content(simnpo.model_dump(mode="json"))
    assert plan.same_question(recorded | {"gamma": 0.125, "beta": 4.5, "delta": 0.0}, simnpo)
    assert not plan.same_question(recorded | {"gamma": 1.0}, simnpo)


def test_one_pair_has_a_figure_without_an_interval(tmp_path: Path) -> None:
    run_table(tiny_bench(tmp_path, seeds=1, budget=1, test_per_group=4), tmp_path / "out")
    (found,) = pd.read_csv(tmp_path / "out" / "same-settings.csv").to_dict("records")
    assert (found["both"], pd.isna(found["low"])) == (1, True)
    told = (tmp_path / "out" / "benchmark.md").read_text("utf-8").splitlines()
    (line,) = [line for line in told if line.startswith("| graddiff | mean | 1 of 1 | ")]
    assert line.endswith(f"| {number(found['value'], '+.3f')} |")
