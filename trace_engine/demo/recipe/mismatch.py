"""Forget-versus-retain routing of a pack model, for the card: ratios, intervals, two controls.

Deliberately independent of the engine's own profile (a hook and NumPy), so that the card's figures
check it. The document is the unit of resampling; `<bos>` is not counted.
"""

# Dims: D documents, T tokens, C cells (layer, expert), K experts per token, V token ids,
# B resamples

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from trace_engine.demo.recipe.batches import encode, pad

Floats = NDArray[np.float64]
RESAMPLES = 1000


@dataclass(frozen=True, slots=True)
class Routing:
    """Counts of one set of documents."""

    chosen_DC: Floats
    """Tokens of a document that route to a cell."""
    tokens_D: Floats
    chosen_VC: Floats
    """The same by token id."""
    tokens_V: Floats

    def frequency_C(self) -> Floats:
        """Activation frequency of each cell."""
        share: Floats = self.chosen_DC.sum(0) / self.tokens_D.sum()
        return share


def count_routing(model: Any, tokenizer: Any, texts: Sequence[str], size: int = 128) -> Routing:
    """Which cells each token routes to, by document and by token id (Olmoe, in eval mode)."""
    documents = [ids[:-1] for ids in encode(tokenizer, texts)]
    layers, experts = model.config.num_hidden_layers, model.config.num_experts
    cells, seen = layers * experts, dict[int, torch.Tensor]()

    def record(layer: int) -> Any:
        return lambda _module, arguments: seen.__setitem__(layer, arguments[1])

    handles = [
        block.mlp.experts.register_forward_pre_hook(record(layer))
        for layer, block in enumerate(model.model.layers)
    ]
    chosen_DC = np.zeros((len(documents), cells))
    chosen_VC = np.zeros((len(tokenizer), cells))
    order = sorted(range(len(documents)), key=lambda number: len(documents[number]))
    try:
        with torch.inference_mode():
            for start in range(0, len(order), size):
                group = order[start : start + size]
                batch = pad([documents[number] for number in group], tokenizer.pad_token_id)
                model.model(input_ids=batch.ids_BT, use_cache=False)
                batch.mask_BT[:, 0] = False
                real = batch.mask_BT.flatten()
                owner_T = np.repeat(group, batch.mask_BT.sum(1).numpy())
                ids_T = batch.ids_BT.flatten()[real].numpy()
                for layer in range(layers):
                    cell_TK = (seen[layer][real] + layer * experts).numpy()
                    np.add.at(chosen_DC, (owner_T[:, None], cell_TK), 1)
                    np.add.at(chosen_VC, (ids_T[:, None], cell_TK), 1)
    finally:
        for handle in handles:
            handle.remove()
    per_token = layers * model.config.num_experts_per_tok
    return Routing(chosen_DC, chosen_DC.sum(1) / per_token, chosen_VC, chosen_VC.sum(1) / per_token)


def routing_mismatch(
    forget: Routing, retain: Routing, experts: int, seed: int = 0
) -> dict[str, Any]:
    """The cells whose fF/fR has a lower 95 % bound of 2 or more, and their number by chance.

    Each with the ratio to retain tokens re-drawn to the forget set's token ids. The null splits the
    union of both sets at random, in parts of the same numbers of documents.
    """
    random = np.random.default_rng(seed)
    ratio_C, low_C, high_C = _ratios(forget, retain, random)
    chosen_DC = np.concatenate([forget.chosen_DC, retain.chosen_DC])
    tokens_D = np.concatenate([forget.tokens_D, retain.tokens_D])
    order = random.permutation(len(tokens_D))
    parts = (order[: len(forget.tokens_D)], order[len(forget.tokens_D) :])
    first, second = (
        Routing(chosen_DC[part], tokens_D[part], retain.chosen_VC, retain.tokens_V)
        for part in parts
    )
    _, null_low_C, _ = _ratios(first, second, random)
    shared_V = (retain.tokens_V > 0) & (forget.tokens_V > 0)
    weight_V = forget.tokens_V[shared_V]
    matched_C = weight_V @ (retain.chosen_VC[shared_V] / retain.tokens_V[shared_V, None])
    forget_C = forget.chosen_VC[shared_V].sum(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        matched_ratio_C = forget_C / matched_C
    strong = [int(cell) for cell in np.argsort(-ratio_C, kind="stable") if low_C[cell] >= 2]
    return {
        "cells": [
            {
                "layer": cell // experts,
                "expert": cell % experts,
                "forget": round(float(forget.frequency_C()[cell]), 4),
                "retain": round(float(retain.frequency_C()[cell]), 4),
                "ratio": round(float(ratio_C[cell]), 2),
                "low": round(float(low_C[cell]), 2),
                "high": round(float(high_C[cell]), 2),
                "token_matched_ratio": round(float(matched_ratio_C[cell]), 2),
            }
            for cell in strong
        ],
        "null_cells": int((null_low_C >= 2).sum()),
        "token_coverage": round(float(weight_V.sum() / forget.tokens_V.sum()), 4),
        "forget_documents": len(forget.tokens_D),
        "retain_documents": len(retain.tokens_D),
        "unused_cells": int((forget.chosen_DC.sum(0) + retain.chosen_DC.sum(0) == 0).sum()),
        "interval": f"document bootstrap, {RESAMPLES} resamples, 95 %",
    }


def _ratios(
    forget: Routing, retain: Routing, random: np.random.Generator
) -> tuple[Floats, Floats, Floats]:
    """Ratio of frequencies with its percentile interval; 0 where the retain set never routes."""

    def resampled_BC(side: Routing) -> Floats:
        documents = len(side.tokens_D)
        weight_BD = random.multinomial(documents, np.full(documents, 1 / documents), RESAMPLES)
        share: Floats = (weight_BD @ side.chosen_DC) / (weight_BD @ side.tokens_D)[:, None]
        return share

    def divided(upper: Floats, lower: Floats) -> Floats:
        result: Floats = np.divide(upper, lower, out=np.zeros_like(upper), where=lower > 0)
        return result

    ratio_BC = divided(resampled_BC(forget), resampled_BC(retain))
    low_C, high_C = np.quantile(ratio_BC, [0.025, 0.975], axis=0)
    return divided(forget.frequency_C(), retain.frequency_C()), low_C, high_C
