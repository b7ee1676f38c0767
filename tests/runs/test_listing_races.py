"""A run that is deleted while it is listed is not listed: it is not damaged."""

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.app.stored import eval_row, train_row, write_run
from trace_engine.runs import launcher, list_runs
from trace_engine.runs.places import new_run_id, subfolder

RUNS = 150


def test_no_deleted_run_flashes_as_damaged(tmp_path: Path) -> None:
    first = write_run(tmp_path, [eval_row(0, 0.9, 0.9), train_row(3)], "interrupted")
    ids = [first.id]
    while len(ids) < RUNS:
        name = new_run_id()
        shutil.copytree(first.path, subfolder("runs", tmp_path) / name)
        ids.append(name)
    over = threading.Event()

    def read() -> tuple[int, list[str]]:
        looks, damaged = 0, []
        while not over.is_set():
            found = list_runs(tmp_path)
            looks += 1
            damaged += [run.status.message for run in found if run.status.state == "damaged"]
        return looks, damaged

    def delete(share: list[str]) -> None:
        for name in share:
            launcher.delete(name, tmp_path)

    with ThreadPoolExecutor(6) as threads:
        readers = [threads.submit(read) for _ in range(3)]
        deleters = [threads.submit(delete, ids[n::3]) for n in range(3)]
        try:
            for done in deleters:
                done.result()
        finally:
            over.set()
        told = [reader.result() for reader in readers]
    assert sum(looks for looks, _ in told) >= 3
    assert [message for _, damaged in told for message in damaged] == []
    assert list_runs(tmp_path) == []


def test_a_damaged_run_is_still_listed_as_such(tmp_path: Path) -> None:
    run = write_run(tmp_path, [train_row(1)])
    (run.path / "status.json").unlink()
    (found,) = list_runs(tmp_path)
    assert found.status.state == "damaged"
