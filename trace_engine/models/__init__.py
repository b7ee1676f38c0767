"""Open a model, find where it routes, tap the routing, batch documents, choose what trains."""

from trace_engine.models.batches import Batch, Encoded, collate, encode, make_batches
from trace_engine.models.info import ModelInfo, OpenModel
from trace_engine.models.inspection import Inspection, inspect_closely
from trace_engine.models.layers import decoder_layers, layers_of, require_layer
from trace_engine.models.masks import MaskMode, mask_experts
from trace_engine.models.open import backbone, inspect_model, open_model
from trace_engine.models.sites import (
    Site,
    expert_parameters,
    experts_skipped,
    find_sites,
    unmapped_blocks,
)
from trace_engine.models.tap import RoutingTap
from trace_engine.models.trainable import (
    Trainable,
    TrainableSummary,
    check_cells,
    make_trainable,
)
from trace_engine.models.trial import Trial, settle

__all__ = [
    "Batch",
    "Encoded",
    "Inspection",
    "MaskMode",
    "ModelInfo",
    "OpenModel",
    "RoutingTap",
    "Site",
    "Trainable",
    "TrainableSummary",
    "Trial",
    "backbone",
    "check_cells",
    "collate",
    "decoder_layers",
    "encode",
    "expert_parameters",
    "experts_skipped",
    "find_sites",
    "inspect_closely",
    "inspect_model",
    "layers_of",
    "make_batches",
    "make_trainable",
    "mask_experts",
    "open_model",
    "require_layer",
    "settle",
    "unmapped_blocks",
]
