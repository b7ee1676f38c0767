"""RMU's layer and direction: where hidden states are read, and where they are driven to.

Both follow from the settings, the model's depth and the seed, so a resumed run needs no more state.
The default layer is that of RMU's authors at the same depth; shallow models get their first layer,
which may suit them less.
"""

# Dims: B documents, S positions of a padded row, D hidden size

import math
from collections.abc import Collection

import numpy as np
import torch
from torch import Tensor

from trace_engine.config import Cell, UnlearnConfig
from trace_engine.errors import InputError, ModelError
from trace_engine.methods import METHODS
from trace_engine.models import Batch, OpenModel, decoder_layers, layers_of, require_layer
from trace_engine.unlearning.losses import token_mask
from trace_engine.unlearning.reference import forward_hidden

STEERING = ("forget_hidden_norm", "forget_hidden_cosine")
"""What `train` rows of a method that steers say beside all others."""
_DIRECTION = 5  # stream of the seed beside the orders' and the controls'


def steering_layer(opened: OpenModel, config: UnlearnConfig) -> int | None:
    """The decoder layer whose hidden states the run steers; None for methods on predictions.

    Runs two tokens through the model, to see what the layer gives on. Raises InputError when the
    model has no such layer, or nothing up to it would train, ModelError when the layer's output is
    not one state per token.
    """
    if not METHODS[config.method].steers:
        return None
    found = decoder_layers(opened)
    layer = config.steering_layer
    if layer is None:
        layer = list(found)[math.ceil(len(found) / 4) - 1]
    require_layer(found, layer)
    _require_states(opened, layer)
    if config.trainable.kind == "layers" and config.trainable.layers is not None:
        _require_reached(config.trainable.layers, layer)
    return layer


@torch.no_grad()
def _require_states(opened: OpenModel, layer: int) -> None:
    ids_BS = torch.zeros(1, 2, dtype=torch.long, device=opened.device)
    batch = Batch(
        ids_BS, ids_BS + 1, torch.arange(2, device=opened.device)[None], ids_BS, ids_BS[0]
    )
    _, hidden = forward_hidden(opened, batch, layer)
    if hidden.shape[:-1] != ids_BS.shape:
        raise ModelError(
            f"Decoder layer {layer} of {opened.info.source} gives on several states "
            "for each token, so it cannot be steered. Choose a method that works on "
            "predictions."
        )


def require_steered(
    opened: OpenModel, layer: int | None, tensors: Collection[str], alone: Collection[Cell] = ()
) -> None:
    """Refuse a trainable set that cannot move the steered layer's output (InputError).

    Of experts that train by themselves (`alone`), each must.
    """
    if layer is not None:
        for trained in ({cell.layer} for cell in alone) if alone else (layers_of(opened, tensors),):
            _require_reached(trained, layer)


def _require_reached(trained: Collection[int], layer: int) -> None:
    if min(trained) > layer:
        raise InputError(
            f"RMU drives the output of decoder layer {layer}, and only later layers would train "
            f"({', '.join(map(str, sorted(trained)))}), which cannot change it. Set steering_layer "
            f"to {min(trained)} or more, or train earlier layers."
        )


def direction(size: int, seed: int) -> Tensor:
    """RMU's u, float64 (D,): entries uniform in [0, 1), then scaled to length 1."""
    entries_D = torch.from_numpy(np.random.default_rng([seed, _DIRECTION]).random(size))
    unit_D: Tensor = entries_D / entries_D.norm()
    return unit_D


@torch.no_grad()
def steering_row(hidden_BSD: Tensor, labels_BS: Tensor, direction_D: Tensor) -> dict[str, float]:
    """What a `train` row says of the forget states before the update: their mean length, and the
    mean cosine to the direction.
    """
    hidden_ND = hidden_BSD[token_mask(labels_BS)].double()
    length_N = hidden_ND.norm(dim=-1)
    along_N = hidden_ND @ direction_D.to(hidden_ND)
    return {
        STEERING[0]: float(length_N.mean()),
        STEERING[1]: float((along_N / length_N).mean()),
    }
