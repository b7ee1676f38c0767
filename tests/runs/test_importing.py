"""A run's folder comes into the home whole, under an id of the home's own, or not at all."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.runs.light_worker import config
from trace_engine.disk import Appender, write_json
from trace_engine.errors import RunError
from trace_engine.runs import RunDirectory, import_run, list_runs, open_run
from trace_engine.runs.checkpoints import save_checkpoint


@pytest.fixture
def outside(tmp_path: Path) -> RunDirectory:
    """A finished run in a folder of its own, as `unlearn --out` leaves it."""
    run = RunDirectory(tmp_path / "my run")
    with run.create(config(tmp_path, name="mine")):
        rows = Appender(run.path / "metrics.jsonl")
        rows.append({"attempt": 1, "kind": "train", "step": 1, "loss": 1.0})
        rows.close()
        checkpoints = run.path / "checkpoints"
        save_checkpoint(checkpoints, {}, {}, step=1, attempt=1, identity={})
        (run.path / "model").mkdir()
        (run.path / "model" / "weights").write_bytes(b"w")
        run.update(state="done", message="All 1 steps done.")
    return run


def test_an_imported_run_opens_by_its_id(outside: RunDirectory, tmp_path: Path) -> None:
    home = tmp_path / "home"
    run = open_run(import_run(outside.path, home), home)
    assert [row.id for row in list_runs(home)] == [run.id]
    assert run.id != outside.id
    assert run.status() == outside.status()
    assert (run.rows(), run.config()) == (outside.rows(), outside.config())
    assert (run.path / "model" / "weights").read_bytes() == b"w"
    run.checkpoints()[0].verify()
    with pytest.raises(RunError, match="already"):
        import_run(run.path, home)


def test_what_trackers_keep_stays_behind(outside: RunDirectory, tmp_path: Path) -> None:
    """W&B leaves links in its folder, which must not keep the run from being imported."""
    kept = outside.path / "trackers" / "wandb"
    kept.mkdir(parents=True)
    (kept / "latest").symlink_to("/etc/hostname")
    (kept.parent / "wandb.json").write_text("{}")
    run = open_run(import_run(outside.path, tmp_path / "home"), tmp_path / "home")
    assert not (run.path / "trackers").exists()
    assert (run.path / "model" / "weights").read_bytes() == b"w"
    (outside.path / "model" / "trackers").symlink_to("/etc")
    with pytest.raises(RunError, match="symbolic link"):
        import_run(outside.path, tmp_path / "home")


def _link(run: RunDirectory) -> None:
    (run.path / "model" / "weights").unlink()
    (run.path / "model" / "weights").symlink_to("/etc/hostname")


def _flip(run: RunDirectory) -> None:
    (run.checkpoints()[0].path / "state.json").write_text("[]")


def _tear(name: str) -> Callable[[RunDirectory], object]:
    return lambda run: (run.path / name).write_text("{\n")


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (_link, "symbolic link"),
        (_flip, "state.json differs from its hash. Nothing was imported."),
        (_tear("status.json"), "status.json is damaged"),
        (_tear("metrics.jsonl"), "metrics.jsonl, line 1 is damaged"),
        (_tear("config.yaml"), "config.yaml"),
        (_tear("facts.json"), "facts.json is damaged"),
        (lambda run: (run.path / "config.yaml").unlink(), "is not a run"),
    ],
)
def test_what_cannot_be_trusted_is_refused(
    outside: RunDirectory, tmp_path: Path, spoil: Callable[[RunDirectory], object], sentence: str
) -> None:
    spoil(outside)
    with pytest.raises(RunError, match=sentence):
        import_run(outside.path, tmp_path / "home")
    assert list((tmp_path / "home" / "runs").iterdir()) == []


def test_a_running_run_and_a_link_to_one_are_refused(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    lock = run.create(config(tmp_path))
    with pytest.raises(RunError, match="once it has ended"):
        import_run(run.path, tmp_path / "home")
    lock.release()
    (tmp_path / "link").symlink_to(run.path)
    with pytest.raises(RunError, match="symbolic link"):
        import_run(tmp_path / "link", tmp_path / "home")


def test_of_who_asked_only_the_folder_comes_in(outside: RunDirectory, tmp_path: Path) -> None:
    asked = {"question": "q", "token": "t", "sweep": "20260101-000000-abcdef", "owner": "anna"}
    write_json(outside.path / "launch.json", {"folder": str(tmp_path), **asked})
    run = open_run(import_run(outside.path, tmp_path / "home"), tmp_path / "home")
    assert run.launched() == {"folder": str(tmp_path)}
    assert (run.owner(), run.sweep(), run.launch_folder()) == (None, None, tmp_path)


@pytest.mark.parametrize("name", ["facts.json", "model/notes", "launch.json"])
def test_a_pipe_is_refused_without_waiting(
    outside: RunDirectory, tmp_path: Path, name: str
) -> None:
    (outside.path / name).unlink(missing_ok=True)
    os.mkfifo(outside.path / name)
    with pytest.raises(RunError, match=f"pipe.*{name.rpartition('/')[2]}.*Nothing was imported"):
        import_run(outside.path, tmp_path / "home")
    assert list((tmp_path / "home" / "runs").iterdir()) == []


ROW = {"attempt": 1, "kind": "eval", "step": 1}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("status.json", '{"state": "done", "created": 1e300}'),
        ("status.json", '{"state": "done", "notes": [1]}'),
        ("facts.json", '{"trainable": 1}'),
        ("facts.json", '{"knowledge": [1]}'),
        ("facts.json", '{"method": "x"}'),
        ("facts.json", '{"control": {"sentence": "\\ud800"}}'),
        ("metrics.jsonl", json.dumps({**ROW, "accuracy": [1]}) + "\n"),
        ("metrics.jsonl", json.dumps({**ROW, "step": 10**22}) + "\n"),
        ("metrics.jsonl", json.dumps({**ROW, "kind": "train", "loss": 10**400}) + "\n"),
        ("events.jsonl", '{"time": "t", "event": "done", "peak_memory": "x"}\n'),
        ("progress.json", '{"done": "x"}'),
        ("launch.json", "[]"),
        ("launch.json", "{"),
        ("events.jsonl", None),
        ("log.txt", None),
    ],
)
def test_what_a_page_could_not_show_is_refused(
    outside: RunDirectory, tmp_path: Path, name: str, text: str | None
) -> None:
    """Values of a kind that no run writes; None: a folder in the file's place."""
    place = outside.path / name
    if text is None:
        place.unlink(missing_ok=True)
        place.mkdir()
    else:
        place.write_text(text)
    with pytest.raises(RunError, match=r"Nothing was imported\."):
        import_run(outside.path, tmp_path / "home")
    assert list((tmp_path / "home" / "runs").iterdir()) == []
