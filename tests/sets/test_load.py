"""A set's source: files, folders, saved datasets, the hub, the bundled pack."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest
from datasets.exceptions import DatasetNotFoundError
from huggingface_hub.errors import OfflineModeIsEnabled

from trace_engine.config import SetConfig
from trace_engine.errors import InputError
from trace_engine.sets import (
    Document,
    Documents,
    DocumentSet,
    bytes_to_read,
    fingerprint,
    load_set,
    open_set,
    read_documents,
)
from trace_engine.sets import load as load_module
from trace_engine.sets.streaming import StreamedSet


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

    def answer(
        name: str, configuration: str | None, *, split: str, streaming: bool
    ) -> datasets.IterableDataset:
        asked.append((name, configuration, split, streaming))
        return datasets.Dataset.from_dict({"text": ["a", "", "b"]}).to_iterable_dataset()

    monkeypatch.setattr(datasets, "load_dataset", answer)
    found = load_set(SetConfig(source="hub:owner/set", hub_config="raw", hub_split="forget"))
    assert asked == [("owner/set", "raw", "forget", True)]
    assert (found.name, found.texts) == ("owner/set", ["a", "b"])
    load_set(SetConfig(source="hub:owner/set", hub_split="train[:50%]"))
    assert asked[1] == ("owner/set", None, "train[:50%]", False)  # no slice can be streamed


class Counted:
    """A hub set that says how many rows were taken from it, and may fail after some."""

    def __init__(self, rows: int, fails_after: int | None = None) -> None:
        self.rows, self.fails_after, self.taken = rows, fails_after, 0

    def asked(self, *_: Any, streaming: bool, **__: Any) -> datasets.IterableDataset:
        assert streaming
        return datasets.IterableDataset.from_generator(self._generate)

    def _generate(self) -> Iterator[dict[str, Any]]:
        for number in range(self.rows):
            if number == self.fails_after:
                raise ConnectionError("the hub went away")
            self.taken += 1
            yield {"text": f"row {number}", "id": number // 2}


@pytest.mark.parametrize("opened", [load_set, open_set])
def test_no_row_beyond_the_limit_is_taken_from_the_hub(
    opened: Callable[[SetConfig], Documents], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = Counted(1_000)
    monkeypatch.setattr(datasets, "load_dataset", hub.asked)
    found = opened(SetConfig(source="hub:owner/set", limit=7))
    assert [d.id for d in found.stream()] == ["0", "0#2", "1", "1#2", "2", "2#2", "3"]
    assert hub.taken == 7


@pytest.mark.parametrize("limit", [None, 5])
@pytest.mark.parametrize("bound", ["STREAMED_ROWS", "STREAMED_BYTES"])
def test_a_hub_set_is_the_saved_one(
    bound: str, limit: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Held whole, streamed, and saved by `datasets`, from the very Parquet files of a hub set."""
    texts = [f"row {n}" if n % 4 else " " for n in range(40)]
    ids = [n // 3 if n % 5 else None for n in range(40)]
    rows = datasets.Dataset.from_dict({"text": texts, "id": ids})
    for shard in (0, 1):
        rows.shard(2, shard, contiguous=True).to_parquet(tmp_path / f"train-{shard}.parquet")
    rows.save_to_disk(tmp_path / "saved")
    real = datasets.load_dataset

    def hub(_: str, __: str | None, *, split: str, streaming: bool) -> Any:
        files = [str(tmp_path / f"train-{shard}.parquet") for shard in (0, 1)]
        return real("parquet", data_files=files, split=split, streaming=streaming)

    monkeypatch.setattr(datasets, "load_dataset", hub)
    saved = load_set(SetConfig(source=str(tmp_path / "saved"), limit=limit))
    config = SetConfig(source="hub:owner/set", limit=limit)
    held = open_set(config)
    assert isinstance(held, DocumentSet)
    monkeypatch.setattr(load_module, bound, 3)
    streamed = open_set(config)
    assert isinstance(streamed, StreamedSet)
    assert saved.documents == load_set(config).documents == held.documents
    assert saved.documents == tuple(streamed.stream()) == tuple(streamed.stream())
    assert saved.fingerprint == held.fingerprint == streamed.fingerprint
    assert len(saved) == len(streamed)


@pytest.mark.parametrize("opened", [load_set, open_set])
def test_a_hub_that_stops_answering_is_a_sentence(
    opened: Callable[[SetConfig], Documents], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets, "load_dataset", Counted(9, fails_after=4).asked)
    with pytest.raises(InputError, match="hub set owner/set cannot be fetched: this machine is"):
        opened(SetConfig(source="hub:owner/set"))


@pytest.mark.parametrize("opened", [load_set, open_set])
def test_a_hub_set_of_empty_rows_is_refused(
    opened: Callable[[SetConfig], Documents], monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = datasets.Dataset.from_dict({"text": ["", " "]}).to_iterable_dataset()
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: empty)
    with pytest.raises(InputError, match="owner/set has no documents: every row is empty"):
        opened(SetConfig(source="hub:owner/set"))


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
