"""RMU: its loss by hand and on masks, its layer and direction, and whole runs that steer."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.models.conformance import ids, opened
from tests.support.models import tiny_olmoe
from tests.support.moe_types import moe_types
from tests.unlearning.cases import tiny_config, without_clock
from trace_engine.config import UnlearnConfig
from trace_engine.errors import InputError, ModelError
from trace_engine.models import Batch, collate, decoder_layers, open_model
from trace_engine.models.families import UNTAPPED
from trace_engine.unlearning import Session, drive, losses
from trace_engine.unlearning.reference import forward_hidden
from trace_engine.unlearning.steering import direction, steering_layer, steering_row

UNIFORM: dict[str, Any] = {"weights": {"rule": "uniform"}}
SEVERAL_STREAMS = {"deepseek_v4", "hy_v4", "glm5_next"}
"""Families whose layers hand several states of each token on (hyper-connections)."""
RMU: dict[str, Any] = {"method": "rmu", "steering": 8.0, "steering_layer": 0}


def test_the_forget_term_worked_out_by_hand() -> None:
    """Two tokens in the loss, u = (0.6, 0.8), c = 5: the target is (3, 4)."""
    hidden_BSD = torch.tensor([[[9.0, 9.0], [3.0, 6.0], [1.0, 4.0]]], dtype=torch.float64)
    labels_BS = torch.tensor([[-100, 1, 0]])
    unit_D = torch.tensor([0.6, 0.8], dtype=torch.float64)
    # ((0 + 4) / 2 + (4 + 0) / 2) / 2
    assert float(losses.rmu_forget(hidden_BSD, labels_BS, unit_D, 5.0)) == pytest.approx(2.0)


def test_padding_bos_prompt_and_company_change_no_bit() -> None:
    """Right and left padding, and a prompt: what a layer gives on there is in neither loss nor
    gradient.
    """
    labels_BS = torch.tensor([[-100, 1, 2, -100], [-100, -100, 3, 4]])
    generator = torch.Generator().manual_seed(0)
    hidden_BSD = torch.randn(2, 4, 6, generator=generator, dtype=torch.float64)
    wild_BSD = hidden_BSD.clone()
    wild_BSD[labels_BS == -100] = 1e6
    unit_D = direction(6, 0)
    found = [
        torch.autograd.grad(
            losses.rmu_forget(value.requires_grad_(), labels_BS, unit_D, 3.0), value
        )[0]
        for value in (hidden_BSD, wild_BSD)
    ]
    assert torch.equal(found[0], found[1])
    assert not found[0][labels_BS == -100].any()
    assert found[0][labels_BS != -100].abs().min() > 0
    assert torch.equal(
        losses.rmu_forget(hidden_BSD, labels_BS, unit_D, 3.0),
        losses.rmu_forget(wild_BSD, labels_BS, unit_D, 3.0),
    )


def test_the_gradient_in_float64_and_half_precision_in_float32() -> None:
    labels_BS = torch.tensor([[-100, 1, 2], [-100, 3, -100]])
    generator = torch.Generator().manual_seed(1)
    hidden_BSD = torch.randn(2, 3, 4, generator=generator, dtype=torch.float64)
    unit_D = direction(4, 1).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda value: losses.rmu_forget(value, labels_BS, unit_D.detach(), 2.0),
        (hidden_BSD.clone().requires_grad_(),),
    )
    half_BSD = hidden_BSD.bfloat16().requires_grad_()
    loss = losses.rmu_forget(half_BSD, labels_BS, unit_D, 2.0)
    assert loss.dtype == torch.float32
    loss.backward()
    assert unit_D.grad is None


def test_the_direction_has_length_1_positive_entries_and_follows_the_seed() -> None:
    unit_D = direction(512, 3)
    assert float(unit_D.norm()) == pytest.approx(1, abs=1e-12)
    assert float(unit_D.min()) >= 0
    # Uniform entries: mean over root mean square is (1/2) / (1/sqrt 3).
    assert float(unit_D.sum() / math.sqrt(512)) == pytest.approx(math.sqrt(3) / 2, abs=0.03)
    assert torch.equal(unit_D, direction(512, 3))
    assert not torch.equal(unit_D, direction(512, 4))


def test_a_rows_numbers_are_of_the_texts_own_tokens() -> None:
    hidden_BSD = torch.tensor([[[100.0, 0.0], [3.0, 4.0], [0.0, 2.0]]])
    row = steering_row(hidden_BSD, torch.tensor([[-100, 5, 6]]), torch.tensor([0.0, 1.0]))
    assert row["forget_hidden_norm"] == pytest.approx((5 + 2) / 2)
    assert row["forget_hidden_cosine"] == pytest.approx((0.8 + 1) / 2)


@pytest.mark.parametrize(
    ("layers", "wanted"), [(1, 0), (2, 0), (4, 0), (5, 1), (8, 1), (12, 2), (16, 3)]
)
def test_the_default_layer_ends_the_first_quarter(tmp_path: Path, layers: int, wanted: int) -> None:
    """7 of 32 in the paper: rounded up, a quarter of the layers lies up to it."""
    config = tiny_config(tmp_path, method="rmu", **UNIFORM)
    model = open_model(config.model.model_copy(update={"source": str(tiny_olmoe(layers=layers))}))
    assert steering_layer(model, config) == wanted
    assert steering_layer(model, config.model_copy(update={"method": "npo"})) is None
    assert math.ceil(32 / 4) - 1 == 7


def test_hidden_states_of_a_layer_are_what_transformers_says(tmp_path: Path) -> None:
    with Session(tiny_config(tmp_path, **RMU)) as session:
        batch = collate(session.setup.forget.training, [0, 1, 2])
        with torch.no_grad():
            plain = session.opened.model(**batch.inputs, output_hidden_states=True)
        logits_BSV, hidden_BSD = forward_hidden(session.opened, batch, 0, cut=True)
        # Entry 0 are the embeddings.
        assert torch.equal(hidden_BSD, plain.hidden_states[1])
        assert hidden_BSD.requires_grad
        assert not logits_BSV.requires_grad
        torch.testing.assert_close(logits_BSV, plain.logits)
        assert torch.is_grad_enabled()


@pytest.mark.parametrize("model_type", [t for t in moe_types() if t not in UNTAPPED])
def test_every_family_can_be_steered_or_is_refused(model_type: str, tmp_path: Path) -> None:
    """Nothing after the layer gets a gradient, and something up to it does."""
    model = opened(model_type)
    layers = decoder_layers(model)
    assert {site.layer for site in model.sites} <= layers.keys()
    first = min(layers)
    config = tiny_config(tmp_path, method="rmu", steering_layer=first, **UNIFORM)
    if model_type in SEVERAL_STREAMS:
        with pytest.raises(ModelError, match="several states for each token"):
            steering_layer(model, config)
        return
    assert steering_layer(model, config) == first
    ids_BS = ids()
    positions_BS = torch.arange(ids_BS.shape[1]).expand_as(ids_BS)
    batch = Batch(ids_BS, torch.ones_like(ids_BS), positions_BS, ids_BS, torch.arange(len(ids_BS)))
    _, hidden_BSD = forward_hidden(model, batch, first, cut=True)
    hidden_BSD.square().sum().backward()
    named = list(model.model.named_parameters())
    reached = [name for name, p in named if p.grad is not None and bool(p.grad.any())]
    later = tuple(f"{layers[n]}." for n in layers if n > first)
    assert any(name.startswith(f"{layers[first]}.") for name in reached)
    assert [name for name in reached if name.startswith(later)] == []


# Runs --------------------------------------------------------------------------------------------


def run(config: UnlearnConfig) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    with Session(config) as session:
        assert drive(session, on_row=rows.append) == "done"
        facts = session.facts()
    return [row for row in without_clock(rows) if row["kind"] == "train"], facts


@pytest.mark.slow
@pytest.mark.parametrize("trainable", [{"kind": "all"}, {"kind": "layers", "layers": [0]}])
def test_a_run_drives_forget_states_to_the_target_and_holds_retain_states(
    tmp_path: Path, trainable: dict[str, Any]
) -> None:
    settings: dict[str, Any] = RMU | {"max_steps": 30, "trainable": trainable}
    held, facts = run(tiny_config(tmp_path, alpha=20, learning_rate=3e-3, **settings))
    assert held[-1]["forget_loss"] < 0.8 * held[0]["forget_loss"]
    assert held[-1]["forget_hidden_cosine"] > held[0]["forget_hidden_cosine"] + 0.1
    assert held[0]["retain_loss"] == pytest.approx(0, abs=1e-12)
    assert facts["method"]["layer"] == 0
    assert facts["method"]["retain_term"] == "hidden"
    assert facts["method"]["start_model_copy"] is True
    loose, _ = run(tiny_config(tmp_path, alpha=0, learning_rate=3e-3, **settings, **UNIFORM))
    assert held[-1]["retain_loss"] < 0.5 * loose[-1]["retain_loss"]
    assert loose[-1]["forget_loss"] < held[-1]["forget_loss"]


def test_later_layers_keep_every_bit(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, weight_decay=0.1, **RMU)
    before = open_model(config.model).model.state_dict()
    with Session(config) as session:
        drive(session, on_row=lambda row: None)
        after = session.opened.model.state_dict()
        changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert any(name.startswith("model.layers.0.mlp.experts") for name in changed)
    assert not any(
        name.startswith(("model.layers.1.", "model.norm", "lm_head")) for name in changed
    )


@pytest.mark.parametrize("term", ["nll", "kl"])
def test_other_retain_terms_reach_the_whole_model(tmp_path: Path, term: str) -> None:
    with Session(tiny_config(tmp_path, retain_term=term, **RMU)) as session:
        # KL to the start model is flat at the start, but for rounding.
        session.train_step()
        session.train_step()
        assert float(session.opened.model.lm_head.weight.grad.norm()) > 1e-4


def test_token_weights_act_on_the_held_states(tmp_path: Path) -> None:
    """Kappa 0 is bitwise the uniform rule; another hardness is another run."""
    found = []
    for weights in ({"rule": "uniform"}, *({"rule": "exact", "hardness": k} for k in (0.0, 0.5))):
        with Session(tiny_config(tmp_path, weights=weights, **RMU)) as session:
            session.train_step()
            found.append(session.train_step()["retain_loss"])
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize("control", ["uniform_matched_norm", "shuffled_weights", "random_experts"])
def test_controls_run_on_held_states(tmp_path: Path, control: str) -> None:
    weights = {"rule": "exact", "hardness": 0.5}
    rows, facts = run(tiny_config(tmp_path, control=control, weights=weights, **RMU))
    assert facts["control"]["name"] == control
    assert all(math.isfinite(row["loss"]) for row in rows)
    assert rows[-1]["retain_loss"] > 0


def test_a_layer_that_is_not_there_or_cannot_move_is_refused(tmp_path: Path) -> None:
    def refused(**settings: Any) -> str:
        with pytest.raises(InputError) as caught:
            Session(tiny_config(tmp_path, **RMU | settings))
        return str(caught.value)

    assert "no decoder layer 2. Its layers are 0, 1." in refused(steering_layer=2)
    said = refused(trainable={"kind": "layers", "layers": [1]})
    assert said.startswith("RMU drives the output of decoder layer 0, and only later layers would")
    assert "Set steering_layer to 1 or more" in said
    later = {"layers": [1]}
    assert "only later" in refused(trainable={"kind": "selected_experts"}, selection=later)
