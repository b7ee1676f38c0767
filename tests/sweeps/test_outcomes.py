"""Points of a sweep: figures of finished runs only, a front by hand, times of runs alike."""

import csv
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.app.stored import estimate, eval_row, unlearn_config, write_run
from tests.runs.real import settings, write_sets
from trace_engine.cli import main
from trace_engine.cli.sweeping import write_points
from trace_engine.config import to_yaml
from trace_engine.errors import InputError
from trace_engine.runs import RunDirectory, list_runs, open_run
from trace_engine.sweeps import SweepDirectory, outcomes, plan_sweep, seconds_per_run
from trace_engine.sweeps.directory import new_sweep
from trace_engine.sweeps.file import sweep_yaml

Stored = Callable[..., SweepDirectory]


def stored_sweep(
    home: Path, grid: dict[str, Any], results: list[list[dict[str, Any]] | None], **changes: Any
) -> SweepDirectory:
    """A sweep that ended, its runs with these rows; None: not begun."""
    base = unlearn_config(**changes)
    plan = plan_sweep(base, [grid], "stored")
    found = new_sweep(home)
    with found.create(base, [grid], plan, "stored", None):
        for number, rows in enumerate(results):
            if rows is not None:
                run = write_run(home, rows, **(changes | {"name": f"run {number}"}))
                found.record_run(number, run.id)
        found.update(state="stopped", message="Stopped.")
    return found


def test_the_front_of_finished_runs_by_hand(tmp_path: Path) -> None:
    results = [
        [eval_row(0, 0.9, 0.9), eval_row(20, 0.3, 0.8)],
        [eval_row(0, 0.9, 0.9), eval_row(20, 0.4, 0.7)],  # beaten by the first
        [eval_row(0, 0.9, 0.9), eval_row(20, 0.5, 0.9)],
        None,
    ]
    found = outcomes(stored_sweep(tmp_path, {"selection.top_k": (1, 2, 3, 4)}, results))
    assert [o.front for o in found] == [True, False, True, False]
    assert [o.state for o in found] == ["done", "done", "done", "waiting"]
    assert (found[0].forget.value, found[0].forget.n, found[0].utility.n) == (0.3, 100, 400)
    assert not found[3].known
    assert found[3].run is None


def test_without_questions_more_forget_loss_is_better(tmp_path: Path) -> None:
    def losses(forget: float, retain: float) -> list[dict[str, Any]]:
        row = eval_row(20, 0.0, 0.0)
        return [
            row | {"accuracy": {}, "forget_nll": estimate(forget), "retain_nll": estimate(retain)}
        ]

    found = outcomes(
        stored_sweep(
            tmp_path, {"selection.top_k": (1, 2, 3)},
            [losses(5.0, 2.0), losses(4.0, 2.5), losses(4.5, 1.5)],
            evaluation={"questions": None},
        )
    )  # fmt: skip
    assert [o.front for o in found] == [True, False, True]
    assert found[0].forget.value == 5.0


def test_a_point_is_the_model_that_was_saved(tmp_path: Path) -> None:
    rows = [eval_row(0, 0.9, 0.9), eval_row(10, 0.4, 0.8), eval_row(20, 0.3, 0.2)]
    found = stored_sweep(tmp_path, {"seed": (1,)}, [rows])
    assert outcomes(found)[0].utility.value == 0.2
    facts = found.home / "runs" / str(outcomes(found)[0].run) / "facts.json"
    facts.write_text(json.dumps({"kept": {"step": 10, "sentence": "The best."}}))
    assert (outcomes(found)[0].forget.value, outcomes(found)[0].utility.value) == (0.4, 0.8)


def finished(home: Path, seconds: float, **changes: Any) -> RunDirectory:
    run = write_run(home, [eval_row(20, 0.3, 0.8)], **changes)
    status = json.loads((run.path / "status.json").read_text())
    status |= {"started": 1000.0, "updated": 1000.0 + seconds}
    (run.path / "status.json").write_text(json.dumps(status))
    return run


def test_time_is_that_of_runs_alike(tmp_path: Path) -> None:
    base = unlearn_config()
    assert seconds_per_run(base, tmp_path) is None
    finished(tmp_path, 10.0)
    finished(tmp_path, 30.0, selection={"top_k": 4})
    finished(tmp_path, 40.0, max_steps=40)  # as fast as 20 s for 20 updates
    finished(tmp_path, 500.0, batch_size=64)
    finished(tmp_path, 500.0, trainable={"kind": "lora"})
    write_run(tmp_path, [], state="stopped")
    assert seconds_per_run(base, tmp_path) == (20.0, 3)
    # Twice as many updates take twice as long.
    assert seconds_per_run(unlearn_config(max_steps=40), tmp_path) == (40.0, 3)


def test_points_as_files(tmp_path: Path) -> None:
    found = stored_sweep(
        tmp_path, {"weights.rule": ("mean", "exact"), "weights.strength": (1, 2)},
        [[eval_row(20, 0.3, 0.8)], None, [eval_row(20, 0.2, 0.9)]],
    )  # fmt: skip
    write_points(found, tmp_path / "out")
    with (tmp_path / "out" / "points.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["point"] for row in rows] == ["mean, η 1", "mean, η 2", "exact"]
    assert rows[0]["forget"] == "0.3"
    assert rows[1]["forget"] == "", "what was not measured is no number"
    assert rows[2]["front"] == "True"
    told = json.loads((tmp_path / "out" / "points.json").read_text())
    assert told["repeats"] == [["exact, η 2", "exact"]]
    with pytest.raises(InputError, match="expected a new or empty folder"):
        write_points(found, tmp_path / "out")


def test_the_command_plans_lists_shows_and_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TRACE_HOME", str(tmp_path / "home"))
    file = tmp_path / "run.yaml"
    file.write_text(to_yaml(unlearn_config()))
    words = [
        "sweep",
        str(file),
        "--set",
        "selection.top_k=1,2",
        "--set",
        "weights.rule=uniform,max",
    ]
    finished(tmp_path / "home", 90.0)
    assert main([*words, "--plan"]) == 0
    told = capsys.readouterr()
    assert told.out.splitlines() == ["uniform", "top-k 1, max", "top-k 2, max"]
    assert "top-k 2, uniform is the same run as uniform." in told.err
    assert "3 runs, one after another: 4 min 30 s." in told.err
    sheet = tmp_path / "sweep.yaml"
    grids = [{"weights.rule": ["mean"], "weights.strength": [1, 2]}, {"weights.rule": ["exact"]}]
    sheet.write_text(sweep_yaml(unlearn_config(), grids, "sheet"))
    assert main(["sweep", str(sheet), "--plan", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == {"runs": ["mean, η 1", "mean, η 2", "exact"], "repeats": [], "seconds": 270.0}
    assert main(["sweep", str(sheet), "--set", "seed=1,2", "--plan"]) == 2
    assert "says what varies; leave --set out" in capsys.readouterr().err
    assert main([*words, "--set", "weights.magic=1"]) == 2
    assert "there is no setting 'magic'" in capsys.readouterr().err
    assert main([*words, "--background", "--out", str(tmp_path / "x")]) == 2
    assert "leave --out away" in capsys.readouterr().err

    found = stored_sweep(
        tmp_path / "home", {"selection.top_k": (1, 2)}, [[eval_row(20, 0.3, 0.8)], None]
    )
    assert main(["sweeps", "list"]) == 0
    assert "1/2" in capsys.readouterr().out
    assert main(["sweeps", "show", found.id]) == 0
    shown = capsys.readouterr().out
    assert "0.300 [0.200, 0.400]" in shown
    assert "ask the test questions once" in shown
    assert main(["sweeps", "show", found.id, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["points"][0]["forget"] == 0.3
    assert main(["sweeps", "stop", found.id]) == 2
    assert "there is nothing to stop" in capsys.readouterr().err
    assert main(["sweeps", "delete", found.id]) == 0
    assert main(["sweeps", "show", found.id]) == 2


@pytest.mark.slow
@pytest.mark.faults
def test_a_real_sweep_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two tiny runs through real workers: the points are the runs' own last evaluations."""

    monkeypatch.setenv("TRACE_HOME", str(tmp_path / "home"))
    write_sets(tmp_path)
    file = tmp_path / "run.yaml"
    file.write_text(to_yaml(settings(tmp_path, max_steps=2)))
    began = time.time()
    assert main(["sweep", str(file), "--set", "weights.rule=uniform,exact", "--out",
                 str(tmp_path / "out"), "--json"]) == 0  # fmt: skip
    told = json.loads(capsys.readouterr().out)
    assert [point["point"] for point in told["points"]] == ["uniform", "exact"]
    for point in told["points"]:
        run = open_run(point["run"])
        assert point["forget"] == run.rows("eval")[-1]["forget_nll"]["value"]
        assert began < run.status().started < run.status().updated
        assert run.status().max_steps == 2
    assert len(list_runs()) == 2
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "points.csv", "points.json", "sweep.yaml",
    ]  # fmt: skip
