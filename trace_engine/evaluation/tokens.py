"""One pass over documents: what the model says at every token of their text.

Memorisation and membership are computed from this. The end-of-sequence token that training adds is
no part of a text and is left out, as it is in open-unlearning and in MUSE. Trade-off: the
distribution of a document's tokens is held in float32 while the document is reduced.
"""

# Dims: S positions of a row, T text tokens of a document, V vocabulary

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trace_engine.evaluation.loss import encode_documents
from trace_engine.models import Encoded, OpenModel, make_batches
from trace_engine.progress import Meter, ProgressCallback, ignore_progress
from trace_engine.sets import Document


@dataclass(frozen=True, slots=True)
class TokenScores:
    """A document's tokens after its prompt (and after the first where there is no BOS)."""

    logprob_T: NDArray[np.float64]
    """Log-probability of each token, in nats."""
    greedy_T: NDArray[np.bool_]
    """Whether the token is the likeliest one there, given the true text before it."""
    mean_T: NDArray[np.float64]
    """Expected log-probability of a token drawn from the model's own distribution there."""
    deviation_T: NDArray[np.float64]
    """Standard deviation of that log-probability."""
    text: str
    """The text that these tokens spell."""

    def __len__(self) -> int:
        return len(self.logprob_T)


def token_scores(
    opened: OpenModel,
    documents: Sequence[Document],
    max_length: int,
    tokens_per_batch: int = 4096,
    *,
    phase: str = "scoring tokens",
    report: ProgressCallback = ignore_progress,
) -> list[TokenScores]:
    """Every document's token scores, in order; those without a token to predict are empty.

    Documents are cut at `max_length` tokens. Without gradients and in eval mode; the model's mode
    is restored.
    """
    encoded = text_tokens(opened, documents, max_length)
    found: list[TokenScores | None] = [None] * len(documents)
    meter = Meter(phase, sum(len(item.ids) for item in encoded), "tokens", report)
    was_training = opened.model.training
    opened.model.eval()
    try:
        with torch.no_grad():
            for batch in make_batches(encoded, tokens_per_batch):
                logits_BSV = opened.model(**batch.to(opened.device).inputs, use_cache=False).logits
                for row, number in enumerate(batch.document_B.tolist()):
                    item = encoded[number]
                    logits_TV = logits_BSV[row, item.label_start - 1 : len(item.ids) - 1]
                    text = _text(opened, documents[number], item)
                    found[number] = _reduced(logits_TV, item, text)
                meter.add(int(batch.attention_mask_BS.sum()))
    finally:
        opened.model.train(was_training)
    empty = np.zeros(0)
    nothing = TokenScores(empty, empty.astype(bool), empty, empty, "")
    return [nothing if scores is None else scores for scores in found]


def text_tokens(opened: OpenModel, documents: Sequence[Document], max_length: int) -> list[Encoded]:
    """Token ids of each document without the end-of-sequence token."""
    if opened.tokenizer.eos_token_id is None:
        return encode_documents(opened, documents, max_length)
    # With room for one more, the last id is the end of sequence, or the first one too many.
    end = opened.tokenizer.eos_token_id
    return [
        replace(item, ids=item.ids[:-1], truncated=item.truncated or item.ids[-1] != end)
        for item in encode_documents(opened, documents, max_length + 1)
    ]


def _reduced(logits_TV: Tensor, item: Encoded, text: str) -> TokenScores:
    if logits_TV.dtype in (torch.float16, torch.bfloat16):
        logits_TV = logits_TV.float()
    labels_T = torch.tensor(item.ids[item.label_start :], dtype=torch.long, device=logits_TV.device)
    log_TV = logits_TV.log_softmax(-1)
    share_TV = log_TV.exp()
    # A token that is masked out has log-probability -inf and share 0, and counts for nothing.
    known_TV = torch.where(share_TV > 0, log_TV, torch.zeros_like(log_TV))
    mean_T = (share_TV * known_TV).sum(-1)
    variance_T = (share_TV * (known_TV - mean_T[:, None]) ** 2).sum(-1)
    return TokenScores(
        log_TV.gather(-1, labels_T[:, None]).squeeze(-1).double().cpu().numpy(),
        (logits_TV.argmax(-1) == labels_T).cpu().numpy(),
        mean_T.double().cpu().numpy(),
        variance_T.double().sqrt().cpu().numpy(),
        text,
    )


def _text(opened: OpenModel, document: Document, item: Encoded) -> str:
    if not item.truncated:
        return document.text[len(document.prompt or "") :]
    text: str = opened.tokenizer.decode(item.ids[item.label_start :], skip_special_tokens=True)
    return text
