"""Greedy continuation of prompts, many at a time, token for token what each gives alone.

Prompts are padded on the left with explicit position ids where the model's own numbers say that
this changes nothing (checked on the shortest prompt beside the longest, by value, not by class);
else only prompts of equal length share a batch. A model's own sampling settings are set aside.
Trade-off: a batch runs until its last text ends, or its tokens are used up.
"""

# Dims: B prompts of a batch, P padded prompt length, V vocabulary

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from trace_engine.errors import InputError
from trace_engine.models import OpenModel
from trace_engine.progress import Meter, ProgressCallback, ignore_progress


def continue_texts(
    opened: OpenModel,
    prompts: Sequence[str],
    max_new_tokens: int,
    tokens_per_batch: int = 8192,
    *,
    phase: str = "writing",
    report: ProgressCallback = ignore_progress,
) -> list[str]:
    """What the model writes after each prompt, in order, without special tokens.

    A prompt starts with BOS where the tokenizer has one, as training and profiles do. Raises
    InputError when a prompt has no token.
    """
    tokenizer = opened.tokenizer
    bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    encoded = (
        tokenizer(list(prompts), add_special_tokens=False, verbose=False)["input_ids"]
        if prompts
        else []
    )
    written = continue_ids(
        opened,
        [bos + ids for ids in encoded],
        max_new_tokens,
        tokens_per_batch,
        phase=phase,
        report=report,
    )
    return [tokenizer.decode(ids, skip_special_tokens=True) for ids in written]


def continue_ids(
    opened: OpenModel,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    tokens_per_batch: int = 8192,
    *,
    phase: str = "writing",
    report: ProgressCallback = ignore_progress,
) -> list[list[int]]:
    """The likeliest next token, again and again, after each prompt's ids, up to `max_new_tokens` or
    the end of sequence, which is not returned.

    `tokens_per_batch` bounds padded prompt and new tokens. In eval mode; the model's mode and
    generation settings are restored. Raises InputError when a prompt has no token.
    """
    if not all(len(prompt) for prompt in prompts):
        raise InputError("A prompt has no token, so there is nothing to continue.")
    model = opened.model
    ends = _ends(opened)
    written: list[list[int]] = [[] for _ in prompts]
    meter = Meter(phase, max_new_tokens * len(prompts), "tokens", report)
    was_training = model.training
    model.eval()
    try:
        with _greedy(model, set()):
            padded = _pads_exactly(model, prompts)
        with _greedy(model, ends):
            for batch in _batches(prompts, max_new_tokens, tokens_per_batch, padded):
                rows = [prompts[number] for number in batch]
                found_BT = _generate(model, rows, max_new_tokens, meter)
                for number, new in zip(batch, found_BT.tolist(), strict=True):
                    length = next((n for n, token in enumerate(new) if token in ends), len(new))
                    written[number] = new[:length]
                if left := max_new_tokens - found_BT.shape[1]:
                    meter.add(len(batch) * left)
    finally:
        model.train(was_training)
    return written


def _ends(opened: OpenModel) -> set[int]:
    """Tokens that end a text: the model's own, and the tokenizer's."""
    settings = getattr(opened.model, "generation_config", None)
    ends = getattr(settings, "eos_token_id", None)
    of_model = ends if isinstance(ends, list) else [ends]
    return {end for end in [*of_model, opened.tokenizer.eos_token_id] if end is not None}


@contextmanager
def _greedy(model: Any, ends: set[int]) -> Iterator[None]:
    """Plain greedy decoding, whatever the model's folder says of sampling or penalties."""
    kept = model.generation_config
    settings: Any = GenerationConfig
    model.generation_config = settings(
        do_sample=False,
        num_beams=1,
        eos_token_id=sorted(ends) or None,
        # Only masked places and those after an end hold it.
        pad_token_id=min(ends, default=0),
    )
    try:
        yield
    finally:
        model.generation_config = kept


def _batches(
    prompts: Sequence[Sequence[int]], new: int, tokens_per_batch: int, padded: bool
) -> Iterator[list[int]]:
    """Prompts of like length, longest first; of equal length where padding changes the result."""
    order = sorted(range(len(prompts)), key=lambda n: (-len(prompts[n]), n))
    groups = (
        [order] if padded else [list(g) for _, g in groupby(order, key=lambda n: len(prompts[n]))]
    )
    for group in groups:
        batch: list[int] = []
        for number in group:
            if batch and (len(batch) + 1) * (len(prompts[batch[0]]) + new) > tokens_per_batch:
                yield batch
                batch = []
            batch.append(number)
        if batch:
            yield batch


def _inputs(model: Any, prompts: Sequence[Sequence[int]]) -> dict[str, Tensor]:
    width = max(len(prompt) for prompt in prompts)
    ids_BP, mask_BP, position_BP = torch.zeros(3, len(prompts), width, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        start = width - len(prompt)
        ids_BP[row, start:] = torch.tensor(list(prompt))
        mask_BP[row, start:] = 1
        position_BP[row, start:] = torch.arange(len(prompt))
    device = next(model.parameters()).device
    return {
        "input_ids": ids_BP.to(device),
        "attention_mask": mask_BP.to(device),
        "position_ids": position_BP.to(device),
    }


class _Counting(StoppingCriteria):
    """Counts written tokens, and never stops a text."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        self._meter.add(input_ids.shape[0])
        return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)


def _generate(model: Any, prompts: Sequence[Sequence[int]], new: int, meter: Meter) -> Tensor:
    """New tokens (B, up to `new`)."""
    inputs = _inputs(model, prompts)
    whole_BT: Tensor = model.generate(
        **inputs,
        max_new_tokens=new,
        stopping_criteria=StoppingCriteriaList([_Counting(meter)]),
    )
    return whole_BT[:, inputs["input_ids"].shape[1] :].cpu()


def _pads_exactly(model: Any, prompts: Sequence[Sequence[int]]) -> bool:
    """Whether the shortest prompt, padded to the longest, gives the logits that it gives alone, in
    the first and the second step."""
    if not prompts:
        return True
    short, long = min(prompts, key=len), max(prompts, key=len)
    if len(short) == len(long):
        return True
    try:
        beside, alone = _first_logits(model, [short, long]), _first_logits(model, [short])
    except (TypeError, AttributeError, RuntimeError, ValueError, IndexError):
        return False
    rounding = torch.finfo(next(model.parameters()).dtype).eps ** 0.5
    return all(
        bool((one_V - other_V).abs().max() <= rounding * other_V.abs().max())
        for one_V, other_V in zip(beside, alone, strict=True)
    )


def _first_logits(model: Any, prompts: Sequence[Sequence[int]]) -> list[Tensor]:
    """Logits (V,) of the first prompt at two steps; nothing ends a text."""
    found = model.generate(
        **_inputs(model, prompts),
        max_new_tokens=2,
        output_logits=True,
        return_dict_in_generate=True,
    )
    return [logits_BV[0].float() for logits_BV in found.logits]
