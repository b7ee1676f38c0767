"""Profiling a real (tiny, random) model: integers that do not depend on how the work was cut."""

from contextlib import AbstractContextManager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.routing.test_profile import AXES, assert_same
from tests.support.models import save_tiny_olmoe, tiny_olmoe
from tests.support.profiles import counts_of, synthetic_profile
from trace_engine.config import ModelConfig, ProfileConfig, SetConfig
from trace_engine.errors import InputError, ModelError
from trace_engine.models import (
    OpenModel,
    RoutingTap,
    Site,
    encode,
    experts_skipped,
    open_model,
)
from trace_engine.progress import Progress
from trace_engine.routing import Profile, RoutingCounts, profile, profile_key
from trace_engine.routing import counts as counts_module
from trace_engine.routing.counts import Tally, tracked_ids
from trace_engine.routing.sampling import drawn_documents
from trace_engine.sets import Document, DocumentSet

WORDS = ["the", "old", "river", "runs", "past", "a", "quiet", "mill", "where", "seven", "horses"]


def texts(name: str, number: int, seed: int) -> DocumentSet:
    rng = np.random.default_rng(seed)
    documents = tuple(
        Document(id=f"{name}-{n}", text=" ".join(rng.choice(WORDS, rng.integers(1, 12))))
        for n in range(number)
    )
    return DocumentSet(name=name, source=f"test:{name}", documents=documents, fingerprint=name * 3)


FORGET, RETAIN = texts("forget", 9, 1), texts("retain", 14, 2)


def config(**changes: object) -> ProfileConfig:
    settings = {
        "forget": SetConfig(source="test:forget"),
        "retain": SetConfig(source="test:retain"),
        "max_length": 48,
    }
    return ProfileConfig(**(settings | changes))


@pytest.fixture(scope="module")
def opened() -> OpenModel:
    source = str(tiny_olmoe(layers=2, experts=8, top_k=3))
    return open_model(ModelConfig(source=source, device="cpu"))


@pytest.fixture(scope="module")
def done(opened: OpenModel) -> Profile:
    return profile(opened, FORGET, RETAIN, config())


def assert_same_counts(a: RoutingCounts, b: RoutingCounts) -> None:
    """Integers equal; gate mass, whose summation order follows the batches, to rounding."""
    np.testing.assert_allclose(a.gate_mass_DLE, b.gate_mass_DLE, rtol=1e-5, atol=1e-6)
    assert_same(replace(a, gate_mass_DLE=b.gate_mass_DLE), b)


def alone(opened: OpenModel, ids: tuple[int, ...]) -> dict[int, torch.Tensor]:
    seen: dict[int, torch.Tensor] = {}
    with torch.no_grad(), RoutingTap(opened.sites, lambda s, i, w: seen.update({s: i})):
        opened.model(input_ids=torch.tensor([ids]), use_cache=False)
    return seen


def test_counts_are_those_of_each_document_alone(opened: OpenModel, done: Profile) -> None:
    for row, document in enumerate(RETAIN.documents):
        (item,) = encode(opened.tokenizer, [document.text], 48)
        for site, index_TK in alone(opened, item.ids).items():
            counts = np.bincount(index_TK[1:].flatten().numpy(), minlength=8)
            np.testing.assert_array_equal(done.retain.counts_DLE[row, site], counts)
        assert done.retain.tokens_D[row] == len(item.ids) - 1


@pytest.mark.parametrize("side", ["forget", "retain"])
def test_every_count_is_the_sum_of_the_sample(done: Profile, side: str) -> None:
    sample, counts = done.sample(side), done.counts(side)
    assert sample.complete
    summed = counts_of(sample, counts.document_ids, 8, 260)
    kept = np.isin(summed.token_ids_V, counts.token_ids_V)
    summed = replace(
        summed,
        token_ids_V=summed.token_ids_V[kept],
        token_totals_V=summed.token_totals_V[kept],
        token_counts_VLE=summed.token_counts_VLE[kept],
        truncated_documents=counts.truncated_documents,
    )
    np.testing.assert_allclose(counts.gate_mass_DLE, summed.gate_mass_DLE, atol=0.02)
    assert_same(replace(summed, gate_mass_DLE=counts.gate_mass_DLE), counts)
    assert counts.token_coverage == 1.0


def test_frequencies_sum_to_k(done: Profile) -> None:
    for counts in (done.forget, done.retain):
        slots_DL = counts.counts_DLE.sum(axis=2) + counts.skipped_DL
        np.testing.assert_array_equal(slots_DL, np.repeat(3 * counts.tokens_D[:, None], 2, axis=1))
        np.testing.assert_allclose(counts.gate_mass_DLE.sum(2), np.c_[counts.tokens_D] * [1, 1])


@pytest.mark.parametrize("tokens_per_batch", [64, 300])
def test_batches_and_padding_change_nothing(
    opened: OpenModel, done: Profile, tokens_per_batch: int
) -> None:
    other = profile(opened, FORGET, RETAIN, config(tokens_per_batch=tokens_per_batch))
    for side in ("forget", "retain"):
        assert_same_counts(done.counts(side), other.counts(side))
        a, b = done.sample(side), other.sample(side)
        np.testing.assert_array_equal(np.sort(a.index_NLK), np.sort(b.index_NLK))
        np.testing.assert_array_equal(a.token_N, b.token_N)


def test_experts_after_the_last_router_are_computed_once_only(opened: OpenModel) -> None:
    """The first forward finds out which site comes last; the counts above are the same for it."""
    computed: dict[int, list[bool]] = {site.index: [] for site in opened.sites}
    handles = [
        site.module.register_forward_hook(
            lambda module, inputs, output, index=site.index: computed[index].append(
                bool(output.any())
            )
        )
        for site in opened.sites
    ]
    try:
        profile(opened, FORGET, FORGET, config(tokens_per_batch=64))
    finally:
        for handle in handles:
            handle.remove()
    *before, last = computed.values()
    batches = len(last) // 2
    assert batches > 1
    assert last == [True, *[False] * (batches - 1)] * 2
    assert all(all(site) for site in before)


def test_parts_merge_to_the_whole(opened: OpenModel, done: Profile) -> None:
    parts = [
        profile(opened, replace(FORGET, documents=FORGET.documents[cut]), RETAIN, config()).forget
        for cut in (slice(0, 4), slice(4, None))
    ]
    merged = parts[0].merge(parts[1])
    # Each part also tracks ids that only the retain side has; they hold zeros here.
    assert set(done.forget.token_ids_V) >= set(merged.token_ids_V[merged.token_totals_V > 0])
    a, b = only_seen(merged), only_seen(done.forget)
    assert_same_counts(a, b)


def only_seen(counts: RoutingCounts) -> RoutingCounts:
    seen = counts.token_totals_V > 0
    return replace(
        counts,
        token_ids_V=counts.token_ids_V[seen],
        token_totals_V=counts.token_totals_V[seen],
        token_counts_VLE=counts.token_counts_VLE[seen],
    )


def test_document_order_moves_rows_only(opened: OpenModel, done: Profile) -> None:
    back = profile(opened, replace(FORGET, documents=FORGET.documents[::-1]), RETAIN, config())
    np.testing.assert_array_equal(back.forget.counts_DLE[::-1], done.forget.counts_DLE)
    np.testing.assert_array_equal(back.forget.coactivation_LEE, done.forget.coactivation_LEE)


def test_bos_is_counted_when_asked(opened: OpenModel, done: Profile) -> None:
    with_bos = profile(opened, FORGET, RETAIN, config(count_bos=True))
    np.testing.assert_array_equal(with_bos.forget.tokens_D, done.forget.tokens_D + 1)
    assert opened.tokenizer.bos_token_id in with_bos.forget.token_ids_V
    assert opened.tokenizer.bos_token_id not in done.forget.token_ids_V
    for kept in (with_bos, done):
        np.testing.assert_array_equal(kept.sample_forget.position_N == 0, starts(kept))
    assert with_bos.sample_forget.counted_N.all()


def starts(of: Profile) -> np.ndarray:
    return np.diff(of.sample_forget.document_N, prepend=-1) != 0


def test_the_calibration_mask_is_where_the_next_label_is_in_the_loss(opened: OpenModel) -> None:
    prompted = DocumentSet(
        name="qa",
        source="test:qa",
        documents=(Document(id="a", text="ask: yes", prompt="ask: "), Document(id="b", text="no")),
        fingerprint="qa",
    )
    sample = profile(opened, prompted, RETAIN, config()).sample_forget
    first, second = (sample.labelled_N[sample.document_N == d].tolist() for d in (0, 1))
    # <bos> a s k : _ y e s <eos>: the labels are y e s <eos>.
    assert first == [False] * 5 + [True] * 4 + [False]
    assert second == [True, True, True, False]


def test_truncation_is_reported(opened: OpenModel) -> None:
    cut = profile(opened, FORGET, RETAIN, config(max_length=16)).forget
    lengths = [len(document.text) for document in FORGET.documents]
    assert cut.truncated_documents == sum(length > 15 for length in lengths) > 0
    assert cut.tokens_D.max() == 15


def test_the_sample_is_whole_documents_within_its_bound(opened: OpenModel) -> None:
    many = texts("many", 60, 3)
    part = profile(opened, many, RETAIN, config(sample_tokens=1000))
    sample = part.sample_forget
    assert not sample.complete
    assert 900 < len(sample) <= 1000
    for document in np.unique(sample.document_N):
        positions = sample.position_N[sample.document_N == document]
        whole = part.forget.tokens_D[document] + 1
        np.testing.assert_array_equal(positions, np.arange(whole))
    names = sampled(part)
    backwards = replace(many, documents=many.documents[::-1])
    assert sampled(profile(opened, backwards, RETAIN, config(sample_tokens=1000))) == names
    assert sampled(profile(opened, many, RETAIN, config(sample_tokens=1000, seed=1))) != names


def sampled(of: Profile) -> set[str]:
    return {of.forget.document_ids[d] for d in np.unique(of.sample_forget.document_N)}


def test_one_long_document_is_sampled_all_the_same() -> None:
    assert drawn_documents(["a"], [5000], 1000, 0).tolist() == [True]
    chosen = drawn_documents([str(n) for n in range(50)], [100] * 50, 1000, 0)
    assert chosen.sum() == 10


def test_bounded_token_table_keeps_the_forget_sides_frequent_ids(
    opened: OpenModel, done: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counts_module, "MAX_TOKEN_CELLS", 2 * 8 * 6)
    bounded = profile(opened, FORGET, RETAIN, config())
    kept = bounded.forget.token_ids_V
    assert len(kept) == 6
    totals = dict(zip(done.forget.token_ids_V, done.forget.token_totals_V, strict=True))
    least = min(totals[i] for i in kept)
    assert all(totals[i] <= least for i in totals if i not in set(kept))
    rows = np.searchsorted(done.forget.token_ids_V, kept)
    np.testing.assert_array_equal(
        bounded.forget.token_counts_VLE, done.forget.token_counts_VLE[rows]
    )
    assert 0 < bounded.forget.token_coverage < 1
    assert bounded.meta["sets"]["forget"]["token_coverage"] == bounded.forget.token_coverage
    np.testing.assert_array_equal(bounded.forget.counts_DLE, done.forget.counts_DLE)


def test_tracked_ids_order() -> None:
    forget_V, retain_V = np.bincount([5, 5, 2]), np.bincount([9, 9, 9, 2])
    assert tracked_ids(forget_V, retain_V, 1, 1).tolist() == [2, 5, 9]


def test_skipped_slots_are_counted_apart() -> None:
    """A batch made of a synthetic side with skip slots gives that side's counts."""
    side = synthetic_profile(documents=8, skipped=0.25, vocabulary=20)
    sample, counts = side.sample_forget, side.forget
    width = int(sample.position_N.max()) + 1
    token_BS = torch.zeros(8, width, dtype=torch.long)
    counted_BS = torch.zeros(8, width, dtype=torch.bool)
    index_BSLK = torch.zeros(8, width, 4, 2, dtype=torch.long)
    gate_BSLK = torch.ones(8, width, 4, 2)
    at = (torch.from_numpy(sample.document_N).long(), torch.from_numpy(sample.position_N).long())
    token_BS[at] = torch.from_numpy(sample.token_N).long()
    counted_BS[at] = torch.from_numpy(sample.counted_N)
    index_BSLK[at] = torch.from_numpy(sample.index_NLK).long()
    gate_BSLK[at] = torch.from_numpy(sample.gate_NLK).float()
    tally = Tally(counts.document_ids, (2,) * 4, 8, counts.token_ids_V, torch.device("cpu"))
    tally.start(token_BS, counted_BS, torch.arange(8))
    for site in range(4):
        tally.add(site, index_BSLK[:, :, site].flatten(0, 1), gate_BSLK[:, :, site].flatten(0, 1))
    assert tally.finish() == {0, 1, 2, 3}
    assert_same_counts(tally.result(0), counts)


def test_the_model_is_left_as_it_was(opened: OpenModel) -> None:
    opened.model.train()
    try:
        profile(opened, FORGET, RETAIN, config())
        assert opened.model.training
    finally:
        opened.model.eval()
    hooks = [len(site.module._forward_pre_hooks) for site in opened.sites]
    assert hooks == [0, 0]


def test_a_site_that_routes_nothing_is_an_error(
    opened: OpenModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = opened.model.model.layers[1]
    monkeypatch.setattr(layer.mlp, "forward", lambda hidden: hidden)
    with pytest.raises(ModelError, match="layers 1 routed no token"):
        profile(opened, FORGET, RETAIN, config())


def test_progress_counts_tokens(opened: OpenModel, done: Profile) -> None:
    seen: list[Progress] = []
    profile(opened, FORGET, RETAIN, config(tokens_per_batch=64), report=seen.append)
    last = {item.phase: item for item in seen}
    assert list(last) == ["profiling forget set", "profiling retain set"]
    assert last["profiling forget set"].done == len(done.sample_forget)
    assert all(item.done == item.total and item.unit == "tokens" for item in last.values())


def test_sets_that_cannot_be_counted_are_refused(opened: OpenModel) -> None:
    empty = replace(FORGET, documents=())
    with pytest.raises(InputError, match="no document of the forget set has a token"):
        profile(opened, empty, RETAIN, config())
    twice = replace(FORGET, documents=FORGET.documents[:1] * 2)
    with pytest.raises(InputError, match="occur twice"):
        profile(opened, twice, RETAIN, config())


def test_what_was_asked_is_recorded(opened: OpenModel, done: Profile, tmp_path: Path) -> None:
    assert done.meta["model"]["layers"] == [0, 1]
    assert done.meta["sets"]["retain"]["documents"] == 14
    assert done.meta["key"] == profile_key(
        config(), opened.info.fingerprint, FORGET.fingerprint, RETAIN.fingerprint
    )
    assert done.token_text[opened.tokenizer.bos_token_id] == "<bos>"
    assert " " in done.token_text.values()
    done.save(tmp_path / "p")
    assert_same(Profile.load(tmp_path / "p").forget, done.forget)


def test_the_key_follows_the_question_not_the_names() -> None:
    key = profile_key(config(), "m", "f", "r")
    assert len(key) == 64
    assert key == profile_key(config(name="x", forget=SetConfig(source="other")), "m", "f", "r")
    assert key == profile_key(config(model=ModelConfig(source="elsewhere")), "m", "f", "r")
    others = [
        profile_key(config(), "m", "r", "f"),
        profile_key(config(), "n", "f", "r"),
        profile_key(config(count_bos=True), "m", "f", "r"),
        profile_key(config(max_length=49), "m", "f", "r"),
        profile_key(config(model=ModelConfig(dtype="bfloat16")), "m", "f", "r"),
    ]
    assert len({key, *others}) == 6


def test_sample_fields_are_aligned(done: Profile) -> None:
    sample = done.sample_forget
    lengths = {len(getattr(sample, f.name)) for f in fields(sample) if f.name.endswith(AXES)}
    assert lengths == {len(sample)}
    assert sample.index_NLK.shape[1:] == (2, 3)
    assert (sample.gate_NLK[sample.index_NLK >= 0] > 0).all()


def test_gate_weights_that_are_no_numbers_are_refused_with_their_layer(tmp_path: Path) -> None:
    opened = open_model(ModelConfig(source=str(save_tiny_olmoe(tmp_path)), device="cpu"))
    opened.model.model.layers[1].mlp.gate.weight.data.fill_(float("nan"))
    with pytest.raises(ModelError, match="gate weights of layers 1 are not finite numbers"):
        profile(opened, FORGET, RETAIN, config())


@pytest.mark.parametrize("again", [False, True])
def test_experts_are_left_out_only_where_every_site_is_called_once(
    again: bool, opened: OpenModel, done: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that comes back to a site would be read wrongly after that site's experts."""
    skipped: list[int] = []

    def skip(site: Site) -> AbstractContextManager[None]:
        skipped.append(site.index)
        return experts_skipped(site)

    def back_to_the_first(_: Any, args: Any, kwargs: Any, __: Any) -> None:
        first.mlp(args[0] if args else kwargs["hidden_states"])

    monkeypatch.setattr("trace_engine.routing.profiler.experts_skipped", skip)
    first, last = opened.model.model.layers
    hook = last.register_forward_hook(back_to_the_first, with_kwargs=True) if again else None
    try:
        found = profile(opened, FORGET, RETAIN, config(tokens_per_batch=128))
    finally:
        if hook is not None:
            hook.remove()
    assert skipped == ([] if again else [1, 1])  # once a side, with the last site
    np.testing.assert_array_equal(found.forget.counts_DLE[:, 1], done.forget.counts_DLE[:, 1])
    np.testing.assert_array_equal(found.retain.counts_DLE[:, 1], done.retain.counts_DLE[:, 1])
