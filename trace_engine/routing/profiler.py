"""Runs both sets through the backbone once and keeps how every token was routed.

No lm_head, no stored router logits, documents sorted by length: profiling costs about as much as a
bare forward. Accepted cost: `no_grad` instead of `inference_mode`, because rotary tables that a
model rebuilds during a forward would stay inference tensors and break a later training of the same
model.

Dims: B documents of a batch, S padded length, D documents, L MoE sites, K experts per token.
"""

from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from torch import Tensor

from trace_engine.config import ProfileConfig
from trace_engine.errors import InputError, ModelError
from trace_engine.models import (
    Batch,
    Encoded,
    OpenModel,
    RoutingTap,
    backbone,
    encode,
    experts_skipped,
    make_batches,
)
from trace_engine.progress import Meter, ProgressCallback, ignore_progress
from trace_engine.routing.counts import MAX_TOKEN_CELLS, Tally, tracked_ids
from trace_engine.routing.key import profile_key
from trace_engine.routing.profile import Profile, RoutingCounts, TokenSample
from trace_engine.routing.sampling import SampleTaker, drawn_documents

if TYPE_CHECKING:
    from trace_engine.sets import DocumentSet


def profile_model(
    opened: OpenModel,
    forget: "DocumentSet",
    retain: "DocumentSet",
    config: ProfileConfig,
    report: ProgressCallback = ignore_progress,
) -> Profile:
    """Routing of both sets, per document; see `trace_engine.routing.profile`."""
    sets = {"forget": forget, "retain": retain}
    encoded = {side: _encode(opened, documents, config) for side, documents in sets.items()}
    bos = opened.tokenizer.bos_token_id
    skip_bos = None if config.count_bos else bos
    ids = {side: _counted_ids(items, skip_bos) for side, items in encoded.items()}
    for side, counted in ids.items():
        if not len(counted):
            raise InputError(
                f"{sets[side].name}: no document of the {side} set has a token to count. "
                "Nothing was profiled."
            )
    info = opened.info
    token_ids_V = tracked_ids(ids["forget"], ids["retain"], len(info.layers), max(info.num_experts))
    was_training = opened.model.training
    opened.model.eval()
    try:
        done = {
            side: _run_side(
                opened, sets[side], encoded[side], token_ids_V, skip_bos, config, side, report
            )
            for side in sets
        }
    finally:
        opened.model.train(was_training)
    samples = {side: sample for side, (_, sample) in done.items()}
    mentioned = set(token_ids_V.tolist())
    for sample in samples.values():
        mentioned |= set(np.unique(sample.token_N).tolist())
    return Profile(
        meta=_meta(opened, sets, config, {side: counts for side, (counts, _) in done.items()}),
        layers=info.layers,
        num_experts_L=info.num_experts,
        experts_per_token_L=info.experts_per_token,
        forget=done["forget"][0],
        retain=done["retain"][0],
        sample_forget=samples["forget"],
        sample_retain=samples["retain"],
        token_text=token_texts(opened.tokenizer, sorted(mentioned)),
    )


def token_texts(tokenizer: Any, ids: Sequence[int]) -> dict[int, str]:
    """Text of each token id, a leading space kept; the tokenizer's own spelling of partial
    characters."""
    texts = {}
    for number in ids:
        spelling = tokenizer.convert_ids_to_tokens(number)
        text = tokenizer.decode([number], clean_up_tokenization_spaces=False)
        if spelling is None or "\ufffd" in text:
            text = str(spelling if spelling is not None else f"<{number}>")
        elif spelling.startswith("\u2581") and not text.startswith(" "):
            text = f" {text}"
        texts[number] = text
    return texts


def _encode(opened: OpenModel, documents: "DocumentSet", config: ProfileConfig) -> list[Encoded]:
    seen = Counter(document.id for document in documents.documents)
    twice = [name for name, times in seen.items() if times > 1]
    if twice:
        raise InputError(
            f"{documents.name}: {len(twice)} document ids occur twice (for example {twice[0]!r}). "
            "Each document needs an id of its own. Nothing was profiled."
        )
    return encode(
        opened.tokenizer,
        [document.text for document in documents.documents],
        config.max_length,
        [document.prompt for document in documents.documents],
    )


def _counted_ids(encoded: Sequence[Encoded], skip_bos: int | None) -> NDArray[np.int64]:
    parts = [item.ids[1:] if item.ids and item.ids[0] == skip_bos else item.ids for item in encoded]
    return np.fromiter((number for part in parts for number in part), dtype=np.int64)


def _run_side(
    opened: OpenModel,
    documents: "DocumentSet",
    encoded: Sequence[Encoded],
    token_ids_V: NDArray[np.int64],
    skip_bos: int | None,
    config: ProfileConfig,
    side: str,
    report: ProgressCallback,
) -> tuple[RoutingCounts, TokenSample]:
    info, device = opened.info, opened.device
    names = tuple(document.id for document in documents.documents)
    lengths = [len(item.ids) for item in encoded]
    tally = Tally(names, info.experts_per_token, max(info.num_experts), token_ids_V, device)
    chosen_D = drawn_documents(names, lengths, config.sample_tokens, config.seed)
    taker = SampleTaker(chosen_D, info.experts_per_token)

    fired: list[int] = []

    def on_routing(site: int, index_TK: Tensor, weight_TK: Tensor) -> None:
        if len(fired) <= len(opened.sites):
            fired.append(site)
        tally.add(site, index_TK, weight_TK)
        taker.add(site, index_TK, weight_TK)

    inner = backbone(opened.model)
    meter = Meter(f"profiling {side} set", sum(lengths), "tokens", report)
    with torch.no_grad(), RoutingTap(opened.sites, on_routing), ExitStack() as stack:
        for number, batch in enumerate(make_batches(encoded, config.tokens_per_batch)):
            if number == 1 and sorted(fired) == list(range(len(opened.sites))):
                # The first forward called every site once and said which one comes last: nothing
                # routes after its router, so its experts need not be computed.
                stack.enter_context(experts_skipped(opened.sites[fired[-1]]))
            tokens = int(batch.attention_mask_BS.sum())
            batch = batch.to(device)
            counted_BS, labelled_BS = masks(batch, skip_bos)
            tally.start(batch.input_ids_BS, counted_BS, batch.document_B)
            taker.start(
                batch.input_ids_BS, batch.valid_BS, counted_BS, labelled_BS, batch.document_B
            )
            inner(**batch.inputs, use_cache=False)
            missing = set(range(len(info.layers))) - tally.finish()
            if missing:
                layers = ", ".join(str(info.layers[site]) for site in sorted(missing))
                raise ModelError(
                    f"{info.source}: layers {layers} routed no token of a batch, so their counts "
                    "would be wrong. Nothing was profiled."
                )
            taker.finish()
            meter.add(tokens)
    return tally.result(sum(item.truncated for item in encoded)), taker.result()


def masks(batch: Batch, skip_bos: int | None) -> tuple[Tensor, Tensor]:
    """Map mask and calibration mask of a batch, both bool (B, S).

    Map: real tokens, less a leading `skip_bos`. Calibration: real positions t whose label t + 1 is
    in the loss, BOS included.
    """
    counted_BS = batch.valid_BS.clone()
    if skip_bos is not None:
        counted_BS[:, 0] &= batch.input_ids_BS[:, 0] != skip_bos
    labelled_BS = torch.zeros_like(counted_BS)
    labelled_BS[:, :-1] = batch.labels_BS[:, 1:] != -100
    return counted_BS, labelled_BS & batch.valid_BS


def _meta(
    opened: OpenModel,
    sets: "dict[str, DocumentSet]",
    config: ProfileConfig,
    counts: dict[str, RoutingCounts],
) -> dict[str, Any]:
    prints = {side: documents.fingerprint for side, documents in sets.items()}
    return {
        "key": profile_key(config, opened.info.fingerprint, prints["forget"], prints["retain"]),
        "model": opened.info.to_dict(),
        "sets": {
            side: {
                "name": documents.name,
                "source": documents.source,
                "fingerprint": documents.fingerprint,
                "documents": len(documents.documents),
                "tokens": counts[side].tokens,
                "truncated": counts[side].truncated_documents,
                "token_coverage": counts[side].token_coverage,
            }
            for side, documents in sets.items()
        },
        "settings": config.model_dump(mode="json", exclude={"name"}),
        "max_token_cells": MAX_TOKEN_CELLS,
        "versions": {
            # By name: a static import of the package from one of its rooms would be a cycle.
            "trace": str(import_module("trace_engine").__version__),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "numpy": np.__version__,
        },
    }
