"""The knowledge check's three outcomes, with and without questions."""

import math

import pytest
import torch

from tests.support.models import save_tiny_olmoe
from trace_engine.config import ModelConfig
from trace_engine.errors import InputError
from trace_engine.evaluation import KnowledgeCheck, knowledge_check
from trace_engine.evaluation.estimate import Estimate, wilson
from trace_engine.evaluation.knowledge import judge_accuracy, judge_loss, unigram_entropy
from trace_engine.models import Encoded, OpenModel, open_model
from trace_engine.sets import Document, Question

DOCUMENTS = [Document(str(n), "abcabcabcabc"[n % 3 :]) for n in range(12)]


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> OpenModel:
    folder = save_tiny_olmoe(tmp_path_factory.mktemp("model"))
    return open_model(ModelConfig(source=str(folder), device="cpu"))


@pytest.mark.parametrize(
    ("right", "n", "knows", "words"),
    [
        (90, 100, True, "knows the forget set"),
        (25, 400, False, "does not know"),
        (100, 400, False, "does not know"),
        (3, 8, None, "cannot be told"),
        (30, 100, None, "cannot be told"),
    ],
)
def test_accuracy_against_chance(right: int, n: int, knows: bool | None, words: str) -> None:
    check = judge_accuracy(wilson(right, n), chance=0.25)
    assert check.knows is knows
    assert words in check.sentence
    assert f"of {n} questions" in check.sentence
    assert "guessing gives 25\N{NO-BREAK SPACE}%" in check.sentence


@pytest.mark.parametrize(
    ("low", "high", "knows", "words"),
    [
        (1.0, 1.4, True, "knows text like the forget set"),
        (3.2, 3.6, False, "does not know"),
        (2.6, 3.4, None, "cannot be told"),
        (None, None, None, "one document, so no interval"),
    ],
)
def test_loss_against_unigram_entropy(
    low: float | None, high: float | None, knows: bool | None, words: str
) -> None:
    check = judge_loss(Estimate(1.2, low, high, 30, "cluster_t"), entropy=3.0)
    assert check.knows is knows
    assert words in check.sentence
    assert "3.00" in check.sentence


def test_beating_word_frequencies_is_never_sold_as_knowing_the_facts() -> None:
    check = judge_loss(Estimate(1.2, 1.1, 1.3, 30, "cluster_t"), entropy=3.0)
    assert "cannot be told from knowing the style" in check.sentence


def test_unigram_entropy_by_hand() -> None:
    encoded = [Encoded((9, 1, 1, 2), 1), Encoded((9, 7, 2, 1), 2), Encoded((9,), 1)]
    # Labels 1 1 2 and 2 1: three of 1, two of 2; the prompt's 7 and both BOS do not count.
    by_hand = -(0.6 * math.log(0.6) + 0.4 * math.log(0.4))
    assert unigram_entropy(encoded) == pytest.approx(by_hand)
    with pytest.raises(InputError, match="has a token to predict"):
        unigram_entropy([Encoded((9,), 1)])


def test_an_untrained_model_does_not_know(opened: OpenModel) -> None:
    check = knowledge_check(opened, DOCUMENTS)
    assert check.knows is False
    assert check.measure == "nats_per_token"
    assert check.estimate.n == 12


def test_a_model_taught_the_texts_knows_them(opened: OpenModel) -> None:
    optimizer = torch.optim.AdamW(opened.model.parameters(), lr=1e-2)
    ids_BS = torch.tensor(
        [
            [1, *opened.tokenizer(d.text[:10], add_special_tokens=False)["input_ids"]]
            for d in DOCUMENTS
        ]
    )
    kept = {name: value.clone() for name, value in opened.model.state_dict().items()}
    for _ in range(40):
        logits_BSV = opened.model(input_ids=ids_BS).logits
        loss = torch.nn.functional.cross_entropy(
            logits_BSV[:, :-1].flatten(0, 1), ids_BS[:, 1:].flatten()
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    try:
        check = knowledge_check(opened, [Document(d.id, d.text[:10]) for d in DOCUMENTS])
    finally:
        opened.model.load_state_dict(kept)
    assert check.knows is True
    assert check.estimate.value < check.baseline


def test_with_questions_only_the_forget_category_counts(opened: OpenModel) -> None:
    questions = [
        Question(f"q{n}", ("aa", "bb", "cc", "dd"), n % 4, category)
        for n, category in enumerate(["hazard", "general", "hazard", "hazard"])
    ]
    check = knowledge_check(opened, DOCUMENTS, questions, "hazard")
    assert check.measure == "accuracy"
    assert check.estimate.n == 3
    assert check.baseline == 0.25
    assert KnowledgeCheck.from_dict(check.to_dict()) == check
    with pytest.raises(
        InputError, match=r"forget category 'poison'. The file has: general, hazard"
    ):
        knowledge_check(opened, DOCUMENTS, questions, "poison")
