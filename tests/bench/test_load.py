"""What the measurement of many sessions says of its figures, and the rows it writes meanwhile."""

import math
from pathlib import Path

import pytest

from bench.load import Figures, growth, missed, told, writing
from tests.app.stored import train_row, write_run
from tests.runs.waiting import until
from trace_engine.disk import read_lines

GOOD = {
    "start, first": [2.0],  # imports
    "start": [0.1, 0.2, 9.0],
    "a large set, read": [2.4],
    "crowd": [0.5, 0.6],
}

FLAT = {"all closed": [700.0, 900.0, 910.0, 920.0]}


@pytest.mark.parametrize(
    ("figures", "said"),
    [
        (Figures(processor=GOOD, memory=FLAT), []),
        (Figures(memory=FLAT, faults=["broken"]), ["error: broken"]),
        (
            Figures(processor=GOOD | {"compare": [0.9, 1.1, 1.2]}, memory=FLAT),
            ["compare: 1.10 s, over 1 s"],
        ),
        (
            Figures(processor=GOOD, memory={"all closed": [700, 900, 910, 940, 970]}),
            ["memory: +30.0 MiB a round, over 25"],
        ),
        (
            Figures(memory={"all closed": [700, 900, 1900]}),
            ["memory: growth not known, fewer than 4 rounds"],
        ),
        (Figures(processor=GOOD), ["memory: growth not known, fewer than 4 rounds"]),
        (
            Figures(processor=GOOD, memory=FLAT | {"all open": [1000, 2100, 1000, 1000]}),
            ["memory: 2100 MiB, over 2,048"],
        ),
    ],
    ids=["good", "error", "slow page", "growth", "few rounds", "no rounds", "peak"],
)
def test_what_is_missed_ends_it_with_1(figures: Figures, said: list[str]) -> None:
    assert missed(figures, sessions=50) == said


def test_growth_of_too_few_rounds_is_not_known() -> None:
    assert math.isnan(growth([1.0, 2.0, 3.0]))
    assert "growth after 2 rounds: not known, too few rounds" in told(Figures())


def test_the_run_at_work_gets_whole_rows_in_order(tmp_path: Path) -> None:
    run = write_run(tmp_path, [train_row(1), train_row(2)], "running", max_steps=10_000)
    figures = Figures()
    with run.lock(), writing(run, figures):
        until(lambda: run.status().step > 6, "rows to come")
        assert run.status().state == "running"
    rows = read_lines(run.path / "metrics.jsonl")
    assert (run.path / "metrics.jsonl").read_bytes().endswith(b"\n")
    assert [row["step"] for row in rows] == list(range(1, 3 + figures.appended))
