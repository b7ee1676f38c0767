"""SEUF's affinity: each document alike, all layers together, ties and absent experts."""

import dataclasses

import numpy as np
import pytest

from tests.support.profiles import synthetic_profile
from trace_engine.calibration import affinity, top_experts
from trace_engine.config import Cell
from trace_engine.errors import CalibrationError
from trace_engine.routing import Profile


def profile_of(mass_DLE: list[list[list[float]]], tokens_D: list[int]) -> Profile:
    """A profile whose forget side has this gate mass; all else is made up."""
    mass = np.array(mass_DLE)
    found = synthetic_profile(
        layers=tuple(range(1, 1 + mass.shape[1])), experts=mass.shape[2], planted=()
    )
    forget = dataclasses.replace(
        found.forget, gate_mass_DLE=mass, tokens_D=np.array(tokens_D, dtype=np.int64)
    )
    return dataclasses.replace(found, forget=forget)


def test_documents_count_alike_however_long() -> None:
    # Expert 0 has all of a short document, expert 1 all of a long one and some of the short one.
    profile = profile_of([[[2.0, 0.5]], [[0.0, 30.0]], [[0.0, 0.0]]], [2, 40, 0])
    found_LE = affinity(profile)
    assert found_LE.tolist() == [[(1.0 + 0) / 2, (0.25 + 0.75) / 2]]
    assert top_experts(profile, 1) == [(Cell(1, 0), 0.5)]  # the tie breaks by number
    longer = profile_of([[[1.9, 0.6]], [[0.0, 30.0]]], [2, 40])
    assert [cell for cell, _ in top_experts(longer, 2)] == [Cell(1, 1), Cell(1, 0)]


def test_experts_of_all_layers_compete_and_absent_ones_never_win() -> None:
    profile = profile_of([[[0.2, 0.1, 0.0], [0.3, 0.0, 0.9]]], [1])
    assert [cell for cell, _ in top_experts(profile, 3)] == [Cell(2, 2), Cell(2, 0), Cell(1, 0)]
    fewer = dataclasses.replace(profile, num_experts_L=(3, 2))
    assert affinity(fewer)[1, 2] == -1
    assert [cell for cell, _ in top_experts(fewer, 5)][:2] == [Cell(2, 0), Cell(1, 0)]
    with pytest.raises(CalibrationError, match="asks for 6 experts and the model has 5"):
        top_experts(fewer, 6)
