"""Atomic files, appended rows, and their torn ends."""

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trace_engine import disk
from trace_engine.errors import RunError


def test_write_json_leaves_no_temporary_and_turns_nan_into_null(tmp_path: Path) -> None:
    disk.write_json(tmp_path / "a.json", {"x": [float("nan"), 1.5], "y": float("inf")})
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
    assert disk.read_json(tmp_path / "a.json") == {"x": [None, 1.5], "y": None}


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    disk.write_json(path, {"old": 1})

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(disk.DiskFullError, match=r"disk full, .* needed, .* free"):
        disk.write_json(path, {"new": 2})
    assert disk.read_json(path) == {"old": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_damaged_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "status.json").write_text('{"state": "do')
    with pytest.raises(RunError, match=r"status\.json is damaged"):
        disk.read_json(tmp_path / "status.json")


def test_readers_ignore_an_unterminated_last_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n{"step": 2}\n{"st')
    assert disk.read_lines(path) == [{"step": 1}, {"step": 2}]
    assert disk.read_last_line(path) == {"step": 2}


def test_an_unterminated_line_that_happens_to_be_json_does_not_count(tmp_path: Path) -> None:
    # {"step": 12} cut after the 1 of a longer number would be a wrong value, not a short one.
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n{"step": 2}')
    assert disk.read_lines(path) == [{"step": 1}]


def test_a_damaged_line_in_the_middle_is_named_by_its_physical_number(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n{"st\n{"step": 3}\n')
    with pytest.raises(RunError, match=r"metrics\.jsonl, line 2"):
        disk.read_lines(path)


def test_the_next_writer_cuts_the_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n{"st')
    rows = disk.Appender(path)
    rows.append({"step": 2, "loss": 0.1 + 0.2})
    rows.close()
    assert disk.read_lines(path) == [{"step": 1}, {"step": 2, "loss": 0.1 + 0.2}]


def test_last_line_is_found_beyond_the_window(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps({"step": n}) + "\n" for n in range(5000)))
    assert disk.read_last_line(path, window=100) == {"step": 4999}
    assert disk.read_last_line(tmp_path / "none") is None


def test_place_folder_replaces_and_cleans_up(tmp_path: Path) -> None:
    target = tmp_path / "model"

    def writer(text: str) -> Callable[[Path], None]:
        def write(folder: Path) -> None:
            folder.mkdir()
            (folder / "a").write_text(text)

        return write

    disk.place_folder(target, writer("one"))
    disk.place_folder(target, writer("two"))
    assert (target / "a").read_text() == "two"

    def broken(folder: Path) -> None:
        folder.mkdir()
        raise ValueError("half way")

    with pytest.raises(ValueError, match="half way"):
        disk.place_folder(target, broken)
    assert (target / "a").read_text() == "two"
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_leftovers_go_by_name_and_age_and_nothing_else_does(tmp_path: Path) -> None:
    for name in (".model.0a1b.tmp", ".model.0a1b.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "half").write_text("half")
    for name in (".facts.json.12.tmp", "notes.tmp", ".hidden", ".lock"):
        (tmp_path / name).write_text("")
    disk.remove_leftovers(tmp_path, older_than=60)
    disk.remove_leftovers(tmp_path, of="other")
    assert len(list(tmp_path.iterdir())) == 6
    os.utime(tmp_path / ".facts.json.12.tmp", (0, 0))
    disk.remove_leftovers(tmp_path, older_than=60)
    assert not (tmp_path / ".facts.json.12.tmp").exists()
    disk.remove_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"notes.tmp", ".hidden", ".lock"}
    disk.remove_leftovers(tmp_path / "nowhere")


def test_require_space_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1_000_000))
    disk.require_space(tmp_path, 1_000_000)
    with pytest.raises(disk.DiskFullError) as caught:
        disk.require_space(tmp_path, 2_500_000)
    assert str(caught.value) == "disk full, 2.5 MB needed, 1.0 MB free."
