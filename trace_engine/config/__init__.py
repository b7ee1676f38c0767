"""Typed, validated settings: one file that the app, the CLI and Python write and read alike.

Each field's docstring is its documentation everywhere (the page shows it as help). Impossible
combinations are refused when the object is built. Unknown fields are errors, so that a typo never
turns into a default.
"""

from trace_engine.config.base import SCHEMA_VERSION, Cell, Settings
from trace_engine.config.files import identity_of, parse_config, read_config, to_yaml
from trace_engine.config.parts import (
    EvaluationConfig,
    KeepConfig,
    ModelConfig,
    SelectionConfig,
    SetConfig,
    StopConfig,
    TrainableConfig,
    WeightsConfig,
)
from trace_engine.config.runs import AnyConfig, ProfileConfig, TrackerName, UnlearnConfig

__all__ = [
    "SCHEMA_VERSION",
    "AnyConfig",
    "Cell",
    "EvaluationConfig",
    "KeepConfig",
    "ModelConfig",
    "ProfileConfig",
    "SelectionConfig",
    "SetConfig",
    "Settings",
    "StopConfig",
    "TrackerName",
    "TrainableConfig",
    "UnlearnConfig",
    "WeightsConfig",
    "identity_of",
    "parse_config",
    "read_config",
    "to_yaml",
]
