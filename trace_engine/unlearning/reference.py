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
from trace_engine.models import Batch, OpenModel, backbone, decoder_layers, open_model


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
    def forward(self, batch: Batch, layer: int | None = None) -> tuple[Tensor, Tensor]:
        """As `forward_hidden`."""
        return forward_hidden(self._opened, batch, layer)


def forward_hidden(
    opened: OpenModel, batch: Batch, layer: int | None = None, *, cut: bool = False
) -> tuple[Tensor, Tensor]:
    """One forward: logits (B, S, V), and the hidden states (B, S, D) that a decoder layer gives on,
    or without `layer` the last ones, which the output head reads; both on the batch's device.

    With whatever gradient mode is on. With `cut`, what comes after the layer runs without
    gradients: it costs no memory for a backward, and the logits can only be looked at.
    """
    name = None if layer is None else decoder_layers(opened)[layer]
    module = backbone(opened.model) if name is None else opened.model.get_submodule(name)
    kept: list[Tensor] = []

    def keep(module: Any, inputs: Any, output: Any) -> None:
        kept.append(output if isinstance(output, Tensor) else output[0])
        if cut:
            torch.set_grad_enabled(False)

    handle = module.register_forward_hook(keep)
    before = torch.is_grad_enabled()
    try:
        logits_BSV: Tensor = opened.model(**batch.inputs, use_cache=False).logits
    finally:
        torch.set_grad_enabled(before)
        handle.remove()
    (hidden_BSD,) = kept
    # Spread over several devices, the backbone may end on another one than the batch is on.
    return logits_BSV, hidden_BSD.to(batch.input_ids_BS.device)
