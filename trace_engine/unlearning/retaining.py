"""The retain term of one update: its batch in parts, weighed, forward and back.

A batch's loss is sum(w l) / n over *all* its labels, whatever parts it is gone through in and
however many processes share it: each part's mean counts by its share of the labels. Weights that
only the whole batch decides (mean 1 over the batch, or shuffled over it) are known before the
first part trains; the accepted cost is one forward without gradients more, and only there.
"""

# Dims: B documents, S positions, T = S - 1 shifted positions, N labels of a batch, C selected cells

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from trace_engine.config import UnlearnConfig
from trace_engine.evaluation.nll import forward_nll
from trace_engine.methods import METHODS
from trace_engine.models import Batch, Encoded, OpenModel, backbone, collate
from trace_engine.routing import ALONE, Workers
from trace_engine.unlearning import controls, losses, together
from trace_engine.unlearning.precision import mixed
from trace_engine.unlearning.reference import StartCopy, forward_hidden
from trace_engine.unlearning.retain import RetainWeighting, Weighed
from trace_engine.unlearning.schedule import parts_of
from trace_engine.unlearning.terms import RETAIN_LOSSES, labels_of


class RetainPass:
    """Adds the gradient of a retain batch to the parameters and says what it was."""

    def __init__(
        self,
        config: UnlearnConfig,
        opened: OpenModel,
        training: Sequence[Encoded],
        weighting: RetainWeighting,
        parameters: Sequence[nn.Parameter],
        steering_layer: int | None = None,
        copy: StartCopy | None = None,
        workers: Workers = ALONE,
    ) -> None:
        self._config, self._opened, self._training = config, opened, training
        self._weighting, self._parameters = weighting, parameters
        self._copy, self._workers = copy, workers
        self._token_loss = RETAIN_LOSSES[config.kept]
        # Hidden states are held where the method drives them.
        self._layer = steering_layer if config.kept == "hidden" else None

    def backward(self, drawn: Sequence[int], step: int) -> tuple[float, dict[str, Any]]:
        """Forward and backward of the documents that this process takes of a step's batch.

        Returns the term's value over the whole batch and what is logged of its weights. Gradients
        are this process's share until they are summed.
        """
        config = self._config
        where = parts_of(
            len(drawn), config.micro_batch_size, self._workers.rank, self._workers.size
        )
        labels = labels_of([self._training[index] for index in drawn])
        batches = [collate(self._training, drawn[part]).to(self._opened.device) for part in where]
        if not METHODS[config.method].retains:
            return 0.0, self._plain(batches, labels) | self._weighting.describe(None)
        split = len(batches) > 1 or self._workers.size > 1
        shuffles = self._weighting.active and config.control == "shuffled_weights"
        matches = self._weighting.active and config.control == "uniform_matched_norm"
        ahead: Weighed | None = None
        before = 0
        if split and (shuffles or self._weighting.by_batch):
            ahead = self._weigh_ahead(drawn, batches)
            if shuffles:
                ahead = controls.shuffle_weights(ahead, config.seed, step)
            before = labels_of([self._training[i] for i in drawn[: where[0].start]]) if where else 0
        matched = controls.MatchedGradients(self._parameters) if matches else None
        weighed: list[Weighed] = []
        value = plain = 0.0
        for batch in batches:
            mask_BT = losses.label_mask(batch.labels_BS)
            share = int(mask_BT.sum()) / labels
            loss_BT, nll_BT = self._losses(batch)
            found = self._weighting.weigh(batch) if ahead is None else ahead.part(before, mask_BT)
            before += int(mask_BT.sum())
            if found is not None and shuffles and ahead is None:
                found = controls.shuffle_weights(found, config.seed, step)
            loss = losses.retain_mean(loss_BT, mask_BT, None if found is None else found.weights_BT)
            if matched is not None:
                uniform = losses.retain_mean(loss_BT, mask_BT)
                matched.add(config.alpha * share * uniform, config.alpha * share * loss)
                value += share * float(uniform.detach())
            else:
                torch.autograd.backward(config.alpha * share * loss)
                value += share * float(loss.detach())
            plain += share * float(nll_BT.detach().sum() / mask_BT.sum())
            weighed += [] if found is None else [found]
        value, plain = together.total(self._workers, [value, plain])
        row: dict[str, Any] = {"retain_nll": plain}
        whole = ahead
        if ahead is None and self._weighting.active:
            whole = weighed[0] if not split else self._gather(drawn, weighed)
        if matched is not None and whole is not None:
            scale, row["retain_grad_norm"] = matched.join(
                lambda gradients: together.norm_of_sum(self._workers, self._parameters, gradients)
            )
            value *= scale
            whole = controls.uniform_weighed(whole, scale)
        return value, row | self._weighting.describe(whole)

    def _losses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The tapped forward of a part: the term's token losses and the plain NLL."""
        if self._token_loss is None:
            with self._weighting.tap(), self._mixed():
                nll_BT = forward_nll(self._opened, batch)
            return nll_BT, nll_BT
        assert self._copy is not None
        with self._mixed():
            start = self._copy.forward(batch, self._layer)
        with self._weighting.tap(), self._mixed():
            found = forward_hidden(self._opened, batch, self._layer, cut=self._layer is not None)
        loss_BT = self._token_loss(found, start, batch.labels_BS)
        return loss_BT, losses.token_nll(found[0].detach(), batch.labels_BS)

    def _mixed(self) -> AbstractContextManager[Any]:
        return mixed(self._config.mixed_precision, self._opened.device)

    def _plain(self, batches: Sequence[Batch], labels: int) -> dict[str, float]:
        """The batch's NLL without gradient, for a method that does not retain."""
        plain = 0.0
        for batch in batches:
            mask_BT = losses.label_mask(batch.labels_BS)
            with torch.no_grad(), self._mixed():
                nll_BT = forward_nll(self._opened, batch)
            plain += int(mask_BT.sum()) / labels * float(nll_BT.sum() / mask_BT.sum())
        return {"retain_nll": together.total(self._workers, [plain])[0]}

    def _weigh_ahead(self, drawn: Sequence[int], batches: Sequence[Batch]) -> Weighed:
        """The weights of the whole batch, from a forward of its parts without gradients."""
        body = backbone(self._opened.model)
        found = []
        for batch in batches:
            if not self._weighting.frozen:
                with torch.no_grad(), self._weighting.tap(), self._mixed():
                    body(**batch.inputs, use_cache=False)
            found.append(self._weighting.activity(batch))
        return self._weighting.weigh_activity(self._all_rows(found), self._mask(drawn))

    def _gather(self, drawn: Sequence[int], parts: Sequence[Weighed]) -> Weighed:
        """What all parts in all processes weighed, as one batch."""
        weights_N1 = self._all_rows([part.weights_N[:, None] for part in parts], torch.float64)
        active_NC = self._all_rows([part.active_NS for part in parts])
        return Weighed(weights_N1.flatten(), active_NC, self._mask(drawn))

    def _all_rows(self, parts: Sequence[Tensor], dtype: torch.dtype = torch.bool) -> Tensor:
        width = 1 if dtype == torch.float64 else self._weighting.selected
        none = torch.zeros((0, width), dtype=dtype, device=self._opened.device)
        return together.all_rows(self._workers, torch.cat([none, *parts]))

    def _mask(self, drawn: Sequence[int]) -> Tensor:
        batch = collate(self._training, drawn)
        return losses.label_mask(batch.labels_BS).to(self._opened.device)
