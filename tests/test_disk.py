"""Atomic files, appended rows, and their torn ends."""

import errno
import json
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests.support.disks import FILLER, fill
from tests.support.profiles import synthetic_profile
from trace_engine import disk
from trace_engine.errors import RunError
from trace_engine.routing.storage import save_profile


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


@pytest.mark.fault_row(7)
def test_a_full_disk_is_named_whichever_library_meets_it(small_disk: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "large").write_bytes(bytes(3_000_000))

    def tensors(folder: Path) -> None:
        folder.mkdir()
        save_file({"x": torch.zeros(1_000_000)}, folder / "x.safetensors")

    # shutil and safetensors keep the system's number in their text alone.
    for write in (lambda to: shutil.copytree(source, to), tensors):
        free = shutil.disk_usage(small_disk).free
        with pytest.raises(disk.DiskFullError) as raised:
            disk.place_folder(small_disk / "target", write)
        assert str(raised.value) == (
            f"disk full, more than {disk.size(free)} needed, {disk.size(free)} free."
        )
        assert list(small_disk.iterdir()) == []
    with pytest.raises(disk.DiskFullError, match=r"^disk full, 4.0 MB needed, 2.1 MB free\.$"):
        disk.place_folder(small_disk / "target", tensors, 4_000_000)


@pytest.mark.fault_row(7)
def test_a_profile_without_room_says_what_it_needs(small_disk: Path) -> None:
    fill(small_disk, but=4096)
    with pytest.raises(disk.DiskFullError, match=r"^disk full, .+ needed, .+ free\.$"):
        save_profile(synthetic_profile(), small_disk / "profile")
    assert [path.name for path in small_disk.iterdir()] == [FILLER]


def test_writers_of_one_file_at_once_leave_it_whole(tmp_path: Path) -> None:
    """Sessions of a page are threads of one process."""
    target, barrier, failed = tmp_path / "set.json", threading.Barrier(4), []
    data = {"rows": ["x" * 50_000]}

    def write(quickly: bool) -> None:
        for _ in range(40):
            barrier.wait()
            try:
                (disk.write_json_quickly if quickly else disk.write_json)(target, data)
                assert disk.read_json(target) == data
            except Exception as error:
                failed.append(error)

    for quickly in (False, True):
        writers = [threading.Thread(target=write, args=(quickly,)) for _ in range(4)]
        for thread in writers:
            thread.start()
        for thread in writers:
            thread.join()
    assert failed == []
    assert [path.name for path in tmp_path.iterdir()] == ["set.json"]


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
