"""Documents -> token ids -> batches: sorted by length, filled to a token budget, padded on the
right.

Right padding with explicit position ids leaves real tokens' routing exact for every family tried,
where packing changed it in half of them; sorting by length makes the padding nearly free. How
batches are composed follows from the documents alone, so that one process and many see the same
batches.
"""

# Dims: B documents of a batch, S padded length

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trace_engine.errors import InputError

NO_LOSS = -100
BATCH_COST = 128
"""What a forward costs beyond its tokens, in tokens (60 to 90 on CPU, more on a GPU)."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """One document as token ids."""

    ids: tuple[int, ...]
    label_start: int
    """First position whose id is to be predicted; what comes before it (BOS, prompt) is context."""
    truncated: bool = False
    """Whether text was cut at the maximum length (an end-of-sequence token that did not fit is not
    text)."""

    @property
    def labels(self) -> int:
        """Number of positions in the loss; 0 when the document tokenizes to nothing to predict."""
        return max(0, len(self.ids) - self.label_start)


@dataclass(frozen=True, slots=True)
class Batch:
    """Documents side by side, padded on the right. All tensors int64."""

    input_ids_BS: Tensor
    attention_mask_BS: Tensor
    """1 for real tokens, 0 for padding."""
    position_ids_BS: Tensor
    labels_BS: Tensor
    """The id at each position that is in the loss, -100 elsewhere; not shifted (logits at t predict
    label t+1)."""
    document_B: Tensor
    """Index of each row's document in what was batched."""

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on a device."""
        return Batch(
            self.input_ids_BS.to(device),
            self.attention_mask_BS.to(device),
            self.position_ids_BS.to(device),
            self.labels_BS.to(device),
            self.document_B.to(device),
        )

    @property
    def inputs(self) -> dict[str, Tensor]:
        """Keyword arguments of a model's forward; labels are left out, the loss is computed by the
        caller."""
        return {
            "input_ids": self.input_ids_BS,
            "attention_mask": self.attention_mask_BS,
            "position_ids": self.position_ids_BS,
        }

    @property
    def valid_BS(self) -> Tensor:
        """True for real tokens."""
        return self.attention_mask_BS == 1


def encode(
    tokenizer: Any,
    texts: Sequence[str],
    max_length: int,
    prompts: Sequence[str | None] | None = None,
) -> list[Encoded]:
    """Token ids of each text: BOS before it when the tokenizer has one, EOS after it when it has
    one and it fits.

    A prompt is the leading part of its text; its tokens are context, not labels, and a token across
    the boundary is a label. Raises InputError when a prompt does not lead its text, or max_length <
    2.
    """
    if max_length < 2:
        raise InputError(f"max_length must be at least 2 tokens, found {max_length}.")
    if not texts:
        return []
    # Offsets say which tokens are a prompt's; without prompts they would only cost time.
    has_offsets = bool(getattr(tokenizer, "is_fast", False)) and any(prompts or ())
    # The tokenizer's own length warning is about its model's limit; ours is max_length.
    output = tokenizer(
        list(texts),
        add_special_tokens=False,
        return_attention_mask=False,
        return_offsets_mapping=has_offsets,
        verbose=False,
    )
    bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    encoded = []
    for number, text in enumerate(texts):
        ids: list[int] = output["input_ids"][number]
        prompt = prompts[number] if prompts is not None else None
        context = 0
        if prompt:
            if not text.startswith(prompt):
                raise InputError(f"Document {number}: its text does not begin with its prompt.")
            if has_offsets:
                ends = [end for _, end in output["offset_mapping"][number]]
                context = next((n for n, end in enumerate(ends) if end > len(prompt)), len(ids))
            else:
                context = _shared_prefix(
                    tokenizer(prompt, add_special_tokens=False)["input_ids"], ids
                )
        room = max_length - len(bos)
        kept = ids[:room]
        if len(kept) < room and tokenizer.eos_token_id is not None:
            kept = [*kept, tokenizer.eos_token_id]
        start = max(1, len(bos) + context)
        encoded.append(Encoded((*bos, *kept), start, truncated=len(ids) > room))
    return encoded


def make_batches(encoded: Sequence[Encoded], tokens_per_batch: int) -> Iterator[Batch]:
    """Longest documents first, at most `tokens_per_batch` padded tokens a batch, or one document.

    Batches end where padding would cost more than another forward does. Documents without a token
    are left out. The order and the ends depend on lengths and positions only.
    """
    order = [n for n, item in enumerate(encoded) if item.ids]
    order.sort(key=lambda n: (-len(encoded[n].ids), n))
    ends = _ends([len(encoded[n].ids) for n in order], tokens_per_batch)
    for start, end in pairwise([0, *ends]):
        yield collate(encoded, order[start:end])


def _ends(lengths: Sequence[int], tokens_per_batch: int) -> list[int]:
    """Where batches of documents of descending length end, so that all of it costs least.

    Costs are padded tokens and `BATCH_COST` a batch; every possible end is weighed.
    """
    total = len(lengths)
    cost = np.full(total + 1, np.inf)
    cost[0] = 0
    start_of = np.zeros(total + 1, dtype=np.int64)
    for start, width in enumerate(lengths):
        rows = min(max(1, tokens_per_batch // width), total - start)
        reached = slice(start + 1, start + rows + 1)
        through = cost[start] + BATCH_COST + width * np.arange(1, rows + 1)
        better = through < cost[reached]
        cost[reached][better] = through[better]
        start_of[reached][better] = start
    ends = [total] if total else []
    while ends and start_of[ends[-1]]:
        ends.append(int(start_of[ends[-1]]))
    return ends[::-1]


def collate(encoded: Sequence[Encoded], documents: Sequence[int]) -> Batch:
    """These documents as one batch, in the order given. Raises InputError when there is none."""
    if not documents:
        raise InputError("A batch needs at least one document.")
    items = [encoded[n] for n in documents]
    length_B = torch.tensor([len(item.ids) for item in items])
    start_B = torch.tensor([item.label_start for item in items])
    position_BS = torch.arange(int(length_B.max())).repeat(len(items), 1)
    real_BS = position_BS < length_B[:, None]
    input_ids_BS = torch.zeros_like(position_BS)
    flat = np.fromiter(chain.from_iterable(item.ids for item in items), np.int64)
    input_ids_BS[real_BS] = torch.from_numpy(flat)
    labelled_BS = real_BS & (position_BS >= start_B[:, None])
    return Batch(
        input_ids_BS,
        real_BS.long(),
        position_BS,
        input_ids_BS.where(labelled_BS, torch.tensor(NO_LOSS)),
        torch.tensor(list(documents)),
    )


def _shared_prefix(left: Sequence[int], right: Sequence[int]) -> int:
    count = 0
    for one, other in zip(left, right, strict=False):
        if one != other:
            break
        count += 1
    return count
