"""A followed curve holds what reading the whole file would give, whatever happens to the file."""

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.app.stored import eval_row, train_row, write_run
from trace_engine.errors import RunError
from trace_engine.runs import RunDirectory
from trace_engine.runs.curve import Curve, Seen


def add(path: Path, *rows: dict[str, Any], end: str = "\n") -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write("\n".join(json.dumps({"attempt": 1, **row}) for row in rows) + end)


def agrees(seen: Seen, run: RunDirectory) -> bool:
    """Whether the columns and evaluations are those of `RunDirectory.rows`."""
    train, evaluations = run.rows("train"), run.rows("eval")
    for name in ("step", "loss", "retain_loss"):
        expected = [np.nan if row[name] is None else row[name] for row in train]
        np.testing.assert_array_equal(seen.train.get(name, np.empty(0)), expected)
    return list(seen.evaluations) == evaluations and seen.rows == len(train) + len(evaluations)


def test_what_is_appended_is_read_and_a_torn_line_is_not(tmp_path: Path) -> None:
    run = write_run(tmp_path, [eval_row(0, 0.9, 0.9), train_row(1)])
    path = run.path / "metrics.jsonl"
    curve = Curve(path)
    assert agrees(curve.look(), run)
    add(path, train_row(2, None), eval_row(2, 0.5, 0.8))
    assert agrees(curve.look(), run)
    add(path, train_row(3), end="")
    assert curve.look().train["step"].tolist() == [1, 2]
    add(path, end="\n")
    assert agrees(curve.look(), run)
    assert curve.look().train["step"].tolist() == [1, 2, 3]


def test_a_resumed_attempts_rows_replace_those_of_the_same_step(tmp_path: Path) -> None:
    run = write_run(tmp_path, [train_row(step, 1.0) for step in range(1, 6)])
    path = run.path / "metrics.jsonl"
    curve = Curve(path)
    curve.look()
    add(path, eval_row(3, 0.9, 0.9), train_row(4, 7.0), train_row(5, 8.0), eval_row(3, 0.1, 0.9))
    add(path, train_row(6) | {"later": 2})
    assert agrees(curve.look(), run)
    np.testing.assert_array_equal(curve.look().train["later"], [np.nan] * 5 + [2.0])


def test_another_file_in_its_place_is_read_from_its_start(tmp_path: Path) -> None:
    run = write_run(tmp_path, [train_row(step) for step in range(1, 9)])
    path = run.path / "metrics.jsonl"
    curve = Curve(path)
    curve.look()
    # In place: the same inode, and longer than what was read.
    rows = [train_row(step, 3.0) for step in range(1, 20)]
    path.write_text("", encoding="utf-8")
    add(path, *rows)
    assert agrees(curve.look(), run)
    path.unlink()
    assert curve.look().rows == 0
    add(path, train_row(1, 5.0))
    assert agrees(curve.look(), run)


def test_a_damaged_line_is_named_at_every_look(tmp_path: Path) -> None:
    run = write_run(tmp_path, [train_row(1), train_row(2)])
    path = run.path / "metrics.jsonl"
    curve = Curve(path)
    curve.look()
    for bad in ("{", "[]", '{"kind": "train"}'):
        good = path.read_bytes()
        with path.open("a", encoding="utf-8") as file:
            file.write(bad + "\n")
        for _ in range(2):
            with pytest.raises(RunError, match="line 3 is damaged"):
                curve.look()
        path.write_bytes(good)
        assert agrees(curve.look(), run)


def test_many_sessions_look_while_rows_arrive(tmp_path: Path) -> None:
    run = write_run(tmp_path, [])
    path = run.path / "metrics.jsonl"
    path.touch()
    curve, seen, done = Curve(path), [], threading.Event()

    def watch() -> None:
        while not done.is_set():
            seen.append(len(curve.look().train["step"]))

    watchers = [threading.Thread(target=watch) for _ in range(4)]
    for watcher in watchers:
        watcher.start()
    for step in range(1, 200):
        add(path, train_row(step))
    done.set()
    for watcher in watchers:
        watcher.join()
    assert agrees(curve.look(), run)
    assert max(seen) <= 199
