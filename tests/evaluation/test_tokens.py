"""Token scores against log-softmax one document at a time, and what counts as a text's token."""

import numpy as np
import pytest
import torch

from tests.support.models import tiny_olmoe
from trace_engine.config import ModelConfig
from trace_engine.evaluation.tokens import token_scores
from trace_engine.models import OpenModel, open_model
from trace_engine.sets import Document

DOCUMENTS = [
    Document("a", "the first"),
    Document("b", "0123456789 and a longer second document"),
    Document("c", "ask: answer", prompt="ask:"),
    Document("d", "only prompt", prompt="only prompt"),
]


@pytest.fixture(scope="module")
def opened() -> OpenModel:
    return open_model(ModelConfig(source=str(tiny_olmoe()), device="cpu"))


@pytest.mark.parametrize("tokens_per_batch", [1, 4096])
def test_equal_to_each_document_alone(opened: OpenModel, tokens_per_batch: int) -> None:
    found = token_scores(opened, DOCUMENTS, 64, tokens_per_batch)
    for document, scores in zip(DOCUMENTS, found, strict=True):
        text = opened.tokenizer(document.text, add_special_tokens=False)["input_ids"]
        ids = [opened.tokenizer.bos_token_id, *text]
        with torch.no_grad():
            logits_SV = opened.model(input_ids=torch.tensor([ids])).logits[0].double()
        log_SV = logits_SV.log_softmax(-1).numpy()
        first = 1 + len(document.prompt or "")
        assert len(scores) == len(ids) - first
        for place, label in enumerate(ids[first:]):
            row_V = log_SV[first + place - 1]
            share_V = np.exp(row_V)
            mean = (share_V * row_V).sum()
            deviation = np.sqrt((share_V * row_V**2).sum() - mean**2)
            assert scores.logprob_T[place] == pytest.approx(row_V[label], rel=1e-4)
            assert scores.greedy_T[place] == (row_V.argmax() == label)
            assert scores.mean_T[place] == pytest.approx(mean, rel=1e-4)
            assert scores.deviation_T[place] == pytest.approx(deviation, rel=1e-3)
    assert found[2].text == " answer"
    assert len(found[3]) == 0


@pytest.mark.parametrize(("length", "tokens"), [(40, 39), (39, 38), (10, 9)])
def test_documents_are_cut_and_their_text_with_them(
    opened: OpenModel, length: int, tokens: int
) -> None:
    document = DOCUMENTS[1]
    assert len(document.text) == 39
    scores = token_scores(opened, [document], length)[0]
    assert len(scores) == tokens
    assert scores.text == document.text[:tokens]


def test_a_token_that_cannot_come_counts_for_nothing(
    opened: OpenModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Padded vocabulary entries have logit -inf in some models: no NaN may come of it."""
    head = opened.model.lm_head
    masked = torch.zeros(head.out_features)
    masked[200:] = -torch.inf
    forward = head.forward
    monkeypatch.setattr(head, "forward", lambda hidden: forward(hidden) + masked)
    scores = token_scores(opened, DOCUMENTS[:1], 64)[0]
    assert np.isfinite(scores.mean_T).all()
    assert np.isfinite(scores.deviation_T).all()
