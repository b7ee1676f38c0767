"""Sets that stream: the same documents, ids, fingerprint and refusals as sets that are held."""

import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from trace_engine.config import SetConfig
from trace_engine.errors import InputError
from trace_engine.sets import Document, DocumentSet, check_pair, load_set, open_set, overlap
from trace_engine.sets import load as load_module
from trace_engine.sets.streaming import StreamedSet

LINES = [json.dumps({"text": f"Zeile {n} ä  ", "id": f"r{n}"}) for n in range(30)]


@pytest.fixture(autouse=True)
def stream_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_module, "STREAMED_BYTES", 0)
    monkeypatch.setattr(load_module, "STREAMED_ROWS", 0)


def streamed(path: Path, **more: object) -> StreamedSet:
    found = open_set(SetConfig(source=str(path), **more))  # type: ignore[arg-type]
    assert isinstance(found, StreamedSet)
    return found


FILES = {
    "rows.jsonl": "\n".join(LINES) + "\n\n",
    "strings.jsonl": '"one"\r\n\r\n"two"\n"\\u2028three"',
    "plain.jsonl": "\n  first line\nsecond {line\n\nthird",
    "repeats.jsonl": "".join(
        json.dumps({"text": f"t{n}", "id": name}) + "\n"
        for n, name in enumerate(["a", "a", "a#2", "b", "a", "a#2", "a#3", "b", "c"])
    ),
    "numbers.jsonl": '{"text": "x", "id": 2}\n{"text": "y"}\n{"text": "z", "id": 3}\n{"text": "w"}',
    "pairs.jsonl": '{"question": "q?", "answer": "a"}\n{"question": "p?", "answer": "b"}',
    "marked.jsonl": "\ufeff" + LINES[0],
    "text.txt": "\n\n  one\n  still one  \n \t \n\n two\r\n\r\nthree\rstill three\n\n four  \n\n\n",
    "single.txt": "only one  ",
    "table.csv": "id,text\n1,one\n1,two\n",
    "list.json": '["one", "two"]',
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("limit", [None, 2])
def test_a_streamed_file_is_the_held_file(tmp_path: Path, name: str, limit: int | None) -> None:
    (tmp_path / name).write_bytes(FILES[name].encode())
    config = SetConfig(source=str(tmp_path / name), limit=limit)
    held, found = load_set(config), streamed(tmp_path / name, limit=limit)
    assert tuple(found.stream()) == held.documents == tuple(found.stream())
    assert (found.fingerprint, len(found), found.name) == (held.fingerprint, len(held), held.name)


def test_a_streamed_folder_parquet_and_dataset_are_the_held_ones(tmp_path: Path) -> None:
    import datasets
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    for name, content in FILES.items():
        (folder / "sub" / name).write_bytes(content.encode())
    table = pa.table({"text": [f"row {n}" if n % 3 else "  " for n in range(25)]})
    pq.write_table(table, folder / "rows.parquet")
    datasets.Dataset(table).save_to_disk(tmp_path / "saved")
    for path in (folder, tmp_path / "saved"):
        held, found = load_set(SetConfig(source=str(path))), streamed(path)
        assert tuple(found.stream()) == held.documents
        assert found.fingerprint == held.fingerprint


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("bad.jsonl", LINES[0].encode() + b"\n{nope\n"),
        ("number.jsonl", b'{"text": "a"}\n{"text": 42}\n'),
        ("blank.jsonl", b'{"text": "a"}\n\n{"text": " "}\n'),
        ("binary.txt", b"fine\n\nstill fine\n\x00\x01"),
        ("latin.txt", b"fine\n\ncaf\xe9 au lait"),
        ("marked.txt", b"\xef\xbb\xbffine\ncaf\xe9"),
        ("broken.parquet", b"PAR1 no more"),
        ("wrong.jsonl", b'{"title": "a"}\n'),
    ],
)
def test_a_bad_file_is_refused_in_the_same_words(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    sentences = []
    for opened in (load_set, open_set):
        with pytest.raises(InputError) as refused:
            opened(SetConfig(source=str(tmp_path / name)))
        sentences.append(str(refused.value))
    assert sentences[0] == sentences[1]


def test_small_sets_stay_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    (tmp_path / "a.jsonl").write_text("\n".join(LINES))
    found = open_set(SetConfig(source=str(tmp_path / "a.jsonl")))
    assert isinstance(found, DocumentSet)
    assert isinstance(open_set(SetConfig(source="demo:forget", limit=3)), DocumentSet)


def test_a_set_that_changes_while_it_is_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(LINES))
    found = streamed(path)
    path.write_text("\n".join(LINES[:-1]))
    with pytest.raises(InputError, match="changed while it was being read"):
        list(found.stream())


def test_overlap_of_streamed_sets(tmp_path: Path) -> None:
    (tmp_path / "f.txt").write_text("One  text\n\nonly here\n\nTWO")
    (tmp_path / "r.txt").write_text("one text\n\ntwo\n\nthree")
    (tmp_path / "same.txt").write_text("three\n\none TEXT\n\ntwo\n\ntwo")
    paths = [tmp_path / f"{name}.txt" for name in ("f", "r", "same")]
    held = [load_set(SetConfig(source=str(path))) for path in paths]
    found = [streamed(path) for path in paths]
    for forget, retain in ((0, 1), (1, 0), (1, 2)):
        expected = overlap(held[forget], held[retain])
        assert overlap(found[forget], found[retain]) == expected
        assert overlap(held[forget], found[retain]) == expected
    with pytest.raises(InputError, match="same texts"):
        check_pair(found[1], found[2])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["jsonl", "txt", "parquet"])
def test_memory_does_not_grow_with_the_documents(tmp_path: Path, kind: str) -> None:
    peaks = {number: peak_of(tmp_path, kind, number) for number in (1_000, 10_000)}
    # Of 1 kB a document some 20 bytes may stay; the rest of the allowance is for the unforeseen.
    assert peaks[10_000] < peaks[1_000] + 9_000 * 100
    assert peaks[10_000] < 10_000 * 1_000 / 4


def peak_of(folder: Path, kind: str, number: int) -> int:
    path = folder / f"{number}.{kind}"
    text = "many words in a row " * 50
    if kind == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        rows = pa.table({"text": [f"{n} {text}" for n in range(number)]})
        pq.write_table(rows, path, row_group_size=500)
        del rows
    else:
        line = '{{"text": "{} {}"}}\n' if kind == "jsonl" else "{} {}\n\n"
        with path.open("w") as file:
            file.writelines(line.format(n, text) for n in range(number))
    tracemalloc.start()
    try:
        found = streamed(path)
        assert sum(1 for _ in found.stream()) == len(found) == number
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_many_repeats_are_renamed_as_in_memory() -> None:
    rows = [Document("x" if n % 2 else "x#2", f"text {n}") for n in range(400)]

    def opened() -> Iterator[Document]:
        return iter(rows)

    found = StreamedSet.of("n", "s", opened)
    ids = [document.id for document in found.stream()]
    assert len(set(ids)) == 400
    from trace_engine.sets.rows import Row, to_documents

    raw = (Row("here", {"id": row.id, "text": row.text}) for row in rows)
    assert ids == [document.id for document in to_documents(raw, "n")]
