"""What a linear probe of a model looks at: its states after the questions, and the answers' words.

Only the last token's state of each layer is kept, so that a probe's data stay small.
"""

# Dims: Q questions, R choices of all questions, D hidden

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trace_engine.evaluation.multiple_choice import prompt_of
from trace_engine.models import OpenModel, backbone, decoder_layers, encode, make_batches
from trace_engine.progress import Meter, ProgressCallback, ignore_progress
from trace_engine.sets import Question

MAX_LENGTH = 512
_TOKENS_PER_BATCH = 2048


@torch.no_grad()
def question_states(
    opened: OpenModel,
    questions: Sequence[Question],
    report: ProgressCallback = ignore_progress,
) -> dict[int, NDArray[np.float64]]:
    """Per decoder layer, the hidden state (Q, D) after each question's last token."""
    contexts = [prompt_of(question, "continuation")[0] for question in questions]
    encoded = encode(opened.tokenizer, contexts, MAX_LENGTH)
    end = opened.tokenizer.eos_token_id
    found: dict[int, list[NDArray[np.float64] | None]] = {}
    layers = decoder_layers(opened)
    seen: dict[int, Tensor] = {}
    handles = [
        opened.model.get_submodule(name).register_forward_hook(_noting(seen, layer))
        for layer, name in layers.items()
    ]
    meter = Meter("reading hidden states", len(contexts), "questions", report)
    try:
        for batch in make_batches(encoded, _TOKENS_PER_BATCH):
            placed = batch.to(opened.device)
            backbone(opened.model)(**placed.inputs, use_cache=False)
            for layer, hidden_BSD in seen.items():
                rows = found.setdefault(layer, [None] * len(contexts))
                for row, number in enumerate(batch.document_B.tolist()):
                    ids = encoded[number].ids
                    # A question that goes on has no end of sequence after it.
                    last = len(ids) - (2 if ids[-1] == end else 1)
                    rows[number] = hidden_BSD[row, last].double().cpu().numpy()
            meter.add(len(batch.document_B))
    finally:
        for handle in handles:
            handle.remove()
    return {
        layer: np.stack([row for row in rows if row is not None]) for layer, rows in found.items()
    }


def choice_embeddings(
    opened: OpenModel, questions: Sequence[Question]
) -> NDArray[np.float64] | None:
    """The output embedding (R, D) of each choice's first token that is more than white space; None
    without such a matrix. Some tokenizers make a token of the space before a word, and then every
    choice would look alike."""
    head = opened.model.get_output_embeddings()
    if head is None:
        return None
    choices = [
        choice for question in questions for choice in prompt_of(question, "continuation")[1]
    ]
    ids = opened.tokenizer(choices, add_special_tokens=False)["input_ids"]
    blank = {
        token: not opened.tokenizer.decode([token]).strip()
        for token in set(chain.from_iterable(ids))
    }
    first = [next((token for token in of if not blank[token]), of[0]) for of in ids]
    rows_RD = head.weight.detach()[torch.tensor(first)]
    return np.asarray(rows_RD.double().cpu().numpy())


def _noting(seen: dict[int, Tensor], layer: int) -> Any:
    def note(module: nn.Module, args: Any, output: Any) -> None:
        hidden = output[0] if isinstance(output, tuple) else output
        if isinstance(hidden, Tensor) and hidden.ndim == 3:
            seen[layer] = hidden.detach()

    return note
