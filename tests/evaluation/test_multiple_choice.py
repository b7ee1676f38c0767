"""The batched scorer against a one-by-one implementation that shares no code with it."""

import dataclasses
import random

import numpy as np
import pytest
import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    JambaConfig,
    JambaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    OlmoeConfig,
    OlmoeForCausalLM,
)

from trace_engine.demo.recipe.batches import train_tokenizer
from trace_engine.errors import InputError
from trace_engine.evaluation.multiple_choice import prompt_of, score_questions
from trace_engine.sets.questions import Question

WORDS = ["small", "red", "stone", "river", "grows", "dry", "north", "used", "old", "makers"]


def make_questions(count: int, seed: int = 0) -> list[Question]:
    random_ = random.Random(seed)

    def phrase() -> str:
        return " ".join(random_.choices(WORDS, k=random_.randint(1, 12)))

    questions = []
    for number in range(count):
        choices = tuple(f"{phrase()} {letter}" for letter in "wxyz")
        category = "even" if number % 2 == 0 else "odd"
        questions.append(Question(f"{phrase()}:", choices, random_.randrange(4), category))
    return questions


@pytest.fixture(scope="module")
def tokenizer():
    texts = [f"{q.question} {c}" for q in make_questions(50, seed=9) for c in q.choices]
    return train_tokenizer([*texts, "Answer: A B C D"], 400)


@pytest.fixture(scope="module")
def model(tokenizer):
    torch.manual_seed(0)
    config = OlmoeConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        num_experts=8,
        num_experts_per_tok=2,
        initializer_range=0.5,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return OlmoeForCausalLM(config).eval()


def naive_loglikelihood(model, tokenizer, context: str, continuation: str) -> tuple[float, int]:
    start = tokenizer(context)["input_ids"]
    whole = tokenizer(context + continuation)["input_ids"]
    with torch.no_grad():
        logits = model(torch.tensor([whole])).logits[0].log_softmax(-1)
    steps = range(len(start), len(whole))
    return sum(float(logits[step - 1, whole[step]]) for step in steps), len(steps)


@pytest.mark.parametrize("style", ["continuation", "letters"])
@pytest.mark.parametrize("normalise", ["sum", "tokens", "characters"])
def test_equals_the_naive_one_by_one_scorer(model, tokenizer, style, normalise) -> None:
    questions = make_questions(12)
    scores = score_questions(
        model, tokenizer, questions, style=style, normalise=normalise, tokens_per_batch=300
    )
    for question, got, right in zip(questions, scores.loglikelihoods, scores.correct, strict=True):
        context, continuations = prompt_of(question, style)
        expected = []
        for continuation, choice in zip(continuations, question.choices, strict=True):
            total, steps = naive_loglikelihood(model, tokenizer, context, continuation)
            divisor = {"sum": 1, "tokens": steps, "characters": len(choice)}[normalise]
            expected.append(total / divisor)
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)
        assert right == (int(np.argmax(expected)) == question.answer)


def test_the_letters_prompt_is_mmlu_s() -> None:
    question = Question("Which is a fruit? ", ("pear", "iron"), 0)
    context, continuations = prompt_of(question, "letters")
    assert context == "Which is a fruit?\nA. pear\nB. iron\nAnswer:"
    assert continuations == [" A", " B"]


def test_white_space_after_a_question_is_scored_as_the_harness_scores_it() -> None:
    question = Question("Which is a fruit? \n", ("pear", "iron"), 0)
    assert prompt_of(
        dataclasses.replace(question, description="Questions.\n\n"), "continuation"
    ) == (
        "Questions.\n\nWhich is a fruit?",
        [" \n pear", " \n iron"],
    )
    assert prompt_of(Question("Fruit?", ("pear", "iron"), 0), "continuation") == (
        "Fruit?",
        [" pear", " iron"],
    )


def test_batch_size_and_padding_change_nothing(model, tokenizer) -> None:
    questions = make_questions(10)
    model.set_experts_implementation("eager")  # the grouped one has no float64
    model.double()
    try:
        one = score_questions(model, tokenizer, questions, tokens_per_batch=1)
        many = score_questions(model, tokenizer, questions, tokens_per_batch=100_000)
    finally:
        model.float().set_experts_implementation("grouped_mm")
    for a, b in zip(one.loglikelihoods, many.loglikelihoods, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-5)


def test_a_model_that_changes_its_logits_after_the_head_is_scored_whole(tokenizer) -> None:
    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=16,
        final_logit_softcapping=2.0,
        initializer_range=0.5,
        pad_token_id=tokenizer.pad_token_id,
    )
    capped = Gemma2ForCausalLM(config).eval()
    questions = make_questions(3)
    scores = score_questions(capped, tokenizer, questions)
    for question, got in zip(questions, scores.loglikelihoods, strict=True):
        context, continuations = prompt_of(question, "continuation")
        expected = [naive_loglikelihood(capped, tokenizer, context, c)[0] for c in continuations]
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


class Tokens:
    """Counts the real tokens that a model's backbone reads."""

    def __init__(self, model) -> None:
        self.read, self.rows = 0, 0
        self._handle = model.model.register_forward_pre_hook(self._count, with_kwargs=True)

    def _count(self, module, args, kwargs) -> None:
        self.rows += len(kwargs["input_ids"])
        mask = kwargs["attention_mask"]
        # A mask of branches blocks padding from all but itself: its last column tells nothing.
        self.read += int(mask.sum()) if mask.dim() == 2 else kwargs["input_ids"].numel()

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        self._handle.remove()


def test_choices_share_one_reading_of_their_question(model, tokenizer) -> None:
    long = " ".join(WORDS * 12)
    questions = [
        dataclasses.replace(question, question=long + f" {n}:")
        for n, question in enumerate(make_questions(20))
    ]
    with Tokens(model) as tokens:
        scores = score_questions(model, tokenizer, questions, tokens_per_batch=1)
    ids = [
        len(tokenizer(f"{question.question} {choice}")["input_ids"])
        for question in questions
        for choice in question.choices
    ]
    # The checks on one question come on top, and still it is less than half.
    assert tokens.read < sum(ids) / 2
    for question, got in zip(questions, scores.loglikelihoods, strict=True):
        expected = [
            naive_loglikelihood(model, tokenizer, question.question, f" {choice}")[0]
            for choice in question.choices
        ]
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


def windowed(tokenizer):
    """Looks back eight tokens only: a choice would see another one instead of its question."""
    return MixtralForCausalLM(
        MixtralConfig(**shape(tokenizer), num_local_experts=4, sliding_window=8)
    )


def stateful(tokenizer):
    """Carries a state along the row, whatever the mask says."""
    return JambaForCausalLM(
        JambaConfig(
            **shape(tokenizer),
            num_experts=4,
            use_mamba_kernels=False,
            attn_layer_period=2,
            attn_layer_offset=1,
            mamba_d_state=4,
            mamba_dt_rank=4,
        )
    )


def shape(tokenizer):
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "initializer_range": 0.5,
        "pad_token_id": tokenizer.pad_token_id,
    }


@pytest.mark.parametrize("make", [windowed, stateful])
def test_a_model_that_cannot_keep_choices_apart_reads_them_one_by_one(tokenizer, make) -> None:
    torch.manual_seed(0)
    other = make(tokenizer).eval()
    questions = make_questions(8, seed=3)
    with Tokens(other) as tokens:
        scores = score_questions(other, tokenizer, questions, tokens_per_batch=1)
    assert tokens.rows >= 4 * len(questions)
    for question, got in zip(questions, scores.loglikelihoods, strict=True):
        context, continuations = prompt_of(question, "continuation")
        expected = [naive_loglikelihood(other, tokenizer, context, c)[0] for c in continuations]
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("training", [True, False])
def test_train_or_eval_mode_is_restored(model, tokenizer, training: bool) -> None:
    model.train(training)
    score_questions(model, tokenizer, make_questions(2))
    assert model.training is training
    model.eval()


def test_random_answers_are_at_chance_and_categories_add_up(model, tokenizer) -> None:
    questions = make_questions(400)
    scores = score_questions(model, tokenizer, questions)
    overall = scores.accuracy()
    assert overall.n == 400
    assert overall.method == "wilson"
    assert overall.low is not None
    assert overall.high is not None
    assert 0.25 - 0.09 < overall.value < 0.25 + 0.09  # four standard errors
    assert overall.low < overall.value < overall.high
    parts = scores.by_category()
    assert sum(part.n for part in parts.values()) == 400
    right = sum(part.value * part.n for part in parts.values())
    assert right == pytest.approx(overall.value * 400)


def test_chance_is_the_mean_of_one_over_choices_per_category(model, tokenizer) -> None:
    questions = make_questions(6)
    questions[0] = dataclasses.replace(questions[0], choices=questions[0].choices[:2], answer=0)
    more = (*questions[1].choices, "north v")
    questions[1] = dataclasses.replace(questions[1], choices=more)
    scores = score_questions(model, tokenizer, questions)
    assert scores.chance("even") == pytest.approx((1 / 2 + 1 / 4 + 1 / 4) / 3)
    assert scores.chance("odd") == pytest.approx((1 / 5 + 1 / 4 + 1 / 4) / 3)
    assert scores.chance() == pytest.approx((scores.chance("even") + scores.chance("odd")) / 2)
    with pytest.raises(InputError, match="categories: even, odd"):
        scores.chance("hazard")


def test_the_answer_decides_correctness(model, tokenizer) -> None:
    questions = make_questions(10)
    likeliest = [
        int(np.argmax(v)) for v in score_questions(model, tokenizer, questions).loglikelihoods
    ]
    told = [
        dataclasses.replace(question, answer=answer)
        for question, answer in zip(questions, likeliest, strict=True)
    ]
    assert score_questions(model, tokenizer, told).accuracy().value == 1.0


def test_refusals_are_sentences(model, tokenizer) -> None:
    with pytest.raises(InputError, match="no questions"):
        score_questions(model, tokenizer, [])
    with pytest.raises(InputError, match="Expected one of continuation, letters"):
        score_questions(model, tokenizer, make_questions(1), style="essay")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="categories: even"):
        score_questions(model, tokenizer, make_questions(1)).accuracy("hazard")
