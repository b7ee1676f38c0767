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
        workers = self._workers
        where = parts_of(len(drawn), self._config.micro_batch_size, workers.rank, workers.size)
        parts = [collate(self._training, drawn[part]).to(self._opened.device) for part in where]
        labels = self._labels(drawn)
        if not METHODS[self._config.method].retains:
            return 0.0, self._plain(parts, labels) | self._weighting.describe(None)
        split = len(parts) > 1 or workers.size > 1
        whole: Weighed | None = None
        weighed: list[Weighed] = []
        if split and (self._shuffles or self._weighting.by_batch):
            whole = self._weigh_ahead(drawn, parts, step)
            before = self._labels(drawn[: where[0].start]) if where else 0
            weighed = whole.parts(before, [losses.label_mask(part.labels_BS) for part in parts])
        known = whole is not None or not self._weighting.active
        matched = controls.MatchedGradients(self._parameters) if self._matches else None
        value = plain = 0.0
        for number, part in enumerate(parts):
            mask_BT = losses.label_mask(part.labels_BS)
            share = int(mask_BT.sum()) / labels
            loss_BT, nll_BT = self._losses(part)
            if not known:
                weighed.append(self._weigh(part, None if split else step))
            weights_BT = weighed[number].weights_BT if weighed else None
            value += share * self._add(loss_BT, mask_BT, weights_BT, share, matched)
            plain += share * float(nll_BT.detach().sum() / mask_BT.sum())
        value, plain = together.total(workers, [value, plain])
        row: dict[str, Any] = {"retain_nll": plain}
        if not known:
            whole = self._gather(drawn, weighed) if split else weighed[0]
        if matched is not None and whole is not None:
            scale, row["retain_grad_norm"] = matched.join(
                lambda gradients: together.norm_of_sum(workers, self._parameters, gradients)
            )
            value *= scale
            whole = controls.uniform_weighed(whole, scale)
        return value, row | self._weighting.describe(whole)

    @property
    def _shuffles(self) -> bool:
        return self._weighting.active and self._config.control == "shuffled_weights"

    @property
    def _matches(self) -> bool:
        return self._weighting.active and self._config.control == "uniform_matched_norm"

    def _labels(self, documents: Sequence[int]) -> int:
        return labels_of([self._training[index] for index in documents])

    def _weigh(self, part: Batch, shuffled_at: int | None) -> Weighed:
        """Weights of what the last forward saw; a whole batch may be shuffled at once."""
        found = self._weighting.weigh(part)
        assert found is not None
        if self._shuffles and shuffled_at is not None:
            return controls.shuffle_weights(found, self._config.seed, shuffled_at)
        return found

    def _add(
        self,
        loss_BT: Tensor,
        mask_BT: Tensor,
        weights_BT: Tensor | None,
        share: float,
        matched: controls.MatchedGradients | None,
    ) -> float:
        """Add a part's gradient; its mean loss, which is the uniform one where norms are
        matched."""
        factor = self._config.alpha * share
        loss = losses.retain_mean(loss_BT, mask_BT, weights_BT)
        if matched is None:
            torch.autograd.backward(factor * loss)
            return float(loss.detach())
        uniform = losses.retain_mean(loss_BT, mask_BT)
        matched.add(factor * uniform, factor * loss)
        return float(uniform.detach())

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

    def _weigh_ahead(self, drawn: Sequence[int], parts: Sequence[Batch], step: int) -> Weighed:
        """The weights of the whole batch, from a forward of its parts without gradients."""
        body = backbone(self._opened.model)
        found = []
        for part in parts:
            if not self._weighting.frozen:
                with torch.no_grad(), self._weighting.tap(), self._mixed():
                    body(**part.inputs, use_cache=False)
            found.append(self._weighting.activity(part))
        active_NC = self._all_rows(found, self._weighting.selected, torch.bool)
        whole = self._weighting.weigh_activity(active_NC, self._mask(drawn))
        return controls.shuffle_weights(whole, self._config.seed, step) if self._shuffles else whole

    def _gather(self, drawn: Sequence[int], parts: Sequence[Weighed]) -> Weighed:
        """What all parts in all processes weighed, as one batch."""
        weights_N1 = self._all_rows([part.weights_N[:, None] for part in parts], 1, torch.float64)
        selected = self._weighting.selected
        active_NC = self._all_rows([part.active_NS for part in parts], selected, torch.bool)
        return Weighed(weights_N1.flatten(), active_NC, self._mask(drawn))

    def _all_rows(self, parts: Sequence[Tensor], width: int, dtype: torch.dtype) -> Tensor:
        """The parts of all processes under each other; a process may have none."""
        none = torch.zeros((0, width), dtype=dtype, device=self._opened.device)
        return together.all_rows(self._workers, torch.cat([none, *parts]))

    def _mask(self, drawn: Sequence[int]) -> Tensor:
        batch = collate(self._training, drawn)
        return losses.label_mask(batch.labels_BS).to(self._opened.device)
