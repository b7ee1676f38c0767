"""A profile in parts: one window or many, resumed, damaged, in blocks, always the same integers."""

import json
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.routing.test_profile import assert_same
from tests.routing.test_profiler import RETAIN, assert_same_counts, config, texts
from tests.support.models import tiny_olmoe
from trace_engine.config import ModelConfig
from trace_engine.errors import InputError
from trace_engine.models import OpenModel, open_model
from trace_engine.progress import Progress
from trace_engine.routing import (
    Profile,
    contexts,
    expert_card,
    mismatch,
    profile,
    profile_in_parts,
    profiler,
    scan,
    windows,
)
from trace_engine.routing.sampling import Drawn, least
from trace_engine.routing.shards import IDENTITY, Shards
from trace_engine.routing.storage import Arrays
from trace_engine.routing.windows import block_of
from trace_engine.sets import Document, DocumentSet
from trace_engine.sets.streaming import StreamedSet

MANY = texts("many", 47, 5)


@pytest.fixture(scope="module")
def opened() -> OpenModel:
    source = str(tiny_olmoe(layers=2, experts=8, top_k=3))
    return open_model(ModelConfig(source=source, device="cpu"))


@pytest.fixture(scope="module")
def whole(opened: OpenModel) -> Profile:
    return profile(opened, MANY, RETAIN, config(sample_tokens=1000))


@pytest.fixture
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "WINDOW_DOCUMENTS", 4)
    monkeypatch.setattr(profiler, "FOLDED", 3)


class Stopped(Exception):
    pass


def stop_after(tokens: int) -> Callable[[Progress], None]:
    """A listener that ends the work once so many tokens are done, which it hears now and then."""

    def report(progress: Progress) -> None:
        if progress.phase == "profiling forget set" and progress.done >= tokens:
            raise Stopped

    return report


def in_parts(opened: OpenModel, work: Path, **more: object) -> Profile:
    found = profile_in_parts(opened, MANY, RETAIN, config(sample_tokens=1000), work, **more)  # type: ignore[arg-type]
    assert found is not None
    return found


def assert_same_profile(a: Profile, b: Profile, *, bits: bool) -> None:
    for side in ("forget", "retain"):
        compare = assert_same if bits else assert_same_counts
        compare(a.counts(side), b.counts(side))
        left, right = a.sample(side), b.sample(side)
        assert left.complete == right.complete
        np.testing.assert_array_equal(left.document_N, right.document_N)
        np.testing.assert_array_equal(left.token_N, right.token_N)
        np.testing.assert_array_equal(np.sort(left.index_NLK), np.sort(right.index_NLK))
    assert a.token_text == b.token_text


def test_windows_cover_the_set_and_follow_from_it_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "WINDOW_DOCUMENTS", 4)
    monkeypatch.setattr(windows, "WINDOW_CHARACTERS", 100)
    parts = list(windows.windows(iter(MANY.documents)))
    assert tuple(d for part in parts for d in part.documents) == MANY.documents
    assert [part.index for part in parts] == list(range(len(parts)))
    for part in parts:
        assert MANY.documents[part.start] == part.documents[0]
        before_last = sum(len(d.text) for d in part.documents[:-1])
        assert len(part.documents) <= 4
        assert before_last < 100
    assert any(len(part.documents) < 4 for part in parts[:-1])


@pytest.mark.usefixtures("small_windows")
def test_windows_change_no_integer(opened: OpenModel, whole: Profile, tmp_path: Path) -> None:
    cut = profile(opened, MANY, RETAIN, config(sample_tokens=1000))
    assert_same_profile(cut, whole, bits=False)
    kept = in_parts(opened, tmp_path / "work")
    assert_same_profile(kept, cut, bits=True)
    assert kept.meta == cut.meta
    assert not (tmp_path / "work").exists()


@pytest.mark.usefixtures("small_windows")
@pytest.mark.parametrize("tokens", [1, 300, 900])
def test_an_interrupted_profile_goes_on_after_its_finished_windows(
    opened: OpenModel, tmp_path: Path, tokens: int
) -> None:
    expected = profile(opened, MANY, RETAIN, config(sample_tokens=1000))
    said: list[str] = []
    with pytest.raises(Stopped):
        in_parts(opened, tmp_path / "work", report=stop_after(tokens))
    done = {path.name.split("-")[1] for path in (tmp_path / "work").glob("*.shard")}
    finished = bool(done & {"counts", "sum"})
    totals: dict[str, int] = {}
    found = in_parts(
        opened,
        tmp_path / "work",
        report=lambda p: totals.update({p.phase: p.total}),
        say=said.append,
    )
    assert_same_profile(found, expected, bits=True)
    # What was on disk was not computed again.
    whole = sum(len(ids) for ids in scan_lengths(opened))
    assert (totals["profiling forget set"] < whole) == finished
    assert bool(said) == finished


def scan_lengths(opened: OpenModel) -> list[tuple[int, ...]]:
    whole = windows.Window(0, 0, MANY.documents)
    return [item.ids for item in scan.encode_window(opened.tokenizer, whole, config())]


@pytest.mark.usefixtures("small_windows")
def test_a_damaged_part_is_computed_again_and_said(opened: OpenModel, tmp_path: Path) -> None:
    expected = profile(opened, MANY, RETAIN, config(sample_tokens=1000))
    with pytest.raises(Stopped):
        in_parts(opened, tmp_path / "work", report=stop_after(300))
    shards = sorted((tmp_path / "work").glob("forget-*.shard"))
    kinds = {path.name.split("-")[1] for path in shards}
    assert {"scan", "counts"} <= kinds or {"scan", "sum"} <= kinds
    for path in shards:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    said: list[str] = []
    found = in_parts(opened, tmp_path / "work", say=said.append)
    assert_same_profile(found, expected, bits=True)
    assert sum("is computed again" in sentence for sentence in said) == len(shards)


@pytest.mark.usefixtures("small_windows")
@pytest.mark.parametrize("damaged", [(0,), (4,), (0, 1, 11), (3, 4, 5, 6)])
def test_a_part_that_is_damaged_after_it_was_written_is_computed_again_at_once(
    opened: OpenModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damaged: tuple[int, ...]
) -> None:
    expected = profile(opened, MANY, RETAIN, config(sample_tokens=1000))
    names = {f"forget-counts-{index:06d}" for index in damaged}
    write = Shards.write
    routed: list[int] = []
    route = profiler._Side._route

    def spoil(self: Shards, name: str, arrays: Arrays) -> None:
        write(self, name, arrays)
        if name in names:
            self._path(name).write_bytes(b"0" * 100)

    def count(self: profiler._Side, window: windows.Window, *rest: object) -> Arrays:
        if self.name == "forget":
            routed.append(window.index)
        return route(self, window, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Shards, "write", spoil)
    monkeypatch.setattr(profiler._Side, "_route", count)
    said: list[str] = []
    found = in_parts(opened, tmp_path / "work", say=said.append)
    assert_same_profile(found, expected, bits=True)
    assert routed == [*range(12), *damaged]
    assert len(said) == len(damaged)
    assert all("is damaged" in s and "it is computed again" in s for s in said)


@pytest.mark.usefixtures("small_windows")
def test_parts_of_another_device_are_not_added_to_this_ones(
    opened: OpenModel, tmp_path: Path
) -> None:
    with pytest.raises(Stopped):
        in_parts(opened, tmp_path / "work", report=stop_after(300))
    asked = tmp_path / "work" / IDENTITY
    identity = json.loads(asked.read_text())
    assert identity["device"] == "cpu"
    asked.write_text(json.dumps(identity | {"device": "cuda"}))
    said: list[str] = []
    expected = profile(opened, MANY, RETAIN, config(sample_tokens=1000))
    assert_same_profile(in_parts(opened, tmp_path / "work", say=said.append), expected, bits=True)
    assert any("starting again" in sentence for sentence in said)


def test_folding_reads_and_writes_each_window_a_bounded_number_of_times(
    opened: OpenModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twice the windows are twice the work, and the folder never holds more than a fold's worth."""
    monkeypatch.setattr(windows, "WINDOW_DOCUMENTS", 1)
    monkeypatch.setattr(windows, "MOST_DOCUMENTS", 5)
    monkeypatch.setattr(windows, "BLOCKS", 4)
    read, written, held = [0], [0], [0]
    plain_read, plain_write = Shards.read, Shards.write

    def reading(self: Shards, name: str) -> Arrays | None:
        read[-1] += self._path(name).stat().st_size if self._path(name).exists() else 0
        return plain_read(self, name)

    def writing(self: Shards, name: str, arrays: Arrays) -> None:
        plain_write(self, name, arrays)
        written[-1] += self._path(name).stat().st_size
        held[-1] = max(held[-1], sum("-counts-" in n or "-sum-" in n for n in self.names()))

    monkeypatch.setattr(Shards, "read", reading)
    monkeypatch.setattr(Shards, "write", writing)
    for number in (32, 64):
        many = texts("many", number, 5)
        asked = config(sample_tokens=1000, max_length=8)
        assert profile_in_parts(opened, many, RETAIN, asked, tmp_path / str(number)) is not None
        for each in (read, written, held):
            each.append(0)
    assert read[1] < 2.2 * read[0]
    assert written[1] < 2.2 * written[0]
    assert held[1] == held[0] <= profiler.FOLDED + 2


@pytest.mark.usefixtures("small_windows")
def test_parts_of_another_question_are_not_used(
    opened: OpenModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Stopped):
        in_parts(opened, tmp_path / "work", report=stop_after(300))
    monkeypatch.setattr(windows, "WINDOW_DOCUMENTS", 5)
    said: list[str] = []
    expected = profile(opened, MANY, RETAIN, config(sample_tokens=1000))
    assert_same_profile(in_parts(opened, tmp_path / "work", say=said.append), expected, bits=True)
    assert any("starting again" in sentence for sentence in said)


def test_a_truncated_part_counts_as_missing(tmp_path: Path) -> None:
    shards = Shards(tmp_path)
    shards.write("a", {"x": np.arange(1000)})
    np.testing.assert_array_equal(shards.read("a")["x"], np.arange(1000))  # type: ignore[index]
    path = tmp_path / "a.shard"
    path.write_bytes(path.read_bytes()[:100])
    assert shards.read("a") is None
    assert not path.exists()
    assert shards.read("b") is None


def test_the_draw_over_parts_is_the_draw_over_the_whole() -> None:
    rng = np.random.default_rng(0)
    for trial in range(50):
        items = [Drawn.of(trial, f"d{n}", n, int(rng.integers(0, 30))) for n in range(40)]
        cut = int(rng.integers(1, 39))
        limit = int(rng.integers(1, 200))
        kept = least(items[cut:], limit, spare=1)
        merged = least(least(items[:cut], limit, spare=1) + kept, limit)
        assert merged == least(items, limit)


# --- blocks --------------------------------------------------------------------------------------


@pytest.fixture
def blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "MOST_DOCUMENTS", 20)
    monkeypatch.setattr(windows, "BLOCKS", 16)
    monkeypatch.setattr(windows, "WINDOW_DOCUMENTS", 10)


@pytest.mark.usefixtures("blocks")
def test_a_block_is_the_sum_of_its_documents(
    opened: OpenModel, whole: Profile, tmp_path: Path
) -> None:
    found = in_parts(opened, tmp_path / "work")
    assert (found.forget.unit, found.retain.unit) == ("block", "document")
    block_D = np.array([block_of(document.text) for document in MANY.documents])
    assert len(set(block_D)) > 8
    for name in ("tokens_D", "counts_DLE", "skipped_DL"):
        summed = np.zeros_like(getattr(found.forget, name))
        np.add.at(summed, block_D, getattr(whole.forget, name))
        np.testing.assert_array_equal(getattr(found.forget, name), summed, err_msg=name)
    mass = np.zeros_like(found.forget.gate_mass_DLE)
    np.add.at(mass, block_D, whole.forget.gate_mass_DLE)
    np.testing.assert_allclose(found.forget.gate_mass_DLE, mass, rtol=1e-5)
    np.testing.assert_array_equal(found.forget.coactivation_LEE, whole.forget.coactivation_LEE)
    assert found.forget.documents == len(MANY) == whole.forget.documents
    assert found.meta["sets"]["forget"]["blocks"] == 16
    assert found.meta["sets"]["retain"]["blocks"] is None


@pytest.mark.usefixtures("blocks")
def test_contexts_of_blocks_name_their_documents(opened: OpenModel, whole: Profile) -> None:
    found = profile(opened, MANY, RETAIN, config(sample_tokens=1000))
    ids = {d.id for d in MANY.documents}
    cell = (0, int(found.forget.counts_DLE[:, 0].sum(axis=0).argmax()))
    of_blocks, of_documents = (
        {(c.document_id, c.tokens, c.centre) for c in contexts(p, cell, "forget", n=1000)}
        for p in (found, whole)
    )
    assert of_blocks == of_documents
    assert {name for name, _, _ in of_blocks} <= ids
    assert expert_card(found, cell).documents_forget == len(MANY)


@pytest.mark.usefixtures("blocks")
def test_blocks_survive_the_disk_and_are_said(opened: OpenModel, tmp_path: Path) -> None:
    found = profile(opened, MANY, RETAIN, config(sample_tokens=1000))
    found.save(tmp_path / "p")
    loaded = Profile.load(tmp_path / "p")
    assert_same(loaded.forget, found.forget)
    assert_same(loaded.sample_forget, found.sample_forget)
    table = mismatch(found, permutations=99, bootstrap=100)
    assert table.documents_forget == len(MANY)
    assert (table.blocks_forget, table.blocks_retain) == (len(np.unique(block_rows())), 0)
    assert any("blocks" in note and "47" in note for note in table.notes)
    with pytest.raises(InputError, match="per block"):
        found.forget.merge(found.forget)


def block_rows() -> list[int]:
    return [block_of(document.text) for document in MANY.documents]


@pytest.mark.usefixtures("blocks")
def test_equal_texts_share_a_block_and_order_plays_no_part(opened: OpenModel) -> None:
    one = profile(opened, MANY, RETAIN, config())
    turned = replace(MANY, documents=MANY.documents[::-1])
    two = profile(opened, turned, RETAIN, config())
    np.testing.assert_array_equal(one.forget.counts_DLE, two.forget.counts_DLE)
    np.testing.assert_array_equal(one.forget.tokens_D, two.forget.tokens_D)
    again = DocumentSet.of("x", "x", [Document(f"n{n}", "same text") for n in range(30)])
    assert (profile(opened, again, RETAIN, config()).forget.tokens_D > 0).sum() == 1


# --- memory --------------------------------------------------------------------------------------


@pytest.mark.scale  # 22,000 documents through a model, traced: a minute or more
def test_memory_does_not_grow_with_the_documents(
    opened: OpenModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(windows, "WINDOW_DOCUMENTS", 500)
    monkeypatch.setattr(windows, "MOST_DOCUMENTS", 1_000)
    monkeypatch.setattr(windows, "BLOCKS", 64)
    monkeypatch.setattr(scan, "KEPT_TOKENS", 10_000)
    peaks = []
    for number in (2_000, 20_000):

        def rows(number: int = number) -> Iterator[Document]:
            return (Document(f"d{n}", f"{n} " + "old river " * 5) for n in range(number))

        many = StreamedSet.of("many", "test:many", rows)
        tracemalloc.start()
        try:
            asked = config(sample_tokens=1000, max_length=8)
            found = profile_in_parts(opened, many, RETAIN, asked, tmp_path / str(number))
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
        assert found is not None
        assert found.forget.documents == number
    # 18,000 documents' texts and ids alone would be 3 MB.
    assert peaks[1] < peaks[0] + 1_000_000
