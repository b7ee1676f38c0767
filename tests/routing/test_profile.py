"""What a profile promises on disk and under addition."""

import json
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from tests.support.profiles import counts_of, synthetic_profile
from trace_engine.errors import InputError
from trace_engine.routing import (
    Profile,
    RoutingCounts,
    contexts,
    expert_card,
    mismatch,
    storage,
)
from trace_engine.routing.storage import pack_arrays, unpack_arrays

AXES = ("_N", "_NLK")
"""How the names of a sample's arrays end."""


def assert_same(a: object, b: object) -> None:
    for field in fields(a):  # type: ignore[arg-type]
        left, right = getattr(a, field.name), getattr(b, field.name)
        if isinstance(left, np.ndarray):
            np.testing.assert_array_equal(left, right, err_msg=field.name)
            assert left.dtype == right.dtype, field.name
        else:
            assert left == right, field.name


def part_of(profile: Profile, start: int, stop: int) -> RoutingCounts:
    sample = profile.sample_forget
    keep = (sample.document_N >= start) & (sample.document_N < stop)
    cut = replace(
        sample,
        **{f.name: getattr(sample, f.name)[keep] for f in fields(sample) if f.name.endswith(AXES)},
    )
    cut = replace(cut, document_N=cut.document_N - start)
    return counts_of(cut, profile.forget.document_ids[start:stop], 8, 40)


def test_a_profile_survives_the_disk(tmp_path: Path) -> None:
    profile = synthetic_profile(documents=12, layers=(1, 3, 6), skipped=0.1)
    profile.save(tmp_path / "a" / "profile")
    loaded = Profile.load(tmp_path / "a" / "profile")
    for name in ("forget", "retain", "sample_forget", "sample_retain"):
        assert_same(getattr(profile, name), getattr(loaded, name))
    assert loaded.meta == profile.meta
    assert loaded.token_text == profile.token_text
    assert loaded.layers == (1, 3, 6)
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["profile"]


def test_saving_again_gives_the_same_bytes_and_replaces(tmp_path: Path) -> None:
    profile = synthetic_profile(documents=6)
    profile.save(tmp_path / "p")
    first = {path.name: path.read_bytes() for path in (tmp_path / "p").iterdir()}
    (tmp_path / "p" / "stale").write_text("from before")
    profile.save(tmp_path / "p")
    assert {path.name: path.read_bytes() for path in (tmp_path / "p").iterdir()} == first


def test_loading_needs_no_torch(tmp_path: Path) -> None:
    synthetic_profile(documents=4).save(tmp_path / "p")
    code = (
        "import sys; from trace_engine.routing import Profile; "
        f"Profile.load({str(tmp_path / 'p')!r}); print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    "name", ["counts.npz", "sample.npz", "documents.json", "vocabulary.json", "profile.json"]
)
def test_damage_is_a_sentence(tmp_path: Path, name: str) -> None:
    synthetic_profile(documents=4).save(tmp_path / "p")
    data = bytearray((tmp_path / "p" / name).read_bytes())
    del data[len(data) // 2 :]
    (tmp_path / "p" / name).write_bytes(bytes(data))
    with pytest.raises(InputError, match=name.replace(".", r"\.")):
        Profile.load(tmp_path / "p")


def test_missing_unknown_and_foreign_are_sentences(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no profile here"):
        Profile.load(tmp_path / "nothing")
    synthetic_profile(documents=4).save(tmp_path / "p")
    head = json.loads((tmp_path / "p" / "profile.json").read_text())
    (tmp_path / "p" / "counts.npz").unlink()
    with pytest.raises(InputError, match=r"counts\.npz is missing"):
        Profile.load(tmp_path / "p")
    (tmp_path / "p" / "profile.json").write_text(json.dumps(head | {"schema": 99}))
    with pytest.raises(InputError, match=r"format 99.*a newer version wrote it"):
        Profile.load(tmp_path / "p")
    (tmp_path / "p" / "profile.json").write_text(json.dumps(head | {"schema": "x"}))
    with pytest.raises(InputError, match="schema 'x', expected 1"):
        Profile.load(tmp_path / "p")
    (tmp_path / "p" / "profile.json").write_text("[]")
    with pytest.raises(InputError, match="schema None"):
        Profile.load(tmp_path / "p")


def test_saving_over_a_file_is_refused_and_leaves_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="could not be saved"):
        synthetic_profile(documents=4).save(tmp_path / "file" / "p")
    assert (tmp_path / "file").read_text() == "mine"


def test_site_of_names_the_layers() -> None:
    profile = synthetic_profile(documents=4, layers=(1, 3, 6))
    assert profile.site_of(6) == 2
    with pytest.raises(InputError, match="MoE layers: 1, 3, 6"):
        profile.site_of(2)
    with pytest.raises(InputError, match="experts 0 to 7; found 8"):
        profile.check_cell(3, 8)
    with pytest.raises(InputError, match='"forget" or "retain"'):
        profile.counts("both")


def test_two_parts_merge_to_the_whole() -> None:
    profile = synthetic_profile(documents=14, skipped=0.1)
    merged = part_of(profile, 0, 5).merge(part_of(profile, 5, 14))
    assert_same(merged, profile.forget)


def test_merge_refuses_shared_documents_and_other_models() -> None:
    counts = synthetic_profile(documents=4).forget
    with pytest.raises(InputError, match="4 documents are in both parts"):
        counts.merge(counts)
    with pytest.raises(InputError, match="different models"):
        counts.merge(synthetic_profile(documents=4, layers=(0, 1)).retain)


def test_merge_drops_ids_it_cannot_know() -> None:
    whole = synthetic_profile(documents=10)
    first, second = part_of(whole, 0, 5), part_of(whole, 5, 10)
    bounded = replace(
        first,
        token_ids_V=first.token_ids_V[:9],
        token_totals_V=first.token_totals_V[:9],
        token_counts_VLE=first.token_counts_VLE[:9],
    )
    merged = bounded.merge(second)
    assert merged.token_ids_V.tolist() == bounded.token_ids_V.tolist()
    np.testing.assert_array_equal(merged.token_totals_V, whole.forget.token_totals_V[:9])
    assert 0 < merged.token_coverage < 1


def test_merging_is_associative_and_counts_what_order_does_not_change() -> None:
    whole = synthetic_profile(documents=12, skipped=0.1)
    a, b, c = part_of(whole, 0, 3), part_of(whole, 3, 4), part_of(whole, 4, 12)
    assert_same(a.merge(b).merge(c), a.merge(b.merge(c)))
    turned = c.merge(a).merge(b)
    np.testing.assert_array_equal(turned.token_counts_VLE, whole.forget.token_counts_VLE)
    np.testing.assert_array_equal(turned.coactivation_LEE, whole.forget.coactivation_LEE)


def test_large_counts_are_not_cut_on_disk() -> None:
    large = {"a": np.array([[2**40, -1]]), "b": np.array([70_000]), "c": np.array([3])}
    kept = unpack_arrays(pack_arrays(large))
    for name, array in large.items():
        np.testing.assert_array_equal(kept[name], array)
    assert kept["c"].dtype == np.int8
    with pytest.raises(TypeError, match="without pickle"):
        pack_arrays({"a": np.array([object()])})


def test_a_header_cannot_point_elsewhere(tmp_path: Path) -> None:
    synthetic_profile(documents=4).save(tmp_path / "p")
    head = json.loads((tmp_path / "p" / "profile.json").read_text())
    head["files"] = {"../outside": "0"}
    (tmp_path / "p" / "profile.json").write_text(json.dumps(head))
    with pytest.raises(InputError, match="damaged"):
        Profile.load(tmp_path / "p")


def test_a_large_profile_is_mapped_and_says_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile = synthetic_profile(documents=40, skipped=0.1)
    monkeypatch.setattr(storage, "COMPRESSED_BYTES", 1)
    profile.save(tmp_path / "p")
    loaded = Profile.load(tmp_path / "p")
    counts = loaded.forget.counts_DLE
    assert isinstance(counts.base, np.memmap)
    assert counts.dtype == np.int8
    for name in ("forget", "retain", "sample_forget", "sample_retain"):
        before, after = getattr(profile, name), getattr(loaded, name)
        wide = {
            field.name: getattr(after, field.name).astype(getattr(before, field.name).dtype)
            for field in fields(before)
            if isinstance(getattr(before, field.name), np.ndarray)
        }
        assert_same(replace(after, **wide), before)
    # Sums over narrow counts must not wrap round.
    assert counts.sum(axis=0).dtype == np.int64
    small, large = (mismatch(p, permutations=99, bootstrap=100) for p in (profile, loaded))
    np.testing.assert_array_equal(small.table(), large.table())
    for cell in ((0, 1), (3, 3)):
        assert expert_card(loaded, cell) == expert_card(profile, cell)
        assert contexts(loaded, cell, "forget") == contexts(profile, cell, "forget")


def test_damage_in_a_large_profile_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "COMPRESSED_BYTES", 1)
    synthetic_profile(documents=12).save(tmp_path / "p")
    path = tmp_path / "p" / "sample.npz"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"sample\.npz does not match"):
        Profile.load(tmp_path / "p")
