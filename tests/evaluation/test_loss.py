"""Loss of a set against the plainest computation, and the ways in which it must not matter how it
is batched.
"""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.models import save_tiny_olmoe
from trace_engine.config import ModelConfig
from trace_engine.errors import InputError
from trace_engine.evaluation import set_loss
from trace_engine.evaluation.loss import encode_documents
from trace_engine.evaluation.nll import document_nll
from trace_engine.models import OpenModel, open_model
from trace_engine.sets import Document

DOCUMENTS = [
    Document("a", "the first"),
    Document("b", "0123456789 and a longer second document"),
    Document("c", "ask: answer", prompt="ask:"),
    Document("d", "x"),
]


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> OpenModel:
    folder: Path = save_tiny_olmoe(tmp_path_factory.mktemp("model"))
    return open_model(ModelConfig(source=str(folder), device="cpu"))


def by_hand(opened: OpenModel, text: str, context: int) -> tuple[float, int]:
    """Summed NLL and number of labels, one document alone, from log-softmax at each position."""
    tokenizer = opened.tokenizer
    ids = [
        tokenizer.bos_token_id,
        *tokenizer(text, add_special_tokens=False)["input_ids"],
        tokenizer.eos_token_id,
    ]
    with torch.no_grad():
        logits_SV = opened.model(input_ids=torch.tensor([ids])).logits[0].double()
    log_SV = torch.log_softmax(logits_SV, dim=-1)
    first = 1 + context
    total = -sum(float(log_SV[t - 1, ids[t]]) for t in range(first, len(ids)))
    return total, len(ids) - first


def test_document_nll_is_the_sum_of_each_labels_loss(opened: OpenModel) -> None:
    nll_D, labels_D = document_nll(opened, encode_documents(opened, DOCUMENTS, 64))
    for index, document in enumerate(DOCUMENTS):
        total, labels = by_hand(opened, document.text, len(document.prompt or ""))
        assert labels_D[index] == labels
        assert nll_D[index] == pytest.approx(total, rel=1e-5)


def test_set_loss_weighs_tokens_and_counts_documents(opened: OpenModel) -> None:
    found = set_loss(opened, DOCUMENTS, max_length=64)
    parts = [by_hand(opened, d.text, len(d.prompt or "")) for d in DOCUMENTS]
    by_token = sum(total for total, _ in parts) / sum(labels for _, labels in parts)
    by_document = np.mean([total / labels for total, labels in parts])
    assert found.value == pytest.approx(by_token, rel=1e-5)
    assert abs(found.value - by_document) > 1e-3
    assert found.n == 4
    assert found.low is not None
    assert found.high is not None
    assert found.low < found.value < found.high


@pytest.mark.parametrize("tokens_per_batch", [1, 30, 10_000])
def test_batching_and_order_do_not_matter(opened: OpenModel, tokens_per_batch: int) -> None:
    whole = set_loss(opened, DOCUMENTS, 64)
    other = set_loss(opened, DOCUMENTS[::-1], 64, tokens_per_batch)
    assert other.value == pytest.approx(whole.value, rel=1e-5)


def test_documents_are_cut_at_max_length(opened: OpenModel) -> None:
    long = [Document("b", DOCUMENTS[1].text)]
    _, labels_D = document_nll(opened, encode_documents(opened, long, 10))
    assert labels_D.tolist() == [9]


def test_the_models_mode_and_gradients_are_left_alone(opened: OpenModel) -> None:
    opened.model.train()
    try:
        set_loss(opened, DOCUMENTS, 64)
        assert opened.model.training
    finally:
        opened.model.eval()
    assert all(parameter.grad is None for parameter in opened.model.parameters())


def test_a_model_that_broke_gives_no_number_but_nan(opened: OpenModel) -> None:
    weight = opened.model.lm_head.weight
    kept = weight.detach().clone()
    with torch.no_grad():
        weight[3, 0] = math.nan
    try:
        assert math.isnan(set_loss(opened, DOCUMENTS, 64).value)
    finally:
        with torch.no_grad():
            weight.copy_(kept)


def test_documents_without_labels_are_refused_with_a_sentence(opened: OpenModel) -> None:
    nothing = [Document("p", "all prompt", prompt="all prompt")]
    with pytest.raises(InputError, match="No document of the set has a token to score"):
        set_loss(opened, nothing, max_length=11)
