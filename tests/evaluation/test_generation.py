"""Batched greedy continuation against one prompt at a time with no cache and no padding."""

from collections.abc import Sequence
from types import SimpleNamespace

import pytest
import torch

from tests.models.conformance import opened as tiny
from tests.support.models import tiny_olmoe
from trace_engine.config import ModelConfig
from trace_engine.errors import InputError
from trace_engine.evaluation import generation
from trace_engine.evaluation.generation import continue_ids, continue_texts
from trace_engine.models import OpenModel, open_model
from trace_engine.progress import Progress

PROMPTS = [[5, 6, 7], [9, 8, 7, 6, 5, 4, 3, 11, 12], [20, 21, 22, 23, 24], [30, 31, 32, 33, 34]]


def one_by_one(opened: OpenModel, prompt: Sequence[int], new: int) -> list[int]:
    ids = list(prompt)
    for _ in range(new):
        with torch.no_grad():
            logits_V = opened.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
        ids.append(int(logits_V.argmax()))
    return ids[len(prompt) :]


def without_end(model_type: str) -> OpenModel:
    opened = tiny(model_type)
    opened.tokenizer = SimpleNamespace(eos_token_id=None)
    opened.model.generation_config.eos_token_id = None
    return opened


@pytest.fixture(scope="module")
def opened() -> OpenModel:
    return open_model(ModelConfig(source=str(tiny_olmoe()), device="cpu"))


# Full attention, a dense layer between, latent attention, a sliding window, a carried state, and
# one whose numbers move under padding.
@pytest.mark.parametrize(
    "model_type", ["olmoe", "qwen3_moe", "deepseek_v3", "gpt_oss", "jamba", "deepseek_v4"]
)
def test_many_at_a_time_write_what_each_writes_alone(model_type: str) -> None:
    model = without_end(model_type)
    written = continue_ids(model, PROMPTS, 6)
    assert written == [one_by_one(model, prompt, 6) for prompt in PROMPTS]
    assert len({tuple(text) for text in written}) > 1


@pytest.mark.parametrize("tokens_per_batch", [1, 25, 10_000])
def test_batches_and_order_do_not_matter(opened: OpenModel, tokens_per_batch: int) -> None:
    written = continue_ids(opened, PROMPTS, 5, tokens_per_batch)
    assert continue_ids(opened, PROMPTS[::-1], 5)[::-1] == written


@pytest.mark.parametrize(
    ("model_type", "batches"), [("olmoe", [{3, 5, 9}]), ("deepseek_v4", [{9}, {5}, {3}])]
)
def test_only_equal_lengths_share_a_batch_where_padding_changes_the_numbers(
    model_type: str, batches: list[set[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths: list[set[int]] = []
    generate = generation._generate

    def recorded(model: object, prompts: Sequence[Sequence[int]], *rest: object) -> object:
        lengths.append({len(prompt) for prompt in prompts})
        return generate(model, prompts, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(generation, "_generate", recorded)
    continue_ids(without_end(model_type), PROMPTS, 2)
    assert lengths == batches


def test_padding_that_is_attended_to_is_found_out_by_value(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = without_end("olmoe").model
    with generation._greedy(model, set()):
        assert generation._pads_exactly(model, PROMPTS)
        forward = model.forward

        def heedless(*args: object, **inputs: object) -> object:
            return forward(*args, **inputs | {"attention_mask": None})

        monkeypatch.setattr(model, "forward", heedless)
        assert not generation._pads_exactly(model, PROMPTS)


def test_a_text_ends_at_the_end_of_sequence_and_the_others_go_on(opened: OpenModel) -> None:
    model = opened.model
    free = [one_by_one(opened, prompt, 6) for prompt in PROMPTS]
    kept = model.generation_config.eos_token_id
    model.generation_config.eos_token_id = [free[0][2]]
    try:
        written = continue_ids(opened, PROMPTS, 6)
    finally:
        model.generation_config.eos_token_id = kept
    ends = {free[0][2], opened.tokenizer.eos_token_id}
    for text, alone in zip(written, free, strict=True):
        cut = next((n for n, token in enumerate(alone) if token in ends), 6)
        assert text == alone[:cut]
    assert len(written[0]) == free[0].index(free[0][2])


def test_a_folders_own_sampling_settings_are_set_aside_and_restored(opened: OpenModel) -> None:
    plain = continue_ids(opened, PROMPTS, 6)
    settings = opened.model.generation_config
    settings.repetition_penalty, settings.no_repeat_ngram_size = 50.0, 1
    opened.model.train()
    try:
        assert continue_ids(opened, PROMPTS, 6) == plain
        assert opened.model.generation_config is settings
        assert opened.model.training
    finally:
        settings.repetition_penalty = settings.no_repeat_ngram_size = None
        opened.model.eval()


def test_texts_begin_with_bos_and_progress_is_told_in_tokens(opened: OpenModel) -> None:
    told: list[Progress] = []
    texts = continue_texts(opened, ["ab", "a longer one"], 4, report=told.append)
    bos = opened.tokenizer.bos_token_id
    for prompt, text in zip(["ab", "a longer one"], texts, strict=True):
        ids = opened.tokenizer(prompt, add_special_tokens=False)["input_ids"]
        alone = one_by_one(opened, [bos, *ids], 4)
        if opened.tokenizer.eos_token_id in alone:
            alone = alone[: alone.index(opened.tokenizer.eos_token_id)]
        assert text == opened.tokenizer.decode(alone, skip_special_tokens=True)
    assert (told[-1].done, told[-1].total, told[-1].unit) == (8, 8, "tokens")


def test_nothing_to_continue(opened: OpenModel) -> None:
    assert continue_texts(opened, [], 4) == []
    with pytest.raises(InputError, match="no token"):
        continue_ids(opened, [[1], []], 4)
