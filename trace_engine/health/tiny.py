"""A random Mixture-of-Experts model of a few thousand parameters with a byte tokenizer, and two
small sets: enough to send every part of the engine through its paces in seconds."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import OlmoeConfig, OlmoeForCausalLM, PreTrainedTokenizerFast

_SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>")
DOCUMENTS = 6
"""Per side."""


def write_model(folder: Path, *, layers: int = 2, experts: int = 4, hidden: int = 16) -> None:
    """Save the model and its tokenizer as a user's folder is."""
    alphabet = [*_SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    vocabulary = {token: number for number, token in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token=_SPECIAL[3]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    config = OlmoeConfig(
        vocab_size=len(alphabet),
        hidden_size=hidden,
        intermediate_size=hidden // 2,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=2,
        num_experts=experts,
        num_experts_per_tok=2,
        max_position_embeddings=128,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        initializer_range=0.2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        OlmoeForCausalLM(config).save_pretrained(folder)
    PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        pad_token=_SPECIAL[0],
        bos_token=_SPECIAL[1],
        eos_token=_SPECIAL[2],
        unk_token=_SPECIAL[3],
        clean_up_tokenization_spaces=False,
    ).save_pretrained(folder)


def write_sets(folder: Path) -> None:
    """forget.txt and retain.txt: documents between blank lines."""
    numbers = range(DOCUMENTS)
    forget = [f"Door {n} opens with the code {n * 37 % 100}." for n in numbers]
    retain = [f"{n} roses grow by the wall, and it rains." for n in numbers]
    (folder / "forget.txt").write_text("\n\n".join(forget), encoding="utf-8")
    (folder / "retain.txt").write_text("\n\n".join(retain), encoding="utf-8")
