"""Loss of a set in nats per token, with an interval over documents.

The mean runs over all labels of the set, long documents counting more, as perplexity is usually
quoted; the interval resamples documents, because the tokens of one document are not independent.
"""

from collections.abc import Sequence

from trace_engine.evaluation.estimate import Estimate, cluster_mean
from trace_engine.evaluation.nll import document_nll
from trace_engine.models import Encoded, OpenModel, encode
from trace_engine.progress import ProgressCallback, ignore_progress
from trace_engine.sets import Document


def encode_documents(
    opened: OpenModel, documents: Sequence[Document], max_length: int
) -> list[Encoded]:
    """Token ids of each document, its prompt (when it has one) kept out of the loss."""
    return encode(
        opened.tokenizer,
        [document.text for document in documents],
        max_length,
        prompts=[document.prompt for document in documents],
    )


def set_loss(
    opened: OpenModel,
    documents: Sequence[Document],
    max_length: int,
    tokens_per_batch: int = 4096,
    *,
    phase: str = "measuring loss",
    report: ProgressCallback = ignore_progress,
) -> Estimate:
    """Mean negative log-likelihood in nats per label over the documents, with a cluster interval.

    Documents are cut at `max_length` tokens; those without a label count for nothing. Raises
    InputError when no document has one.
    """
    encoded = encode_documents(opened, documents, max_length)
    nll_D, labels_D = document_nll(opened, encoded, tokens_per_batch, phase=phase, report=report)
    return cluster_mean(nll_D, labels_D)
