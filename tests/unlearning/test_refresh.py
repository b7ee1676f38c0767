"""Weights fitted again as routing drifts: to the model as it is, only when asked, resumable."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from safetensors.torch import load, save

from tests.unlearning.cases import tiny_config, without_clock
from trace_engine.calibration import fit_weights
from trace_engine.unlearning import Session, drive

EXACT = {"rule": "exact", "hardness": 0.7}
EVERY_TWO = EXACT | {"refresh_every": 2}


def test_the_refit_is_the_fit_of_the_model_as_it_is(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, weights=EVERY_TWO, learning_rate=2e-2)
    with Session(config) as session:
        first = session.weights
        rows = [session.train_step(), session.train_step()]
        assert session.weights is first
        expected = fit_weights(session.profile_after(), session.selection, config.weights)
        rows.append(session.train_step())
        assert session.weights.to_dict() == expected.to_dict()
        assert session._weighting.weights is session.weights
        assert session.weights.cells == first.cells
        assert not np.array_equal(session.weights.coefficient_S, first.coefficient_S)
        forget = session.weights.table["forget"].tolist()
        assert session._weighting._forget_S.tolist() == forget
    assert [row.get("refitted", False) for row in rows] == [False, False, True]
    assert rows[2]["hardness"] == 0.7


def test_a_model_that_does_not_move_gets_its_weights_back(tmp_path: Path) -> None:
    still = {"learning_rate": 1e-12, "max_steps": 3}
    rows, coefficients = [], []
    for weights in (EXACT, EVERY_TWO):
        with Session(tiny_config(tmp_path, weights=weights, **still)) as session:
            rows.append(without_clock([session.train_step() for _ in range(3)]))
            coefficients.append(session.weights.coefficient_S)
    assert rows[1][2].pop("refitted") is True
    assert rows[1][2].pop("hardness") == 0.7
    assert rows[0] == rows[1]
    assert np.abs(coefficients[0]).max() > 0.1
    np.testing.assert_array_equal(*coefficients)


def test_a_run_resumes_bit_for_bit_across_a_refit(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, weights=EVERY_TWO)
    straight: list[dict[str, Any]] = []
    with Session(config) as session:
        drive(session, on_row=straight.append)
    for stop in (3, 4):
        rows: list[dict[str, Any]] = []
        with Session(config) as first:
            drive(first, on_row=rows.append, should_stop=lambda s=first, at=stop: s.step == at)
            tensors, data = first.state()
        tensors, data = load(save(tensors)), json.loads(json.dumps(data, allow_nan=False))
        with Session(config) as second:
            second.load_state(tensors, data)
            drive(second, on_row=rows.append)
        assert without_clock(rows) == without_clock(straight)


@pytest.mark.parametrize(
    ("weights", "why"),
    [
        ({"rule": "uniform", "refresh_every": 5}, "no weights to fit again"),
        ({"rule": "exact", "routing": "frozen", "refresh_every": 5}, "do not drift"),
    ],
)
def test_a_refresh_of_nothing_is_refused(tmp_path: Path, weights: Any, why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        tiny_config(tmp_path, weights=weights)
