"""Profiles made of numpy alone, with forget-critical cells planted where the test says.

Counts are summed from the token sample itself, so the two always agree; no model and no torch is
needed.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from trace_engine.config import Cell
from trace_engine.routing.profile import Profile, RoutingCounts, TokenSample

BOS = 0


def synthetic_profile(
    seed: int = 0,
    layers: Sequence[int] = (0, 1, 2, 3),
    experts: int = 8,
    top_k: int = 2,
    documents: int = 60,
    retain_documents: int | None = None,
    *,
    planted: Sequence[Cell | tuple[int, int]] | None = None,
    strength: float = 2.0,
    equal: bool = False,
    unseen: Cell | tuple[int, int] | None = None,
    skipped: float = 0.0,
    length: tuple[int, int] = (6, 20),
    vocabulary: int = 40,
    prompts: bool = False,
    count_bos: bool = False,
    complete: bool = True,
    document_noise: float = 0.2,
) -> Profile:
    """A profile with known truth.

    planted: (layer, expert) cells whose router logit is raised by `strength` on the forget side;
        default: expert 1 of the first layer and expert 3 of the last. () is a null, no difference.
        `meta["planted"]` lists them.
    equal: both sides hold the same documents, so every gap is exactly 0.
    unseen: a cell that no retain token routes to.
    skipped: share of slots that choose no expert.
    layers: true decoder layers; (1, 3, 6) is a model with dense layers between.
    prompts: the first three tokens of a document carry no loss (calibration mask).
    complete: False claims that the sample is a part of the set; the numbers stay the sample's.
    document_noise: spread of router logits between documents, so that their tokens are alike.
    """
    layers = tuple(layers)
    if planted is None:
        planted = (Cell(layers[0], 1), Cell(layers[-1], 3))
    retain_documents = documents if retain_documents is None else retain_documents
    rng = np.random.default_rng(seed)
    logits_VLE = rng.normal(0.0, 0.5, (vocabulary, len(layers), experts))
    raised_LE = np.zeros((len(layers), experts))
    for layer, expert in planted:
        raised_LE[layers.index(layer), expert] = strength
    barred_LE = np.zeros((len(layers), experts))
    if unseen is not None:
        barred_LE[layers.index(unseen[0]), unseen[1]] = -np.inf

    def draw(number: int, shift_LE: NDArray[np.float64]) -> TokenSample:
        lengths_D = rng.integers(length[0], length[1] + 1, number)
        document_N = np.repeat(np.arange(number), lengths_D)
        position_N = np.concatenate([np.arange(size) for size in lengths_D])
        token_N = rng.integers(1, vocabulary, len(document_N))
        token_N[position_N == 0] = BOS
        noise_DLE = rng.normal(0.0, document_noise, (number, len(layers), experts))
        logits_NLE = logits_VLE[token_N] + noise_DLE[document_N] + shift_LE
        noisy_NLE = logits_NLE + rng.gumbel(size=logits_NLE.shape)
        index_NLK = np.argsort(-noisy_NLE, axis=-1)[..., :top_k]
        chosen_NLK = np.take_along_axis(logits_NLE, index_NLK, axis=-1)
        gate_NLK = np.exp(chosen_NLK - chosen_NLK.max(axis=-1, keepdims=True))
        gate_NLK /= gate_NLK.sum(axis=-1, keepdims=True)
        dropped_NLK = rng.random(index_NLK.shape) < skipped
        last_N = position_N == lengths_D[document_N] - 1
        return TokenSample(
            document_N=document_N.astype(np.int32),
            position_N=position_N.astype(np.int32),
            token_N=token_N.astype(np.int32),
            labelled_N=~last_N & (position_N >= (3 if prompts else 0)),
            counted_N=(position_N > 0) | count_bos,
            index_NLK=np.where(dropped_NLK, -1, index_NLK).astype(np.int16),
            gate_NLK=np.where(dropped_NLK, 0.0, gate_NLK).astype(np.float16),
            complete=complete,
        )

    sample_forget = draw(documents, raised_LE)
    sample_retain = sample_forget if equal else draw(retain_documents, barred_LE)
    names = {
        "forget": tuple(f"forget-{i}" for i in range(documents)),
        "retain": tuple(f"retain-{i}" for i in range(documents if equal else retain_documents)),
    }
    return Profile(
        meta={"synthetic": True, "seed": seed, "planted": [list(cell) for cell in planted]},
        layers=layers,
        num_experts_L=(experts,) * len(layers),
        experts_per_token_L=(top_k,) * len(layers),
        forget=counts_of(sample_forget, names["forget"], experts, vocabulary),
        retain=counts_of(sample_retain, names["retain"], experts, vocabulary),
        sample_forget=sample_forget,
        sample_retain=sample_retain,
        token_text={i: "<bos>" if i == BOS else f" w{i}" for i in range(vocabulary)},
    )


def counts_of(
    sample: TokenSample, document_ids: tuple[str, ...], experts: int, vocabulary: int
) -> RoutingCounts:
    """Counts of a sample that is the whole set, by slow, plain addition: the tests' reference."""
    sites = sample.index_NLK.shape[1]
    number = len(document_ids)
    tokens_D = np.zeros(number, dtype=np.int64)
    counts_DLE = np.zeros((number, sites, experts), dtype=np.int64)
    mass_DLE = np.zeros((number, sites, experts))
    skipped_DL = np.zeros((number, sites), dtype=np.int64)
    pairs_LEE = np.zeros((sites, experts, experts), dtype=np.int64)
    totals_V = np.zeros(vocabulary, dtype=np.int64)
    by_id_VLE = np.zeros((vocabulary, sites, experts), dtype=np.int64)
    for n in np.flatnonzero(sample.counted_N):
        d, v = int(sample.document_N[n]), int(sample.token_N[n])
        tokens_D[d] += 1
        totals_V[v] += 1
        for site in range(sites):
            chosen = [int(e) for e in sample.index_NLK[n, site] if e >= 0]
            skipped_DL[d, site] += sample.index_NLK.shape[2] - len(chosen)
            for expert, gate in zip(
                sample.index_NLK[n, site], sample.gate_NLK[n, site], strict=True
            ):
                if expert >= 0:
                    counts_DLE[d, site, expert] += 1
                    mass_DLE[d, site, expert] += float(gate)
                    by_id_VLE[v, site, expert] += 1
            for i in chosen:
                for j in chosen:
                    pairs_LEE[site, i, j] += 1
    seen_V = np.flatnonzero(totals_V >= 0)
    return RoutingCounts(
        document_ids=document_ids,
        tokens_D=tokens_D,
        counts_DLE=counts_DLE,
        gate_mass_DLE=mass_DLE,
        skipped_DL=skipped_DL,
        coactivation_LEE=pairs_LEE,
        token_ids_V=seen_V,
        token_totals_V=totals_V[seen_V],
        token_counts_VLE=by_id_VLE[seen_V],
        truncated_documents=0,
    )
