"""Token weights of a retain batch, from the routing of the very forward that gives its loss, or
of the start model.

Weights are detached and computed in float64; the tap sits on the selected cells' layers only. For
frozen routing the start model's activity is kept for the documents the run will draw: one byte
per label and selected cell.
"""

# Dims: B documents, T shifted positions, N labels of a batch in row-major order, S selected
# cells, L tapped sites

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from trace_engine.calibration import (
    FittedWeights,
    Selection,
    active_matrix,
    normalise_weights,
)
from trace_engine.config import WeightsConfig
from trace_engine.evaluation.probe import RoutingRecorder
from trace_engine.models import Batch, Encoded, OpenModel, RoutingTap, backbone, make_batches
from trace_engine.unlearning.losses import label_mask

TOKENS_PER_BATCH = 4096
"""Padded tokens per forward of the start model's pass."""


@dataclass(frozen=True, slots=True)
class Weighed:
    """The weights of one batch and what they come from."""

    weights_N: Tensor
    """float64."""
    active_NS: Tensor
    """Whether a label's token routes to a selected cell."""
    mask_BT: Tensor
    """Which shifted positions have a label; N are True."""

    @property
    def weights_BT(self) -> Tensor:
        """The weights at their positions, 0 where there is no label."""
        weights_BT = self.weights_N.new_zeros(self.mask_BT.shape)
        weights_BT[self.mask_BT] = self.weights_N
        return weights_BT

    def parts(self, first: int, masks: Sequence[Tensor]) -> list[Self]:
        """The weights of neighbouring documents, one entry a mask (b, T); `first` labels come
        before."""
        found = []
        for mask_bT in masks:
            labels = slice(first, first + int(mask_bT.sum()))
            found.append(type(self)(self.weights_N[labels], self.active_NS[labels], mask_bT))
            first = labels.stop
        return found


class RetainWeighting:
    """Turns a batch into its token weights; `active` is False for the unweighted method, which is
    not tapped.
    """

    def __init__(
        self,
        opened: OpenModel,
        selection: Selection,
        weights: FittedWeights,
        settings: WeightsConfig,
    ) -> None:
        self.refit(weights)
        self.active = settings.rule != "uniform"
        self.frozen = self.active and settings.routing == "frozen"
        self.frozen_active: dict[int, Tensor] = {}
        self._cells = selection.cells
        chosen = {cell.layer for cell in selection.cells}
        self._sites = [site for site in opened.sites if site.layer in chosen]
        self._layers = [site.layer for site in self._sites]
        self._recorder = RoutingRecorder(self._sites)

    def refit(self, weights: FittedWeights) -> None:
        """Weigh by these from now on; gaps are told against the forget side they were fitted to."""
        self.weights = weights
        self._forget_S = torch.tensor(weights.table["forget"].to_numpy(), dtype=torch.float64)

    def tap(self) -> AbstractContextManager[Any]:
        """Around the forward whose routing weighs its loss; nothing when no live routing is
        needed.
        """
        if not self.active or self.frozen:
            return nullcontext()
        return RoutingTap(self._sites, self._recorder)

    def weigh(self, batch: Batch) -> Weighed | None:
        """Weights of a batch from the last forward inside `tap`, or the start model's routing.

        None for the unweighted method.
        """
        if not self.active:
            return None
        return self.weigh_activity(self.activity(batch), label_mask(batch.labels_BS))

    def activity(self, batch: Batch) -> Tensor:
        """Whether each label's token routes to each selected cell, (N, S), as in `weigh`."""
        if not self.frozen:
            return self._live_activity(batch)
        parts = [self.frozen_active[index] for index in batch.document_B.tolist()]
        return torch.cat(parts).to(batch.labels_BS.device)

    def weigh_activity(self, active_NS: Tensor, mask_BT: Tensor) -> Weighed:
        """Weights of the N labels of a batch that `mask_BT` marks."""
        weights_N = self.weights.token_weights(active_NS, dtype=torch.float64)
        # Set-wide normalising is in the fitted weights already; batch and sequence are known only
        # here.
        raw = Weighed(weights_N, active_NS, mask_BT)
        weights_BT = normalise_weights(raw.weights_BT, self.weights.normalise, mask_BT)
        return Weighed(weights_BT[mask_BT], active_NS, mask_BT)

    @property
    def by_batch(self) -> bool:
        """Whether a weight depends on the other labels of its batch."""
        return self.active and self.weights.normalise == "batch"

    @property
    def selected(self) -> int:
        """Number of selected cells, S."""
        return len(self._cells)

    def describe(self, weighed: Weighed | None) -> dict[str, float | None]:
        """What a `train` row says of a batch's weights; an unweighted batch has ESS share 1 and
        no gap measured.

        `weighted_gap` is the mean over selected cells of |forget frequency - weighted retain
        frequency of the batch|.
        """
        if weighed is None:
            return {"ess_share": 1.0, "mean_weight": 1.0, "max_weight": 1.0, "weighted_gap": None}
        w_N = weighed.weights_N.double()
        total = w_N.sum()
        reached_S = w_N @ weighed.active_NS.double() / total
        return {
            "ess_share": float(total**2 / (w_N**2).sum() / len(w_N)),
            "mean_weight": float(total / len(w_N)),
            "max_weight": float(w_N.max()),
            "weighted_gap": float((self._forget_S.to(reached_S) - reached_S).abs().mean()),
        }

    def freeze(
        self, opened: OpenModel, encoded: Sequence[Encoded], documents: Sequence[int]
    ) -> None:
        """Record the current model's activity of `documents`; called once, before step 1."""
        chosen = [encoded[index] for index in documents]
        body = backbone(opened.model)
        with torch.no_grad(), RoutingTap(self._sites, self._recorder):
            for batch in make_batches(chosen, TOKENS_PER_BATCH):
                placed = batch.to(opened.device)
                body(**placed.inputs, use_cache=False)
                sizes = label_mask(batch.labels_BS).sum(dim=1).tolist()
                parts = torch.split(self._live_activity(placed).cpu(), sizes)
                for row, part in zip(batch.document_B.tolist(), parts, strict=True):
                    self.frozen_active[documents[row]] = part.clone()

    def _live_activity(self, batch: Batch) -> Tensor:
        index_TLK = self._recorder.take()
        rows, width = batch.input_ids_BS.shape
        index_BSLK = index_TLK.view(rows, width, *index_TLK.shape[1:])
        # The logits at t predict label t+1: the last position predicts nothing.
        index_NLK = index_BSLK[:, :-1][label_mask(batch.labels_BS)]
        return active_matrix(index_NLK, self._layers, self._cells)
