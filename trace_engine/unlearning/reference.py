"""A frozen copy of the start model, for methods and retain terms that ask it at every step.

It is read from the same files as the model that trains, so that a resumed run has it too, and it is
never the live model. Accepted cost: the weights' memory once more, and a forward without gradients
for each batch that asks; an adapter's base would be cheaper, but only for LoRA.
"""

# Dims: B documents, S positions of a padded row, V vocabulary, D hidden size

from typing import Any, Self

import torch
from torch import Tensor

from trace_engine.config import ModelConfig
from trace_engine.errors import ModelError
from trace_engine.models import Batch, OpenModel, backbone, open_model


class StartCopy:
    """The model as it was before the run, without gradients."""

    def __init__(self, opened: OpenModel) -> None:
        self._opened = opened
        opened.model.eval()
        opened.model.requires_grad_(False)

    @classmethod
    def load(cls, config: ModelConfig, fingerprint: str) -> Self:
        """Read the start model once more. Raises ModelError when it cannot be, or has changed."""
        opened = open_model(config)
        if opened.info.fingerprint != fingerprint:
            raise ModelError(
                f"{config.source} has changed while the run was being set up, so it cannot be the "
                "start model. Start the run again."
            )
        return cls(opened)

    @torch.no_grad()
    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Logits (B, S, V) and last hidden states (B, S, D), on the batch's device."""
        return forward_hidden(self._opened, batch)


def forward_hidden(opened: OpenModel, batch: Batch) -> tuple[Tensor, Tensor]:
    """One forward, with whatever gradient mode is on: logits (B, S, V), and the last hidden states
    (B, S, D) that the output head reads, both on the batch's device.
    """
    kept: list[Tensor] = []

    def keep(module: Any, inputs: Any, output: Any) -> None:
        kept.append(output[0])

    handle = backbone(opened.model).register_forward_hook(keep)
    try:
        logits_BSV: Tensor = opened.model(**batch.inputs, use_cache=False).logits
    finally:
        handle.remove()
    (hidden_BSD,) = kept
    # Spread over several devices, the backbone may end on another one than the batch is on.
    return logits_BSV, hidden_BSD.to(batch.input_ids_BS.device)
