"""The forget term of one update: its batch in parts, with what the method asks of the start model.

The term is a mean over the whole batch, whatever parts it is gone through in and however many
processes share it: each part's mean counts by its share of what the method's mean runs over.
"""

# Dims: D training documents of the forget side, B documents of a part, S positions, T = S - 1
# shifted positions

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor

from trace_engine.config import UnlearnConfig
from trace_engine.evaluation.nll import forward_nll
from trace_engine.methods import METHODS
from trace_engine.models import Batch, Encoded, OpenModel, collate
from trace_engine.routing import ALONE, Workers
from trace_engine.unlearning import losses, together
from trace_engine.unlearning.anchor import RouterAnchor
from trace_engine.unlearning.precision import mixed
from trace_engine.unlearning.reference import StartCopy, forward_hidden
from trace_engine.unlearning.schedule import parts_of
from trace_engine.unlearning.start import StartModel
from trace_engine.unlearning.steering import STEERING, direction, steering_row
from trace_engine.unlearning.terms import FORGET_TERMS, MEANS, ForgetBatch, labels_of


class ForgetPass:
    """Adds the gradient of a forget batch to the parameters and says what it was."""

    def __init__(
        self,
        config: UnlearnConfig,
        opened: OpenModel,
        training: Sequence[Encoded],
        preferred: Sequence[Encoded] | None = None,
        steering_layer: int | None = None,
        anchor: RouterAnchor | None = None,
        copy: StartCopy | None = None,
        workers: Workers = ALONE,
    ) -> None:
        self._config, self._opened, self._training = config, opened, training
        self._preferred = preferred
        self._anchor = anchor if config.anchor_weight else None
        self._layer, self._copy, self._workers = steering_layer, copy, workers
        self._method = METHODS[config.method]
        self._term, self._mean_over = FORGET_TERMS[config.method], MEANS[config.method]

    def backward(self, drawn: Sequence[int], start: StartModel) -> tuple[float, dict[str, float]]:
        """Forward and backward of the documents that this process takes of a step's batch.

        Returns the term's value and what is logged, both over the whole batch. Gradients are this
        process's share until they are summed.
        """
        config, workers = self._config, self._workers
        labels, count = self._counts(drawn)
        value = 0.0
        row = dict.fromkeys(("forget_nll", *(STEERING if self._method.steers else ())), 0.0)
        if self._anchor is not None:
            row["anchor_loss"] = 0.0
        for where in parts_of(len(drawn), config.micro_batch_size, workers.rank, workers.size):
            own_labels, own_count = self._counts(drawn[where])
            batch = collate(self._training, drawn[where]).to(self._opened.device)
            with mixed(config.mixed_precision, self._opened.device):
                found = self._forward(batch, drawn[where], start)
            terms: list[Tensor] = []
            if own_count:
                share = own_count / count
                loss = self._term(found, config.parameters())
                terms.append(config.forget_weight * share * loss)
                value += share * float(loss.detach())
            described = self._describe(found)
            if self._anchor is not None:
                anchor = self._anchor.loss(batch)
                terms.append(config.anchor_weight * (own_labels / labels) * anchor)
                described["anchor_loss"] = float(anchor.detach())
            if terms:
                torch.autograd.backward(terms)
            for name, mean in described.items():
                row[name] += own_labels / labels * mean
        summed = together.total(workers, [value, *row.values()])
        return summed[0], dict(zip(row, summed[1:], strict=True))

    def _counts(self, documents: Sequence[int]) -> tuple[int, int]:
        """Labels of some forget documents, and what the forget term is a mean over."""
        found = [self._training[index] for index in documents]
        return labels_of(found), self._mean_over(found)

    def _forward(self, batch: Batch, documents: Sequence[int], start: StartModel) -> ForgetBatch:
        logits_BSV = start_BSV = hidden_BSD = direction_D = preferred_B = None
        if self._method.start_logits:
            assert self._copy is not None
            start_BSV, _ = self._copy.forward(batch)
        with nullcontext() if self._anchor is None else self._anchor.watching():
            if self._method.logits:
                logits_BSV, _ = forward_hidden(self._opened, batch)
                nll_BT = losses.token_nll(logits_BSV, batch.labels_BS)
            elif self._method.steers:
                seen_BSV, hidden_BSD = forward_hidden(self._opened, batch, self._layer, cut=True)
                nll_BT = losses.token_nll(seen_BSV, batch.labels_BS)
                direction_D = direction(hidden_BSD.shape[-1], self._config.seed)
            else:
                nll_BT = forward_nll(self._opened, batch)
        if self._preferred is not None:
            # Two graphs are alive here: the loss compares an answer with its alternative.
            instead = collate(self._preferred, documents).to(self._opened.device)
            preferred_B = losses.sequence_nll(forward_nll(self._opened, instead))

        def of_start(reference_D: Tensor | None) -> Tensor | None:
            rows = torch.tensor(documents)
            return None if reference_D is None else reference_D[rows].to(nll_BT)

        return ForgetBatch(
            labels_BS=batch.labels_BS,
            nll_BT=nll_BT,
            reference_nll_B=of_start(start.reference_nll_D),
            logits_BSV=logits_BSV,
            start_logits_BSV=start_BSV,
            hidden_BSD=hidden_BSD,
            direction_D=direction_D,
            preferred_nll_B=preferred_B,
            preferred_reference_nll_B=of_start(start.preferred_nll_D),
        )

    def _describe(self, found: ForgetBatch) -> dict[str, float]:
        """Plain means over a part's labels."""
        row = {"forget_nll": float(found.nll_BT.detach().sum() / found.mask_BT.sum())}
        if found.hidden_BSD is not None and found.direction_D is not None:
            row |= steering_row(found.hidden_BSD, found.labels_BS, found.direction_D)
        return row
