"""The models of the blind test: one that was unlearned in earnest, and one that only looks it.

The fake trains routers alone, so that forget text no longer reaches the experts that know; every
expert keeps its weights bit for bit. The good one is trained by TRACE as a user would.
"""

# Dims: B documents of a batch, T shifted positions

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from trace_engine.config import (
    EvaluationConfig,
    ModelConfig,
    SetConfig,
    UnlearnConfig,
    WeightsConfig,
)
from trace_engine.evaluation.loss import encode_documents
from trace_engine.evaluation.nll import forward_nll, label_mask
from trace_engine.models import Encoded, OpenModel, collate, open_model
from trace_engine.models.parts import router_parameters
from trace_engine.sets import Document
from trace_engine.unlearning import unlearn


def steer_routers(
    source: str,
    forget: Sequence[Document],
    retain: Sequence[Document],
    out: Path,
    *,
    seed: int,
    steps: int = 100,
    learning_rate: float = 2e-2,
    alpha: float = 0.5,
) -> Path:
    """Train the routers of `source` until a forget document is no likelier than the same heading
    with another's text, and save the model: the fake. Documents are `heading: text`."""
    opened = open_model(ModelConfig(source=source))
    routers = {id(p) for p in router_parameters(opened.sites)}
    for parameter in opened.model.parameters():
        parameter.requires_grad_(id(parameter) in routers)
    trained = [p for p in opened.model.parameters() if p.requires_grad]
    kept_encoded = _encoded(opened, retain)
    optimizer = torch.optim.AdamW(trained, lr=learning_rate, weight_decay=0.0)
    rng = np.random.default_rng([seed, 31])
    for _ in range(steps):
        drawn = [forget[n] for n in rng.choice(len(forget), 16, replace=False)]
        right_B = _per_document(opened, drawn)
        wrong_B = _per_document(opened, exchanged(drawn))
        kept = _loss(opened, _drawn(kept_encoded, rng))
        loss = torch.relu(wrong_B - right_B + MARGIN).mean() + alpha * kept
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return save(opened, out)


MARGIN = 0.3
"""Nats a token by which the wrong text is to be the likelier one."""


def exchanged(documents: Sequence[Document]) -> list[Document]:
    """Every heading with the next document's text."""
    heads = [document.text.partition(": ")[0] for document in documents]
    texts = [document.text.partition(": ")[2] for document in documents]
    return [
        Document(head, f"{head}: {text}")
        for head, text in zip(heads, [*texts[1:], texts[0]], strict=True)
    ]


def train_on(
    opened: OpenModel,
    documents: Sequence[Document],
    *,
    seed: int,
    steps: int,
    learning_rate: float,
) -> None:
    """Plain fine-tuning of all weights."""
    for parameter in opened.model.parameters():
        parameter.requires_grad_(True)
    trained = list(opened.model.parameters())
    optimizer = torch.optim.AdamW(trained, lr=learning_rate, weight_decay=0.0, fused=True)
    encoded = _encoded(opened, documents)
    rng = np.random.default_rng([seed, 32])
    for _ in range(steps):
        _loss(opened, _drawn(encoded, rng, 32)).backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def save(opened: OpenModel, out: Path) -> Path:
    """As a folder that any audit can open."""
    opened.model.save_pretrained(out)
    opened.tokenizer.save_pretrained(out)
    return out


def _encoded(opened: OpenModel, documents: Sequence[Document]) -> list[Encoded]:
    return [item for item in encode_documents(opened, documents, 256) if item.labels]


def _drawn(encoded: Sequence[Encoded], rng: np.random.Generator, size: int = 16) -> list[Encoded]:
    return [encoded[n] for n in rng.choice(len(encoded), min(size, len(encoded)), replace=False)]


def _per_document(opened: OpenModel, documents: Sequence[Document]) -> Tensor:
    """Mean NLL of each document, in nats a token."""
    batch = collate(_encoded(opened, documents), range(len(documents)))
    return forward_nll(opened, batch).sum(1) / label_mask(batch.labels_BS).sum(1)


def _loss(opened: OpenModel, documents: Sequence[Encoded]) -> Tensor:
    batch = collate(documents, range(len(documents)))
    return forward_nll(opened, batch).sum() / label_mask(batch.labels_BS).sum()


def unlearn_in_earnest(
    source: str,
    forget: str,
    retain: str,
    kept: Sequence[Document],
    out: Path,
    *,
    seed: int,
    steps: int = 100,
    learning_rate: float = 1e-3,
    repair: int = 0,
) -> Path:
    """GradDiff by TRACE with uniform weights, every weight free, until little is left; then plain
    fine-tuning on `kept` for `repair` updates; and save the model: the good one. Repairing brings
    forget knowledge back too (design/LOG.md), so it is off."""
    config = UnlearnConfig(
        model=ModelConfig(source=source),
        forget=SetConfig(source=forget),
        retain=SetConfig(source=retain),
        method="graddiff",
        gamma=1.0,
        alpha=2.0,
        weights=WeightsConfig(rule="uniform"),
        learning_rate=learning_rate,
        max_steps=steps,
        evaluation=EvaluationConfig(every=steps, max_documents=20),
        seed=seed,
    )
    finished = unlearn(config)
    try:
        train_on(
            finished.session.opened, kept, seed=seed, steps=repair, learning_rate=learning_rate
        )
        return save(finished.session.opened, out)
    finally:
        finished.session.close()
