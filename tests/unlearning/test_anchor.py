"""SEUF: the router anchor by hand and on masks, what trains, and what the anchor is for."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.models.conformance import opened, train
from tests.support.moe_types import moe_types
from tests.unlearning.cases import tiny_config
from trace_engine.calibration import top_experts
from trace_engine.config import Cell, TrainableConfig, UnlearnConfig
from trace_engine.errors import CalibrationError, InputError, ModelError
from trace_engine.models import collate, expert_parameters, make_trainable, open_model
from trace_engine.models.families import UNTAPPED
from trace_engine.unlearning import Session, drive
from trace_engine.unlearning.anchor import RouterAnchor, router_anchor

ROUTER_UNKNOWN = {"inkling_text", "inkling_mm_model", "longcat_flash", "zaya"}
TOP: dict[str, Any] = {"trainable": {"kind": "top_experts"}}
UNIFORM: dict[str, Any] = {"weights": {"rule": "uniform"}}


def test_the_anchor_worked_out_by_hand() -> None:
    index_NK = torch.tensor([[0, 2], [1, 2]])
    weight_NK = torch.tensor([[0.75, 0.25], [0.5, 0.5]], dtype=torch.float64)
    # Gates (3/4, 0, 1/4) and (0, 1/2, 1/2) against (1, 0, 0): 1/8 and 3/2.
    assert float(router_anchor(index_NK, weight_NK, [0], 3)) == pytest.approx((1 / 8 + 3 / 2) / 2)
    # Two targets in one layer: (-1/4, 0, -3/4) and (-1, 1/2, -1/2).
    assert float(router_anchor(index_NK, weight_NK, [0, 2], 3)) == pytest.approx(
        (5 / 8 + 3 / 2) / 2
    )
    assert float(router_anchor(index_NK[:1], torch.tensor([[1.0, 0.0]]), [0], 3)) == 0.0


def test_skipped_slots_are_no_expert() -> None:
    weight_NK = torch.tensor([[0.6, 0.4]], dtype=torch.float64)
    for skip in (3, 7):
        found = router_anchor(torch.tensor([[1, skip]]), weight_NK, [1], 3)
        assert float(found) == pytest.approx(0.4**2)


def test_the_gradient_in_float64() -> None:
    index_NK = torch.tensor([[0, 2], [1, 2], [2, 3]])
    weight_NK = torch.rand(3, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda value: router_anchor(index_NK, value, [2], 3), (weight_NK.requires_grad_(),)
    )
    half = weight_NK.detach().bfloat16()
    assert router_anchor(index_NK, half, [2], 3).dtype == torch.float32


def anchored_loss(session: Session, documents: list[int], cells: list[Cell]) -> Tensor:
    anchor = RouterAnchor(session.opened.sites, cells)
    batch = collate(session.setup.forget.training, documents)
    with torch.no_grad(), anchor.watching():
        session.opened.model(**batch.inputs, use_cache=False)
    return anchor.loss(batch)


def test_the_anchor_is_over_labels_and_padding_counts_for_nothing(tmp_path: Path) -> None:
    """Documents alone, weighed by their labels, give the padded batch; layers are summed."""
    cells = [Cell(0, 3), Cell(1, 5)]
    with Session(tiny_config(tmp_path)) as session:
        documents = [0, 1, 2, 3]
        labels = [session.setup.forget.training[n].labels for n in documents]
        assert len(set(labels)) > 1
        alone = [float(anchored_loss(session, [n], cells)) for n in documents]
        together = float(anchored_loss(session, documents, cells))
        layers = [float(anchored_loss(session, documents, [cell])) for cell in cells]
    mean = sum(a * n for a, n in zip(alone, labels, strict=True)) / sum(labels)
    assert together == pytest.approx(mean, rel=1e-5)
    assert together == pytest.approx(sum(layers), rel=1e-6)


@pytest.mark.parametrize("model_type", [t for t in moe_types() if t not in UNTAPPED])
def test_only_the_expert_and_its_router_move_or_the_family_is_refused(model_type: str) -> None:
    model = opened(model_type)
    site = model.sites[-1]
    before = {n: p.detach().clone() for n, p in model.model.named_parameters()}
    chosen, cells = TrainableConfig(kind="top_experts"), [Cell(site.layer, 1)]
    if model_type in ROUTER_UNKNOWN:
        with pytest.raises(ModelError, match="router cannot be told"):
            make_trainable(model, chosen, cells)
        return
    trainable = make_trainable(model, chosen, cells)
    slices = {n for n in trainable.names if "[" in n}
    routers = set(trainable.names) - slices
    assert routers
    train(model, trainable)
    trainable.close()
    rows = {n: r for n, (_, r) in expert_parameters(site).items()}
    moved_routers = 0
    for name, parameter in model.model.named_parameters():
        if name in rows:
            kept = torch.ones(len(parameter), dtype=torch.bool)
            kept[rows[name] : 2 * rows[name]] = False
            assert torch.equal(parameter[kept], before[name][kept]), name
        elif name in routers:
            moved_routers += not torch.equal(parameter, before[name])
        else:
            assert torch.equal(parameter, before[name]), name
    assert moved_routers


# Runs --------------------------------------------------------------------------------------------


def run(config: UnlearnConfig) -> tuple[list[dict[str, Any]], dict[str, Any], dict[str, Tensor]]:
    rows: list[dict[str, Any]] = []
    with Session(config) as session:
        assert drive(session, on_row=rows.append) == "done"
        weights = {n: v.clone() for n, v in session.opened.model.state_dict().items()}
        return rows, session.facts(), weights


def test_a_run_trains_the_expert_that_forget_text_uses_most_and_its_router(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, method="graddiff", weight_decay=0.1, **TOP, **UNIFORM)
    before = open_model(config.model).model.state_dict()
    with Session(config) as session:
        [(cell, value)] = top_experts(session.profile, 1)
        row = session.train_step()
    rows, facts, after = run(config)
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    stem = f"model.layers.{cell.layer}.mlp"
    assert changed == {
        f"{stem}.gate.weight", f"{stem}.experts.gate_up_proj", f"{stem}.experts.down_proj"
    }  # fmt: skip
    for name in changed - {f"{stem}.gate.weight"}:
        moved = [e for e in range(8) if not torch.equal(after[name][e], before[name][e])]
        assert moved == [cell.expert]
    assert facts["anchor"]["experts"] == [[*cell, pytest.approx(value)]]
    assert facts["trainable"]["cells"] == [list(cell)]
    sentence = f"The expert that forget text uses most: L{cell.layer} E{cell.expert} (mean gate "
    assert facts["anchor"]["sentence"].startswith(sentence)
    assert facts["anchor"]["sentence"].endswith("its router is anchored to it with weight 1.")
    wanted = row["forget_loss"] + row["retain_loss"] + row["anchor_loss"]
    assert row["loss"] == pytest.approx(wanted)
    assert rows[-1]["forget_nll"]["value"] > rows[0]["forget_nll"]["value"]


def test_the_anchor_holds_forget_tokens_at_the_expert(tmp_path: Path) -> None:
    """Ascent alone moves the router away; the anchor's own loss says where it ends up."""
    ends = {}
    for weight in (0.0, 20.0):
        config = tiny_config(
            tmp_path, method="graddiff", alpha=0, anchor=weight, max_steps=20, **TOP, **UNIFORM
        )
        with Session(config) as session:
            [(cell, _)] = session.setup.anchored
            documents = list(range(len(session.setup.forget.training)))
            start = float(anchored_loss(session, documents, [cell]))
            rows: list[dict[str, Any]] = []
            drive(session, on_row=rows.append)
            ends[weight] = float(anchored_loss(session, documents, [cell]))
        assert ("anchor_loss" in rows[1]) == (weight > 0)
    assert ends[20.0] < start
    assert ends[20.0] < ends[0.0]


@pytest.mark.parametrize("method", ["npo", "undial", "rmu", "idkdpo", "ceu"])
def test_it_goes_with_any_forget_term_and_token_weights(tmp_path: Path, method: str) -> None:
    weights = {"rule": "exact", "hardness": 0.5}
    steering = {"steering_layer": 1} if method == "rmu" else {}
    rows, facts, _ = run(tiny_config(tmp_path, method=method, weights=weights, **TOP, **steering))
    trained = [row for row in rows if row["kind"] == "train"]
    assert all(row["anchor_loss"] > 0 and row["grad_norm"] > 0 for row in trained)
    assert any(row["max_weight"] > 1 for row in trained)
    assert facts["trainable"]["kind"] == "top_experts"


def test_more_experts_than_the_model_has_and_rmu_before_the_expert_are_refused(
    tmp_path: Path,
) -> None:
    with pytest.raises(CalibrationError, match="asks for 17 experts and the model has 16"):
        Session(tiny_config(tmp_path, trainable={"kind": "top_experts", "number": 17}))
    rmu = tiny_config(tmp_path, method="rmu", steering_layer=0, **UNIFORM)
    both = rmu.model_copy(update={"trainable": TrainableConfig(kind="top_experts", number=16)})
    with pytest.raises(InputError, match="RMU drives the output of decoder layer 0"):
        Session(both)
