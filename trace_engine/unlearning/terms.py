"""The arithmetic of `trace_engine.methods`: one entry per method and per retain term.

What each needs of the start model stands there; the session provides it, and no other place knows
one method from another.
"""

# Dims: B documents, S positions of a padded row, T = S - 1 shifted positions, V vocabulary, D
# hidden size

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from trace_engine.methods import MethodName, RetainTerm
from trace_engine.models import Encoded
from trace_engine.unlearning import losses


@dataclass(frozen=True, slots=True)
class ForgetBatch:
    """What a forget term is computed from; gradients flow through `nll_BT`, `logits_BSV` and
    `hidden_BSD`.
    """

    labels_BS: Tensor
    nll_BT: Tensor
    reference_nll_B: Tensor | None = None
    """Summed NLL of each document under the start model; with `Method.reference_nll`."""
    logits_BSV: Tensor | None = None
    """With `Method.logits`; with `Method.start_logits` as `start_logits_BSV`."""
    start_logits_BSV: Tensor | None = None
    hidden_BSD: Tensor | None = None
    """Of the steered layer, with `Method.steers`, as `direction_D`; then nothing flows through the
    others."""
    direction_D: Tensor | None = None

    preferred_nll_B: Tensor | None = None
    """Summed NLL of the answer that is preferred to each document's; with `Method.preferred`, as
    the same under the start model."""
    preferred_reference_nll_B: Tensor | None = None

    @property
    def mask_BT(self) -> Tensor:
        """Which shifted positions are in the loss."""
        return losses.label_mask(self.labels_BS)


Parameters = Mapping[str, float]
ForgetTerm = Callable[[ForgetBatch, Parameters], Tensor]


def _ascent(batch: ForgetBatch, parameters: Parameters) -> Tensor:
    return losses.graddiff_forget(batch.nll_BT, batch.mask_BT)


def _npo(batch: ForgetBatch, parameters: Parameters) -> Tensor:
    assert batch.reference_nll_B is not None
    return losses.npo_forget(
        losses.sequence_nll(batch.nll_BT), batch.reference_nll_B, parameters["beta"]
    )


def _simnpo(batch: ForgetBatch, parameters: Parameters) -> Tensor:
    return losses.simnpo_forget(batch.nll_BT, batch.mask_BT, **parameters)


def _wga(batch: ForgetBatch, parameters: Parameters) -> Tensor:
    return losses.wga_forget(batch.nll_BT, batch.mask_BT, **parameters)


def _satimp(batch: ForgetBatch, parameters: Parameters) -> Tensor:
    return losses.satimp_forget(batch.nll_BT, batch.mask_BT, **parameters)


def _undial(batch: ForgetBatch, parameters: Parameters) -> Tensor:
    assert batch.logits_BSV is not None
    assert batch.start_logits_BSV is not None
    return losses.undial_forget(
        batch.logits_BSV, batch.start_logits_BSV, batch.labels_BS, **parameters
    )


def _rmu(batch: ForgetBatch, parameters: Parameters) -> Tensor:
    assert batch.hidden_BSD is not None
    assert batch.direction_D is not None
    return losses.rmu_forget(batch.hidden_BSD, batch.labels_BS, batch.direction_D, **parameters)


def _ceu(batch: ForgetBatch, parameters: Parameters) -> Tensor:
    assert batch.logits_BSV is not None
    return losses.ceu_forget(batch.logits_BSV, batch.labels_BS)


def _dpo(batch: ForgetBatch, parameters: Parameters) -> Tensor:
    assert batch.reference_nll_B is not None
    assert batch.preferred_nll_B is not None
    assert batch.preferred_reference_nll_B is not None
    return losses.dpo_forget(
        losses.sequence_nll(batch.nll_BT),
        batch.reference_nll_B,
        batch.preferred_nll_B,
        batch.preferred_reference_nll_B,
        parameters["beta"],
    )


FORGET_TERMS: dict[MethodName, ForgetTerm] = {
    "npo": _npo,
    "simnpo": _simnpo,
    "graddiff": _ascent,
    "ga": _ascent,
    "wga": _wga,
    "satimp": _satimp,
    "undial": _undial,
    "rmu": _rmu,
    "ceu": _ceu,
    "dpo": _dpo,
    "idkdpo": _dpo,
}

Count = Callable[[Sequence[Encoded]], int]


def labels_of(documents: Sequence[Encoded]) -> int:
    """Number of labels."""
    return sum(item.labels for item in documents)


def later_labels_of(documents: Sequence[Encoded]) -> int:
    """Number of labels but each document's first."""
    return sum(max(0, item.labels - 1) for item in documents)


def documents_of(documents: Sequence[Encoded]) -> int:
    """Number of documents."""
    return len(documents)


MEANS: dict[MethodName, Count] = {
    "npo": documents_of,
    "simnpo": documents_of,
    "graddiff": labels_of,
    "ga": labels_of,
    "wga": labels_of,
    "satimp": labels_of,
    "undial": labels_of,
    "rmu": labels_of,
    "ceu": later_labels_of,
    "dpo": documents_of,
    "idkdpo": documents_of,
}
"""What each forget term is a mean over. A batch that is gone through in parts is the sum of its
parts' means, each by its share of this count."""

Outputs = tuple[Tensor, Tensor]
"""Logits (B, S, V) and hidden states (B, S, D) of one forward, as `forward_hidden` gives them."""
TokenLoss = Callable[[Outputs, Outputs, Tensor], Tensor]
"""Outputs now, outputs of the start model, labels (B, S) -> token losses (B, S-1)."""


def _kl(now: Outputs, start: Outputs, labels_BS: Tensor) -> Tensor:
    return losses.token_kl(now[0], start[0], labels_BS)


def _hidden(now: Outputs, start: Outputs, labels_BS: Tensor) -> Tensor:
    return losses.token_hidden(now[1], start[1], labels_BS)


RETAIN_LOSSES: dict[RetainTerm, TokenLoss | None] = {"nll": None, "kl": _kl, "hidden": _hidden}
"""None: the token NLL that every retain pass has, without the start model."""
