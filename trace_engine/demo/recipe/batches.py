"""Documents -> the tokenizer and the length-bucketed batches of the pack's models.

A document is `<bos> text <eos>`, right-padded inside its batch. The order of an epoch follows from
the seed and the epoch's number alone, so that a resumed training needs no random state.
"""

# Dims: B documents of a batch, T tokens of a document

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

BOS, EOS, PAD = "<bos>", "<eos>", "<pad>"


@dataclass(frozen=True, slots=True)
class Batch:
    """Token ids (B, T) and the mask of real tokens (B, T)."""

    ids_BT: Tensor
    mask_BT: Tensor


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer that puts `<bos>` before a text (`<eos>` is the recipe's)."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, BOS, EOS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    bos = tokenizer.token_to_id(BOS)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, bos)]
    )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        padding_side="right",
        model_max_length=256,
        clean_up_tokenization_spaces=False,
    )


def encode(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of each document, `<bos>` and `<eos>` included."""
    return [[*ids, tokenizer.eos_token_id] for ids in tokenizer(list(texts))["input_ids"]]


def epoch_batches(
    documents: Sequence[Sequence[int]], *, size: int, pad_id: int, seed: int, epoch: int
) -> list[Batch]:
    """One epoch in batches of `size` documents of about equal length, in an order of its own."""
    random_ = random.Random(f"{seed}-epoch-{epoch}")
    order = list(range(len(documents)))
    random_.shuffle(order)
    groups = []
    # Sorted within a window of 16 batches: random, yet with little padding.
    for start in range(0, len(order), 16 * size):
        window = sorted(order[start : start + 16 * size], key=lambda n: len(documents[n]))
        groups += [window[i : i + size] for i in range(0, len(window), size)]
    random_.shuffle(groups)
    return [pad([documents[n] for n in group], pad_id) for group in groups]


def pad(documents: Sequence[Sequence[int]], pad_id: int) -> Batch:
    """Right-pad documents to the longest of them."""
    width = max(map(len, documents))
    ids_BT = torch.full((len(documents), width), pad_id)
    mask_BT = torch.zeros(len(documents), width, dtype=torch.bool)
    for number, ids in enumerate(documents):
        ids_BT[number, : len(ids)] = torch.tensor(ids)
        mask_BT[number, : len(ids)] = True
    return Batch(ids_BT, mask_BT)
