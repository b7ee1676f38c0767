"""Controls through a real tiny model: each changes what it says and nothing else."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load, save
from torch import Tensor

from tests.unlearning.cases import tiny_config, without_clock
from trace_engine.config import Cell, UnlearnConfig, identity_of
from trace_engine.errors import CalibrationError
from trace_engine.unlearning import Session, drive, retaining
from trace_engine.unlearning.controls import MatchedGradients, random_experts
from trace_engine.unlearning.retain import Weighed

EXACT = {"rule": "exact", "hardness": 0.7}
CONTROLS = ("uniform_matched_norm", "random_experts", "shuffled_weights")


def run_to_end(config: UnlearnConfig) -> tuple[list[dict[str, Any]], dict[str, Tensor]]:
    rows: list[dict[str, Any]] = []
    with Session(config) as session:
        drive(session, on_row=rows.append)
        state = session.opened.model.state_dict()
        return without_clock(rows), {name: value.clone() for name, value in state.items()}


def retain_gradient(folder: Path, **settings: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Gradients of the first step's retain term alone, and its row."""
    with Session(tiny_config(folder, weights=EXACT, **settings)) as session:
        _, row = session._retain_pass()
        found = zip(session.trainable.names, session.trainable.parameters(), strict=True)
        return {name: p.grad.clone() for name, p in found if p.grad is not None}, row


def norm_of(gradients: dict[str, Tensor]) -> float:
    squares = [float(gradient.double().square().sum()) for gradient in gradients.values()]
    return float(sum(squares) ** 0.5)


@pytest.mark.parametrize(
    "trainable", [{"kind": "all"}, {"kind": "selected_experts"}, {"kind": "lora", "lora_rank": 2}]
)
def test_the_matched_gradient_is_uniform_and_has_the_weighted_norm(
    tmp_path: Path, trainable: dict[str, Any]
) -> None:
    weighted, _ = retain_gradient(tmp_path, trainable=trainable, alpha=3.0)
    matched, row = retain_gradient(
        tmp_path, trainable=trainable, alpha=3.0, control="uniform_matched_norm"
    )
    assert norm_of(matched) == pytest.approx(norm_of(weighted), rel=1e-5)
    assert row["retain_grad_norm"] == pytest.approx(norm_of(weighted), rel=1e-5)
    assert row["ess_share"] == pytest.approx(1)
    assert row["mean_weight"] == pytest.approx(row["max_weight"])
    assert abs(row["mean_weight"] - 1) > 1e-3
    assert any(not torch.allclose(matched[name], weighted[name]) for name in matched)


def test_the_matched_gradient_is_the_unweighted_one_scaled(tmp_path: Path) -> None:
    matched, row = retain_gradient(tmp_path, control="uniform_matched_norm")
    with Session(tiny_config(tmp_path, weights={"rule": "uniform"})) as session:
        session._retain_pass()
        for name, parameter in session.opened.model.named_parameters():
            if parameter.grad is not None:
                expected = parameter.grad * row["mean_weight"]
                torch.testing.assert_close(matched[name], expected, rtol=1e-5, atol=1e-8)


def test_a_matched_backward_adds_to_what_is_there() -> None:
    """By hand: d(3a + 4b) has norm 5, d(a) has norm 1; 10 and 20 were there."""
    a, b, c = (torch.nn.Parameter(torch.zeros(())) for _ in range(3))
    a.grad, c.grad = torch.tensor(10.0), torch.tensor(20.0)
    matched = MatchedGradients([a, b, c])
    matched.add(a * 1.0 + b * 0.0, 3 * a + 4 * b)
    scale, norm = matched.join(retaining.controls.norm_of)
    assert (scale, norm) == (5.0, 5.0)
    assert [float(p.grad) for p in (a, b, c) if p.grad is not None] == [15.0, 0.0, 20.0]


def test_a_uniform_gradient_of_zero_keeps_scale_one() -> None:
    a = torch.nn.Parameter(torch.ones(()))
    matched = MatchedGradients([a])
    matched.add(a * 0.0, a * 2.0)
    assert matched.join(retaining.controls.norm_of) == (1.0, 2.0)


def test_the_matched_norm_is_that_of_the_parts_together() -> None:
    """By hand: weighted parts 3a and 4b have norm 5 together, uniform parts 2a and -a norm 1."""
    a, b = (torch.nn.Parameter(torch.zeros(())) for _ in range(2))
    b.grad = torch.tensor(7.0)
    matched = MatchedGradients([a, b])
    matched.add(2 * a, 3 * a)
    matched.add(-a, 4 * b)
    assert matched.join(retaining.controls.norm_of) == (5.0, 5.0)
    assert [float(p.grad) for p in (a, b) if p.grad is not None] == [5.0, 7.0]


def test_matching_weights_of_one_is_bitwise_the_run_itself(tmp_path: Path) -> None:
    neutral = {"rule": "exact", "hardness": 0.0}
    rows, weights = run_to_end(tiny_config(tmp_path, weights=neutral))
    controlled = tiny_config(tmp_path, weights=neutral, control="uniform_matched_norm")
    matched_rows, matched = run_to_end(controlled)
    assert all(torch.equal(weights[name], matched[name]) for name in weights)
    for row in matched_rows:
        row.pop("retain_grad_norm", None)
    assert matched_rows == rows


def test_shuffled_weights_are_the_same_weights_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[Weighed, Weighed, Tensor]] = []
    shuffle = retaining.controls.shuffle_weights

    def keep(weighed: Weighed, seed: int, step: int) -> Weighed:
        seen.append((weighed, shuffle(weighed, seed, step), weighed.mask_BT))
        again = shuffle(weighed, seed, step)
        assert torch.equal(again.weights_BT, seen[-1][1].weights_BT)
        other = shuffle(weighed, seed, step + 1)
        assert not torch.equal(other.weights_BT, again.weights_BT)
        return again

    monkeypatch.setattr(retaining.controls, "shuffle_weights", keep)
    with Session(
        tiny_config(tmp_path, weights=EXACT, control="shuffled_weights", max_steps=2)
    ) as session:
        rows = [session.train_step(), session.train_step()]
    for (before, after, mask_BT), row in zip(seen, rows, strict=True):
        assert torch.equal(before.weights_N.sort().values, after.weights_N.sort().values)
        assert not torch.equal(before.weights_N, after.weights_N)
        assert torch.equal(after.weights_BT[mask_BT], after.weights_N)
        assert not after.weights_BT[~mask_BT].any()
        assert row["max_weight"] == float(before.weights_N.max())
    with Session(tiny_config(tmp_path, weights=EXACT)) as session:
        ours = session.train_step()
    assert rows[0]["ess_share"] == pytest.approx(ours["ess_share"], rel=1e-12)
    assert rows[0]["weighted_gap"] > ours["weighted_gap"]
    assert rows[0]["retain_loss"] != ours["retain_loss"]


def test_random_experts_are_as_many_others_in_the_same_layers(tmp_path: Path) -> None:
    settings = {"trainable": {"kind": "selected_experts"}, "weights": EXACT}
    with Session(tiny_config(tmp_path, **settings)) as session:
        chosen = session.selection
        profile = session.profile
    with Session(tiny_config(tmp_path, control="random_experts", **settings)) as session:
        drawn, facts = session.selection, session.facts()
        assert session.trainable.summary.cells == drawn.cells
        assert session.weights.cells == drawn.cells
    assert set(drawn.cells).isdisjoint(chosen.cells)
    assert sorted(cell.layer for cell in drawn.cells) == [cell.layer for cell in chosen.cells]
    assert set(drawn.table["origin"]) == {"random"}
    assert drawn.removed == ()
    assert facts["control"] == {
        "name": "random_experts",
        "sentence": facts["control"]["sentence"],
        "seed": 0,
        "instead_of": [list(cell) for cell in chosen.cells],
    }
    config = tiny_config(tmp_path).selection
    draws = [random_experts(profile, chosen, config, seed).cells for seed in range(8)]
    assert draws[0] == drawn.cells
    assert len(set(draws)) > 1


def test_a_cell_taken_out_by_hand_is_not_drawn(tmp_path: Path) -> None:
    with Session(tiny_config(tmp_path)) as session:
        chosen, profile = session.selection, session.profile
    out = chosen.cells[0]
    config = tiny_config(tmp_path, selection={"remove": [out]})
    with Session(config) as session:
        chosen = session.selection
    assert chosen.removed == (out,)
    draws = [random_experts(profile, chosen, config.selection, seed).cells for seed in range(20)]
    assert out not in {cell for cells in draws for cell in cells}


def test_too_few_others_are_refused_with_the_layer(tmp_path: Path) -> None:
    with Session(tiny_config(tmp_path)) as session:
        profile, chosen = session.profile, session.selection
    layer = profile.layers[0]
    every = tuple(Cell(layer, expert) for expert in range(profile.num_experts_L[0] - 1))
    many = tiny_config(tmp_path, selection={"top_k": 1, "floor": False, "add": every})
    with pytest.raises(CalibrationError, match=rf"Layer {layer} has \d+ selected experts and only"):
        Session(many.model_copy(update={"control": "random_experts"}))
    assert chosen.cells


@pytest.mark.slow
@pytest.mark.parametrize("control", CONTROLS)
def test_a_controlled_run_resumes_bit_for_bit(tmp_path: Path, control: str) -> None:
    config = tiny_config(tmp_path, weights=EXACT, control=control)
    straight, weights = run_to_end(config)
    rows: list[dict[str, Any]] = []
    with Session(config) as first:
        drive(first, on_row=rows.append, should_stop=lambda: first.step == 3)
        tensors, data = first.state()
    tensors, data = load(save(tensors)), json.loads(json.dumps(data, allow_nan=False))
    with Session(config) as second:
        second.load_state(tensors, data)
        drive(second, on_row=rows.append)
        state = second.opened.model.state_dict()
        assert all(torch.equal(weights[name], state[name]) for name in weights)
    assert without_clock(rows) == straight
    plain, _ = run_to_end(tiny_config(tmp_path, weights=EXACT))
    assert [row.get("loss") for row in plain] != [row.get("loss") for row in straight]


def test_a_run_from_before_controls_has_the_same_identity(tmp_path: Path) -> None:
    config = tiny_config(tmp_path)
    assert "control" not in identity_of(config)
    assert "refresh_every" not in identity_of(config)["weights"]
    assert sorted(identity_of(config)["trainable"]) == ["kind", "lora_alpha", "lora_rank"]
    assert identity_of(tiny_config(tmp_path, weights=EXACT, control="shuffled_weights"))[
        "control"
    ] == ("shuffled_weights")


@pytest.mark.parametrize("control", CONTROLS)
def test_a_control_of_nothing_is_refused(tmp_path: Path, control: str) -> None:
    with pytest.raises(ValidationError, match="control is"):
        tiny_config(tmp_path, weights={"rule": "uniform"}, control=control)


def test_random_experts_may_control_what_trains_without_weights(tmp_path: Path) -> None:
    config = tiny_config(
        tmp_path,
        weights={"rule": "uniform"},
        trainable={"kind": "selected_experts"},
        control="random_experts",
        max_steps=1,
    )
    with Session(config) as session:
        assert session.train_step()["ess_share"] == 1.0


def test_without_a_control_no_control_code_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retaining, "controls", None)
    with Session(tiny_config(tmp_path, weights=EXACT, max_steps=1)) as session:
        assert session.train_step()["max_weight"] > 1
