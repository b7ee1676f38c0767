"""What all settings share, and the name of one expert."""

from typing import NamedTuple

from pydantic import BaseModel, ConfigDict

SCHEMA_VERSION = 1


class Cell(NamedTuple):
    """One expert of one MoE site: the row and column of every map."""

    layer: int
    """True decoder layer number, as the model's own module names count it."""
    expert: int
    """Index of the expert inside the layer."""


class Settings(BaseModel):
    """Validated when built, never changed, without unknown fields; a field's docstring is its
    help."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
