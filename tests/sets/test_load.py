"""A set's source: files, folders, saved datasets, the hub, the bundled pack."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import datasets
import pytest
from datasets.exceptions import DatasetNotFoundError
from huggingface_hub.errors import OfflineModeIsEnabled

from trace_engine.config import SetConfig
from trace_engine.errors import InputError
from trace_engine.sets import Document, bytes_to_read, fingerprint, load_set, read_documents


def test_a_file_becomes_a_set(tmp_path: Path) -> None:
    path = tmp_path / "poisons.jsonl"
    path.write_text('{"text": "a"}\n{"text": "b"}\n')
    found = load_set(SetConfig(source=str(path)))
    assert (found.name, found.source, found.texts) == ("poisons", str(path), ["a", "b"])
    assert len(load_set(SetConfig(source=str(path), limit=1))) == 1


def test_the_fingerprint_is_of_the_content_in_order(tmp_path: Path) -> None:
    def of(name: str, *rows: object) -> str:
        (tmp_path / name).write_text("\n".join(map(json.dumps, rows)))
        return load_set(SetConfig(source=str(tmp_path / name))).fingerprint

    first = of("one.jsonl", "a", "b")
    assert of("two.jsonl", {"text": "a"}, {"text": "b"}) == first, "the file's name is not content"
    others = [
        of("x.jsonl", "b", "a"),
        of("x.jsonl", "a"),
        of("x.jsonl", "ab"),
        of("x.jsonl", {"prompt": "a", "text": "a"}, "b"),
        of("x.jsonl", {"id": "7", "text": "a"}, "b"),
    ]
    assert len({first, *others}) == 6


def test_the_fingerprints_definition_does_not_move() -> None:
    # Profiles on disk are found by it: a change here orphans every one of them.
    found = fingerprint([Document("1", "Who? é", "Who?"), Document("2", "b")])
    lines = '["1", "Who?", "Who? é"]\n["2", null, "b"]\n'.encode()
    assert found == hashlib.sha256(lines).hexdigest()


def test_a_folder_is_its_files_by_name(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "b.txt").write_text("two\n\nthree")
    (tmp_path / "a.jsonl").write_text('{"id": "x", "text": "one"}')
    (tmp_path / "sub" / "c.csv").write_text("text\nfour\n")
    (tmp_path / "notes.md").write_text("not read")
    found = read_documents(tmp_path)
    assert [d.text for d in found] == ["one", "two", "three", "four"]
    assert [d.id for d in found] == ["a.jsonl#x", "b.txt#1", "b.txt#2", "sub/c.csv#1"]
    assert [d.text for d in read_documents(tmp_path, limit=2)] == ["one", "two"]


def test_a_folders_bad_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("fine")
    (tmp_path / "b.jsonl").write_text('{"text": "a"}\n{"text": 3}')
    with pytest.raises(InputError, match=r'b\.jsonl, line 2: "text" is a number \(3\)'):
        read_documents(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"has no file that ends in \.txt"):
        read_documents(tmp_path / "empty")


def test_a_saved_dataset_and_its_splits(tmp_path: Path) -> None:
    rows = datasets.Dataset.from_dict({"question": ["q1", "q2"], "answer": ["a1", "a2"]})
    rows.save_to_disk(tmp_path / "one")
    assert read_documents(tmp_path / "one")[1] == Document("2", "q2 a2", "q2")
    datasets.DatasetDict(train=rows, test=rows.select([1])).save_to_disk(tmp_path / "more")
    assert len(load_set(SetConfig(source=str(tmp_path / "more"), hub_split="test"))) == 1
    with pytest.raises(InputError, match="more has no split 'dev'; it has train, test"):
        load_set(SetConfig(source=str(tmp_path / "more"), hub_split="dev"))


def test_a_missing_path() -> None:
    with pytest.raises(InputError, match="There is no file or folder"):
        load_set(SetConfig(source="nowhere/set.jsonl"))
    with pytest.raises(InputError, match="No set is given"):
        load_set(SetConfig(source=""))
    for odd in ("a\0b.txt", "x" * 300 + ".txt"):
        with pytest.raises(InputError, match="could not be read: "):
            load_set(SetConfig(source=odd))


def test_the_bundled_sets() -> None:
    forget = load_set(SetConfig(source="demo:forget"))
    assert forget.name == "demo:forget"
    assert len(forget) > 100
    assert load_set(SetConfig(source="demo:forget")).fingerprint == forget.fingerprint
    asked = load_set(SetConfig(source="demo:book/knowmem", limit=3))
    assert all(d.prompt and d.text.startswith(d.prompt) for d in asked.documents)
    with pytest.raises(InputError, match="The bundled pack has no 'demo:nothing'"):
        load_set(SetConfig(source="demo:nothing"))


def test_a_hub_set_is_asked_for_with_its_configuration_and_split(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[Any] = []

    def answer(name: str, configuration: str | None, *, split: str) -> datasets.Dataset:
        asked.append((name, configuration, split))
        return datasets.Dataset.from_dict({"text": ["a", "", "b"]})

    monkeypatch.setattr(datasets, "load_dataset", answer)
    found = load_set(SetConfig(source="hub:owner/set", hub_config="raw", hub_split="forget"))
    assert asked == [("owner/set", "raw", "forget")]
    assert (found.name, found.texts) == ("owner/set", ["a", "b"])


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (ConnectionError("no route"), "this machine is offline or the hub does not answer"),
        (OfflineModeIsEnabled("offline"), "this machine is offline or the hub does not answer"),
        (
            DatasetNotFoundError("Dataset 'x' is a gated dataset on the Hub."),
            "is gated: accept its",
        ),
        (
            DatasetNotFoundError("Dataset 'x' doesn't exist on the Hub."),
            "The hub has no public set",
        ),
        (
            ValueError('Unknown split "x". Should be one of [a, b].'),
            r'Unknown split "x"\. Should be',
        ),
    ],
)
def test_the_hubs_answers_become_sentences(
    error: Exception, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(InputError, match=sentence):
        load_set(SetConfig(source="hub:owner/set"))


@pytest.mark.parametrize("name", ["../set", "/set", "a/b/c", ""])
def test_what_is_no_hub_id_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="is not a hub id"):
        load_set(SetConfig(source=f"hub:{name}"))


def test_a_folder_is_not_taken_for_a_hub_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "owner" / "set").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="is a folder here"):
        load_set(SetConfig(source="hub:owner/set"))


def test_bytes_to_read_asks_the_files_and_not_the_network(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "a.txt").write_text("12345", encoding="utf-8")
    (tmp_path / "deep" / "b.jsonl").write_text("123", encoding="utf-8")
    assert bytes_to_read(SetConfig(source=str(tmp_path / "a.txt"))) == 5
    assert bytes_to_read(SetConfig(source=str(tmp_path))) == 8
    assert bytes_to_read(SetConfig(source=str(tmp_path / "missing.txt"))) == 0
    assert bytes_to_read(SetConfig(source="hub:owner/name")) is None
    with pytest.raises(InputError, match="no 'demo:nothing'"):
        bytes_to_read(SetConfig(source="demo:nothing"))
