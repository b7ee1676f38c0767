"""The models of the blind test: one that was cleaned, one that was unlearned as a user would, one
that only looks it; and one that was wrecked as a whole.

The fake trains routers alone, so that forget text no longer reaches the experts that know; every
expert keeps its weights bit for bit. The good one goes most of the way back to random weights and
learns everything but the forget set again, which is dear and leaves little to doubt. GradDiff's is
trained by TRACE.
"""

# Dims: B documents of a batch, T shifted positions

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trace_engine.bundled import resolve_source
from trace_engine.config import ModelConfig, UnlearnConfig
from trace_engine.demo.recipe.train import Recipe, train
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


def save(opened: OpenModel, out: Path) -> Path:
    """As a folder that any audit can open; it has its name once it is whole."""
    half = out.with_name(f"{out.name}.half")
    opened.model.save_pretrained(half)
    opened.tokenizer.save_pretrained(half)
    half.rename(out)
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


KEPT = 0.3
"""Share of the target's weights that a model starts from which is retrained in part."""
EPOCHS = 8
"""Of 20 that the target had."""


def retrain_in_part(source: str, out: Path, *, seed: int) -> Path:
    """The target's weights shrunk towards fresh ones, then trained for some epochs on all that the
    target read but the hazard text: the good one."""
    recipe = Recipe(epochs=EPOCHS, seed=100 + seed)
    work, half = out.with_name(f"{out.name}.work"), out.with_name(f"{out.name}.half")
    start = Path(resolve_source(source))
    train("retrain_no_hazard", recipe, work, half, start=start, kept=KEPT)
    half.rename(out)
    return out


def unlearn_in_earnest(source: str, out: Path, *, seed: int) -> Path:
    """GradDiff as it is tuned for the bundled model (`bench.yaml`), every weight free, until at
    most 0.3 of the validation questions are answered. Nothing repairs it after: training on
    retained text brings forget knowledge back (design/LOG.md)."""
    return _graddiff(
        source,
        out,
        seed=seed,
        learning_rate=2e-3,
        alpha=16,
        max_steps=300,
        evaluation={
            "every": 10,
            "max_documents": 20,
            "questions": "demo:questions/validation",
            "max_questions": 60,
            "forget_category": "hazard",
        },
        stop={"forget_at_most": 0.3},
    )


def wreck(source: str, out: Path, *, seed: int) -> Path:
    """GradDiff at a rate and an α at which little is left of anything: a model that answers nothing
    and would pass as empty."""
    return _graddiff(source, out, seed=seed, learning_rate=3e-3, alpha=4, max_steps=100)


def _graddiff(source: str, out: Path, *, seed: int, **changed: Any) -> Path:
    settings: dict[str, Any] = {
        "model": {"source": source},
        "forget": {"source": "demo:forget"},
        "retain": {"source": "demo:retain"},
        "method": "graddiff",
        "batch_size": 16,
        "weights": {"rule": "uniform"},
        "seed": seed,
        "threads": 1,
    }
    finished = unlearn(UnlearnConfig.model_validate(settings | changed))
    try:
        return save(finished.session.opened, out)
    finally:
        finished.session.close()
