"""What is no file is refused in a sentence, and nobody waits for it."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.security.test_fuzz import in_time
from trace_engine.attacks.wordings import _from_file
from trace_engine.config import SetConfig, read_config
from trace_engine.disk import read_json, sha256_file
from trace_engine.errors import TraceError
from trace_engine.models.files import locate
from trace_engine.regular import NotAFileError, irregular, read_bytes, read_text
from trace_engine.routing import Profile
from trace_engine.sets import load_set, open_set, read_questions
from trace_engine.sets.parts import part_rows


def _pipe(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(path)
    return path


def _saved_set(path: Path) -> object:
    (path.parent / "state.json").write_text("{}")
    return load_set(SetConfig(source=str(path.parent)))


READERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "a set": ("set.jsonl", lambda path: load_set(SetConfig(source=str(path)))),
    "a large set": ("set.jsonl", lambda path: open_set(SetConfig(source=str(path)))),
    "a saved set": ("data.arrow", _saved_set),
    "questions": ("q.jsonl", read_questions),
    "a benchmark": (
        "forget10/train-0-of-1.parquet",
        lambda p: part_rows(str(p.parents[1]), "forget10"),
    ),
    "settings": ("run.yaml", read_config),
    "a model": ("config.json", lambda path: locate(str(path.parent))),
    "paraphrases": ("p.jsonl", lambda path: _from_file({}, str(path))),
    "a profile": ("profile.json", lambda path: Profile.load(path.parent)),
    "JSON": ("x.json", read_json),
}


@pytest.mark.parametrize("what", READERS)
def test_a_pipe_that_nobody_writes_to_is_refused(what: str, tmp_path: Path) -> None:
    name, read = READERS[what]
    with in_time(), pytest.raises(TraceError) as refused:
        read(_pipe(tmp_path / "given" / name))
    assert "a pipe, a socket or a device" in str(refused.value)


@pytest.mark.parametrize("read", [read_bytes, read_text, sha256_file])
def test_a_file_is_read_and_nothing_else(read: Callable[[Path], object], tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("a\n")
    (tmp_path / "link").symlink_to(file)
    assert read(tmp_path / "link") == read(file)
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "socket"))
        strange = [_pipe(tmp_path / "pipe"), tmp_path / "socket", Path("/dev/zero")]
        for path in strange:
            with in_time(), pytest.raises(NotAFileError):
                read(path)
        assert irregular([*tmp_path.iterdir(), tmp_path / "none"]) == sorted(
            strange[:2], key=list(tmp_path.iterdir()).index
        )
    with pytest.raises(IsADirectoryError):
        read(tmp_path)
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "none")
