"""How much of a model's routing another precision changes, measured on documents.

A precision that is faster is only free where it sends tokens to the same experts. Trade-off: the
model is loaded twice, one after the other, and choices are kept in between, so the documents are a
sample and its size stands beside the answer.
"""

# Dims: T tokens, L MoE sites, K experts per token, E experts

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trace_engine.config import ModelConfig
from trace_engine.errors import InputError
from trace_engine.models.batches import encode, make_batches
from trace_engine.models.info import OpenModel
from trace_engine.models.open import backbone, open_model
from trace_engine.models.tap import RoutingTap
from trace_engine.progress import Meter, ProgressCallback, ignore_progress

MOST_TOKENS = 20_000


@dataclass(frozen=True, slots=True)
class DtypeShift:
    """Routing in one precision against another, over the same tokens."""

    dtype: str
    reference: str
    documents: int
    tokens: int
    choices: int
    """Tokens x sites x K."""
    choices_changed: float
    """Share of the reference's choices (token, site, expert) that the other precision lacks."""
    counts_moved: float
    """Half the summed absolute difference of the counts per site and expert, over all counts: what
    a map would see."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def dtype_shift(
    config: ModelConfig,
    reference: ModelConfig,
    texts: Sequence[str],
    *,
    max_length: int = 512,
    most_tokens: int = MOST_TOKENS,
    report: ProgressCallback = ignore_progress,
) -> DtypeShift:
    """Route `texts` with both settings of one model, and compare every choice.

    Documents are taken in order until `most_tokens`. Raises InputError when no document has a
    token.
    """
    opened = open_model(config)
    chosen = [item for item in encode(opened.tokenizer, texts, max_length) if item.labels]
    taken, tokens = 0, 0
    while taken < len(chosen) and tokens < most_tokens:
        tokens += len(chosen[taken].ids)
        taken += 1
    if not taken:
        raise InputError("No document has a token, so no precisions can be compared.")
    documents = chosen[:taken]
    dtype = opened.info.dtype
    ours = _choices(opened, documents, tokens, report)
    experts = opened.info.num_experts
    del opened
    gc.collect()
    other = open_model(reference)
    theirs = _choices(other, documents, tokens, report)
    changed, moved, total = 0, 0.0, 0
    for one_TK, two_TK, count in zip(ours, theirs, experts, strict=True):
        real_TK = two_TK >= 0
        same_TK = (two_TK[:, :, None] == one_TK[:, None, :]).any(axis=2)
        changed += int((real_TK & ~same_TK).sum())
        total += int(real_TK.sum())
        counts = [np.bincount(c[c >= 0], minlength=count) for c in (one_TK, two_TK)]
        moved += float(np.abs(counts[0] - counts[1]).sum()) / 2
    return DtypeShift(
        dtype=dtype,
        reference=other.info.dtype,
        documents=taken,
        tokens=tokens,
        choices=total,
        choices_changed=changed / total,
        counts_moved=moved / total,
    )


def _choices(
    opened: OpenModel, documents: Sequence[Any], tokens: int, report: ProgressCallback
) -> list[NDArray[np.int16]]:
    """The experts of every real token and site, (T, K) a site, in batch order; -1 for no expert."""
    found: list[list[NDArray[np.int16]]] = [[] for _ in opened.sites]
    real: list[Tensor] = []

    def on_routing(site: int, index_TK: Tensor, weight_TK: Tensor) -> None:
        found[site].append(index_TK[real[-1]].to("cpu", torch.int16).numpy())

    meter = Meter(f"routing in {opened.info.dtype}", tokens, "tokens", report)
    with torch.no_grad(), RoutingTap(opened.sites, on_routing):
        for batch in make_batches(documents, 2048):
            placed = batch.to(opened.device)
            real.append(placed.valid_BS.flatten())
            backbone(opened.model)(**placed.inputs, use_cache=False)
            meter.add(int(batch.attention_mask_BS.sum()))
    return [np.concatenate(parts) for parts in found]
