"""Extraction strength and exact memorisation by hand, and against real greedy decoding."""

import numpy as np
import pytest
import torch

from tests.support.models import save_tiny_olmoe
from trace_engine.config import ModelConfig
from trace_engine.evaluation.memorisation import (
    Memorisation,
    exact_memorisation,
    extraction_strength,
)
from trace_engine.evaluation.tokens import token_scores
from trace_engine.models import OpenModel, open_model
from trace_engine.sets import Document

DOCUMENTS = [Document(str(n), f"{letter * 3}{n}{letter}xyz") for n, letter in enumerate("abcdefgh")]


@pytest.mark.parametrize(
    ("greedy", "strength", "exact"),
    [
        ("1111", 1.0, 1.0),
        ("0111", 0.75, 0.75),
        ("1011", 0.5, 0.75),
        ("1110", 0.0, 0.75),
        ("0000", 0.0, 0.0),
        ("0", 0.0, 0.0),
        ("1", 1.0, 1.0),
    ],
)
def test_by_hand(greedy: str, strength: float, exact: float) -> None:
    greedy_T = np.array([mark == "1" for mark in greedy])
    assert extraction_strength(greedy_T) == strength
    assert exact_memorisation(greedy_T) == exact


def test_no_token_has_no_figure() -> None:
    for of in (extraction_strength, exact_memorisation):
        with pytest.raises(ValueError, match="no token"):
            of(np.zeros(0, dtype=bool))


@pytest.fixture(scope="module")
def half_taught(tmp_path_factory: pytest.TempPathFactory) -> OpenModel:
    folder = save_tiny_olmoe(tmp_path_factory.mktemp("model"))
    opened = open_model(ModelConfig(source=str(folder), device="cpu"))
    optimizer = torch.optim.AdamW(opened.model.parameters(), lr=1e-2)
    ids_BS = torch.tensor(
        [[1, *opened.tokenizer(d.text, add_special_tokens=False)["input_ids"]] for d in DOCUMENTS]
    )
    for _ in range(12):
        logits_BSV = opened.model(input_ids=ids_BS).logits
        loss = torch.nn.functional.cross_entropy(
            logits_BSV[:, :-1].flatten(0, 1), ids_BS[:, 1:].flatten()
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return opened


def test_strength_is_what_greedy_decoding_writes(half_taught: OpenModel) -> None:
    """From the prefix that the strength names the model writes the rest; from one less it fails."""
    strengths = set()
    for document, scores in zip(DOCUMENTS, token_scores(half_taught, DOCUMENTS, 64), strict=True):
        ids = [1, *half_taught.tokenizer(document.text, add_special_tokens=False)["input_ids"]]
        total = len(ids) - 1
        strength = extraction_strength(scores.greedy_T)
        strengths.add(strength)
        given = round((1 - strength) * total)

        def written(known: int, ids: list[int] = ids) -> list[int]:
            out = ids[: 1 + known]
            while len(out) < len(ids):
                with torch.no_grad():
                    logits_V = half_taught.model(input_ids=torch.tensor([out])).logits[0, -1]
                out.append(int(logits_V.argmax()))
            return out

        assert written(given) == ids
        if given:
            assert written(given - 1) != ids
    assert len(strengths) > 1, "a model that knows all or nothing shows nothing"


def test_rows_have_n_interval_and_source(half_taught: OpenModel) -> None:
    family = Memorisation([*DOCUMENTS, Document("p", "all", prompt="all")], "mine", 64)
    assert not family.needs_reference
    strength, exact = family.rows(family.collect(half_taught))
    assert (strength.measure, exact.measure) == ("extraction strength", "exact memorisation")
    for row in (strength, exact):
        assert row.estimate is not None
        assert row.estimate.n == len(DOCUMENTS)
        assert row.estimate.low is not None
        assert row.estimate.low < row.estimate.value
        assert row.on == "mine"
        assert "open-unlearning" in row.implementation
    assert exact.estimate.value > strength.estimate.value  # type: ignore[union-attr]
