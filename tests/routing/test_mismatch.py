"""The map tells truth from chance: planted cells are found, nulls keep their level, little data
says so."""

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from tests.support.profiles import synthetic_profile
from trace_engine.config import Cell
from trace_engine.errors import InputError
from trace_engine.progress import Progress
from trace_engine.routing import Mismatch, Profile, load_mismatch, mismatch
from trace_engine.routing.mismatch_map import CELL_COLUMNS
from trace_engine.routing.resample import (
    benjamini_hochberg,
    bootstrap_ratios,
    max_permutation_test,
    ratio_of_sums,
    ratio_standard_error,
)

QUICK = {"permutations": 499, "bootstrap": 200}


def assert_no_nan(found: Mismatch) -> None:
    for name in CELL_COLUMNS:
        assert np.isfinite(getattr(found, name)).all(), name


@pytest.mark.parametrize("statistic", ["frequency", "gate_mass"])
def test_planted_cells_are_found(statistic: str) -> None:
    profile = synthetic_profile(planted=[(0, 1), (3, 3)], documents=80)
    found = mismatch(profile, statistic, **QUICK)
    assert_no_nan(found)
    table = found.table().sort_values("difference", ascending=False)
    top = {(row.layer, row.expert) for row in table.head(2).itertuples()}
    assert top == {(0, 1), (3, 3)}
    for row, expert in ((0, 1), (3, 3)):
        assert found.p_max[row, expert] == 1 / 500
        assert found.q_bh[row, expert] < 0.05
        assert found.low[row, expert] > 0.1
        assert found.ratio_low[row, expert] > 1.5
        assert found.matched_difference[row, expert] > 0.1
        assert abs(found.null_difference[row, expert]) < found.low[row, expert]
    assert found.p_max[1].min() > 0.01
    assert found.matched_coverage == 1.0


def test_the_numbers_are_those_of_the_definition() -> None:
    profile = synthetic_profile(documents=20, retain_documents=30, skipped=0.1)
    found = mismatch(profile, **QUICK)
    f, r = profile.forget, profile.retain
    np.testing.assert_allclose(found.forget, f.counts_DLE.sum(0) / f.tokens_D.sum(), rtol=1e-12)
    np.testing.assert_allclose(found.difference, found.forget - found.retain, rtol=1e-12)
    epsilon = 0.5 / min(f.tokens_D.sum(), r.tokens_D.sum())
    np.testing.assert_allclose(
        found.ratio, (found.forget + epsilon) / (found.retain + epsilon), rtol=1e-12
    )
    np.testing.assert_allclose(found.log_ratio, np.log2(found.ratio))
    np.testing.assert_allclose(
        found.z, found.difference / np.hypot(found.standard_error, epsilon), rtol=1e-9
    )
    inside = (found.low <= found.difference) & (found.difference <= found.high)
    assert inside.all()
    assert ((found.ratio_low <= found.ratio) & (found.ratio <= found.ratio_high)).all()
    assert (found.p_max >= found.p_cell).all()
    assert (found.q_bh >= found.p_cell).all()


def test_equal_sides_have_no_gap() -> None:
    found = mismatch(synthetic_profile(equal=True), **QUICK)
    assert (found.difference == 0).all()
    assert (found.ratio == 1).all()
    assert (found.z == 0).all()
    assert (found.p_max == 1).all()
    np.testing.assert_allclose(found.matched_difference, 0, atol=1e-12)


def test_an_expert_never_seen_on_the_retain_side_is_finite() -> None:
    profile = synthetic_profile(unseen=(1, 2), layers=(0, 1))
    found = mismatch(profile, **QUICK)
    assert found.retain[1, 2] == 0
    assert found.ratio[1, 2] > 100
    assert_no_nan(found)


def test_max_statistic_keeps_its_level_on_nulls() -> None:
    """Family-wise false positives at 0.1 over 300 nulls: within four standard errors of 0.1."""
    rng = np.random.default_rng(5)
    hits, trials = 0, 300
    for _ in range(trials):
        tokens_D = rng.integers(5, 60, 36).astype(float)
        share_DC = rng.beta(1.5, 6, (36, 12))
        total_DC = rng.binomial(tokens_D[:, None].astype(int), share_DC).astype(float)
        test = max_permutation_test(total_DC, tokens_D, np.arange(36) < 14, 99, rng, 1e-4)
        hits += bool((test.p_max <= 0.1).any())
    assert abs(hits / trials - 0.1) < 4 * np.sqrt(0.1 * 0.9 / trials)


def test_a_real_gap_has_power() -> None:
    rng = np.random.default_rng(6)
    tokens_D = rng.integers(20, 60, 60).astype(float)
    share_DC = np.full((60, 12), 0.1)
    share_DC[:30, 4] = 0.25
    total_DC = rng.binomial(tokens_D[:, None].astype(int), share_DC).astype(float)
    test = max_permutation_test(total_DC, tokens_D, np.arange(60) < 30, 499, rng, 1e-4)
    assert test.p_max.argmin() == 4
    assert test.p_max[4] == 1 / 500


def test_permutation_p_is_exact_on_a_set_small_enough_to_enumerate() -> None:
    """3 + 3 documents, all of one side above the other: 2 of 20 relabellings are as extreme."""
    total_DC = np.array([[8.0], [9.0], [7.0], [1.0], [2.0], [3.0]])
    test = max_permutation_test(
        total_DC, np.full(6, 10.0), np.arange(6) < 3, 20_000, np.random.default_rng(0), 1e-4
    )
    assert test.p_max[0] == pytest.approx(2 / 20, abs=0.01)


def test_bootstrap_interval_covers() -> None:
    rng = np.random.default_rng(7)
    covered = 0
    for _ in range(200):
        tokens_D = rng.integers(5, 40, 50).astype(float)
        total_DC = rng.binomial(tokens_D.astype(int), rng.beta(2, 8, 50)).astype(float)[:, None]
        low, high = np.quantile(bootstrap_ratios(total_DC, tokens_D, 300, rng), (0.025, 0.975))
        covered += low <= 0.2 <= high
    assert 0.87 <= covered / 200 <= 0.99


def test_standard_error_agrees_with_the_bootstrap() -> None:
    rng = np.random.default_rng(8)
    tokens_D = rng.integers(5, 40, 200).astype(float)
    total_DC = rng.binomial(tokens_D.astype(int), rng.beta(2, 8, 200)).astype(float)[:, None]
    drawn = bootstrap_ratios(total_DC, tokens_D, 4000, rng)
    assert ratio_standard_error(total_DC, tokens_D)[0] == pytest.approx(drawn.std(), rel=0.06)
    assert ratio_of_sums(total_DC, tokens_D)[0] == pytest.approx(drawn.mean(), rel=0.01)


def test_benjamini_hochberg_by_hand() -> None:
    q = benjamini_hochberg(np.array([0.01, 0.5, 0.02, 0.03]))
    np.testing.assert_allclose(q, [0.04, 0.5, 0.04, 0.04])


def shuffled(profile: Profile, order: np.ndarray) -> Profile:
    counts = profile.forget
    moved = replace(
        counts,
        document_ids=tuple(counts.document_ids[d] for d in order),
        tokens_D=counts.tokens_D[order],
        counts_DLE=counts.counts_DLE[order],
        gate_mass_DLE=counts.gate_mass_DLE[order],
        skipped_DL=counts.skipped_DL[order],
    )
    return replace(profile, forget=moved)


def test_document_order_changes_nothing() -> None:
    profile = synthetic_profile(documents=15)
    other = shuffled(profile, np.random.default_rng(1).permutation(15))
    a, b = mismatch(profile, **QUICK), mismatch(other, **QUICK)
    for name in CELL_COLUMNS:
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)


def test_expert_order_moves_the_cells_and_nothing_else() -> None:
    profile = synthetic_profile(documents=15)
    order = np.random.default_rng(2).permutation(8)

    def moved(side: str) -> object:
        counts = profile.counts(side)
        return replace(
            counts,
            counts_DLE=counts.counts_DLE[:, :, order],
            token_counts_VLE=counts.token_counts_VLE[:, :, order],
        )

    other = replace(profile, forget=moved("forget"), retain=moved("retain"))
    a, b = mismatch(profile, **QUICK), mismatch(other, **QUICK)
    for name in CELL_COLUMNS:
        np.testing.assert_allclose(
            getattr(a, name)[:, order], getattr(b, name), rtol=1e-9, atol=1e-12, err_msg=name
        )


@pytest.mark.parametrize("documents", [1, 2, 3])
def test_little_data_is_said_in_words(documents: int) -> None:
    found = mismatch(synthetic_profile(documents=documents, retain_documents=40), **QUICK)
    assert_no_nan(found)
    if documents == 1:
        assert "1 document with tokens" in found.notes[0]
        assert (found.p_max == 1).all()
        assert (found.low == -1).all()
        assert (found.high == 1).all()
        assert (found.ratio_low == found.epsilon / (1 + found.epsilon)).all()
    else:
        assert f"only {documents} documents" in found.notes[0]
    tiny = mismatch(synthetic_profile(documents=documents, retain_documents=3), **QUICK)
    assert any("relabellings" in note for note in tiny.notes) == (documents > 1)


def test_a_side_without_tokens_is_refused() -> None:
    profile = synthetic_profile(documents=5, length=(1, 1))
    with pytest.raises(InputError, match="forget set has no counted token"):
        mismatch(profile, **QUICK)
    with pytest.raises(InputError, match="found 'share'"):
        mismatch(synthetic_profile(documents=5), "share", **QUICK)


def test_empty_documents_change_nothing() -> None:
    profile = synthetic_profile(documents=10)
    counts = profile.forget

    def padded(array: np.ndarray) -> np.ndarray:
        return np.concatenate([array, np.zeros_like(array[:1])])

    longer = replace(
        counts,
        document_ids=(*counts.document_ids, "empty"),
        tokens_D=padded(counts.tokens_D),
        counts_DLE=padded(counts.counts_DLE),
        gate_mass_DLE=padded(counts.gate_mass_DLE),
        skipped_DL=padded(counts.skipped_DL),
    )
    a, b = mismatch(profile, **QUICK), mismatch(replace(profile, forget=longer), **QUICK)
    assert b.documents_forget == 10
    np.testing.assert_array_equal(a.p_max, b.p_max)
    np.testing.assert_array_equal(a.low, b.low)


def test_the_token_control_removes_a_gap_that_is_only_vocabulary() -> None:
    """Routing depends on the token alone; the sides hold the same tokens in other proportions."""
    profile = synthetic_profile(planted=(), documents=5)
    by_id = np.zeros((2, 4, 8), dtype=np.int64)
    by_id[0, :, 0], by_id[0, :, 1] = 90, 10
    by_id[1, :, 0], by_id[1, :, 1] = 10, 90

    def counts(times: tuple[int, int], docs: int) -> object:
        totals = np.array(times) * 100
        whole = (by_id * np.array(times)[:, None, None]).sum(0)
        return replace(
            profile.forget,
            document_ids=tuple(str(d) for d in range(docs)),
            tokens_D=np.full(docs, totals.sum() // docs),
            counts_DLE=np.repeat(whole[None] // docs, docs, axis=0),
            gate_mass_DLE=np.zeros((docs, 4, 8)),
            token_ids_V=np.array([3, 9]),
            token_totals_V=totals,
            token_counts_VLE=by_id * np.array(times)[:, None, None],
        )

    skewed = replace(profile, forget=counts((3, 1), 10), retain=counts((1, 3), 10))
    found = mismatch(skewed, **QUICK)
    assert found.difference[0, 0] == pytest.approx(0.4)
    np.testing.assert_allclose(found.matched_difference, 0, atol=1e-12)
    assert found.matched_ratio[0, 0] == pytest.approx(1)


def test_token_control_says_what_it_does_not_cover() -> None:
    profile = synthetic_profile(documents=10)
    counts = profile.retain
    lost = replace(
        counts, token_totals_V=np.where(counts.token_ids_V < 30, 0, counts.token_totals_V)
    )
    found = mismatch(replace(profile, retain=lost), **QUICK)
    totals = profile.forget.token_totals_V
    assert found.matched_coverage == pytest.approx(totals[30:].sum() / totals.sum())
    assert any("covers only" in note for note in found.notes)
    none = replace(counts, token_totals_V=np.zeros_like(counts.token_totals_V))
    empty = mismatch(replace(profile, retain=none), **QUICK)
    assert (empty.matched_difference == 0).all()
    assert any("control is empty" in note for note in empty.notes)


def test_frequency_and_gate_mass_controls_agree_when_gates_are_equal() -> None:
    profile = synthetic_profile(documents=12)

    def flat(side: str) -> dict[str, object]:
        counts, sample = profile.counts(side), profile.sample(side)
        gate = (sample.index_NLK >= 0).astype(np.float16)
        return {
            side: replace(counts, gate_mass_DLE=counts.counts_DLE.astype(float)),
            f"sample_{side}": replace(sample, gate_NLK=gate),
        }

    level = replace(profile, **flat("forget"), **flat("retain"))
    a, b = mismatch(level, "frequency", **QUICK), mismatch(level, "gate_mass", **QUICK)
    for name in ("difference", "low", "p_max", "matched_difference"):
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), rtol=1e-9, atol=1e-12)


def test_sites_with_fewer_experts_have_no_extra_cells() -> None:
    profile = replace(synthetic_profile(documents=10, layers=(2, 5)), num_experts_L=(8, 6))
    found = mismatch(profile, **QUICK)
    assert len(found.table()) == 14
    assert set(found.table()["layer"]) == {2, 5}
    assert found.p_max[1, 7] == 1
    assert found.ratio[1, 7] == 1


def test_a_map_is_saved_beside_its_profile(tmp_path: Path) -> None:
    profile = synthetic_profile(documents=10)
    profile.save(tmp_path / "p")
    found = mismatch(profile, "gate_mass", **QUICK)
    found.save(tmp_path / "p")
    with pytest.raises(InputError, match="no saved frequency map"):
        load_mismatch(tmp_path / "p")
    loaded = load_mismatch(tmp_path / "p", "gate_mass")
    for field in fields(Mismatch):
        a, b = getattr(found, field.name), getattr(loaded, field.name)
        assert np.array_equal(a, b), field.name
    assert Profile.load(tmp_path / "p").layers == profile.layers


def test_a_map_of_another_profile_or_damaged_is_refused(tmp_path: Path) -> None:
    profile = synthetic_profile(documents=10)
    profile.save(tmp_path / "p")
    mismatch(profile, **QUICK).save(tmp_path / "p")
    synthetic_profile(seed=1, documents=10).save(tmp_path / "q")
    data = (tmp_path / "p" / "mismatch.npz").read_bytes()
    (tmp_path / "q" / "mismatch.npz").write_bytes(data)
    with pytest.raises(InputError, match="belongs to another profile"):
        load_mismatch(tmp_path / "q")
    for broken in (data[: len(data) // 2], b"", b"not a zip"):
        (tmp_path / "p" / "mismatch.npz").write_bytes(broken)
        with pytest.raises(InputError, match="damaged"):
            load_mismatch(tmp_path / "p")
    with pytest.raises(InputError, match="no profile here"):
        mismatch(profile, **QUICK).save(tmp_path / "nowhere")


def test_same_seed_same_map_and_progress_is_told() -> None:
    profile = synthetic_profile(documents=10)
    seen: list[Progress] = []
    a, b = mismatch(profile, **QUICK, report=seen.append), mismatch(profile, **QUICK)
    np.testing.assert_array_equal(a.p_max, b.p_max)
    assert (mismatch(profile, **QUICK, seed=1).low != a.low).any()
    assert seen[-1].done == seen[-1].total == 499
    assert seen[-1].unit == "permutations"


def test_settings_of_the_profile_are_the_defaults() -> None:
    profile = synthetic_profile(documents=6, planted=[Cell(0, 1)])
    profile.meta["settings"] = {"permutations": 120, "bootstrap": 130}
    found = mismatch(profile)
    assert (found.permutations, found.bootstrap) == (120, 130)
