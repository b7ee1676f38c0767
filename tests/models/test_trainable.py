"""What trains, and above all what does not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from tests.support.models import save_tiny, tiny_olmoe
from trace_engine.config import Cell, ModelConfig, TrainableConfig
from trace_engine.errors import CalibrationError, InputError, ModelError, RunError
from trace_engine.models import OpenModel, Trainable, backbone, make_trainable, open_model
from trace_engine.models.trainable import NO_ADAPTERS

FAMILIES = ("olmoe", "qwen3_moe", "mixtral", "deepseek_v3", "gpt_oss")
SELECTED = TrainableConfig(kind="selected_experts")


def opened(folder: Path | None = None) -> OpenModel:
    return open_model(ModelConfig(source=str(folder or tiny_olmoe())))


def step(model: OpenModel, trainable: Trainable, optimizer: torch.optim.Optimizer) -> None:
    generator = torch.Generator().manual_seed(3)
    ids_BS = torch.randint(4, 260, (4, 24), generator=generator)
    logits_BSV = model.model(input_ids=ids_BS, use_cache=False).logits
    loss = torch.nn.functional.cross_entropy(
        logits_BSV[:, :-1].flatten(0, 1), ids_BS[:, 1:].flatten()
    )
    loss.backward()
    trainable.after_backward()
    optimizer.step()
    trainable.after_step()
    optimizer.zero_grad()


def train(model: OpenModel, trainable: Trainable, steps: int = 3) -> None:
    optimizer = torch.optim.AdamW(trainable.parameters(), lr=1e-2, weight_decay=0.1)
    for _ in range(steps):
        step(model, trainable, optimizer)


def state(model: OpenModel) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.model.state_dict().items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_untouched_slices_stay_bitwise_unchanged(family: str, tmp_path: Path) -> None:
    model = opened(save_tiny(family, tmp_path))
    first, last = model.sites[0], model.sites[-1]
    cells = {Cell(first.layer, 1), Cell(first.layer, 3), Cell(last.layer, 0)}
    before = state(model)
    trainable = make_trainable(model, SELECTED, sorted(cells))
    train(model, trainable)
    changed: set[Cell] = set()
    for name, tensor in state(model).items():
        site = next((s for s in model.sites if name.startswith(s.name)), None)
        if site is None:
            assert torch.equal(tensor, before[name]), name
            continue
        for expert in range(site.num_experts):
            if not torch.equal(tensor[expert], before[name][expert]):
                changed.add(Cell(site.layer, expert))
    assert changed == cells


def test_experts_flattened_into_rows_train_alone_and_refuse_lora(tmp_path: Path) -> None:
    model = opened(save_tiny("dbrx", tmp_path))
    before = state(model)
    trainable = make_trainable(model, SELECTED, [Cell(1, 2)])
    train(model, trainable)
    changed = {
        (name, row // 16)
        for name, tensor in state(model).items()
        for row in range(len(tensor))
        if not torch.equal(tensor[row], before[name][row])
    }
    experts = "transformer.blocks.1.ffn.experts.mlp"
    assert changed == {(f"{experts}.{name}", 2) for name in ("w1", "v1", "w2")}
    trainable.close()
    with pytest.raises(ModelError, match=f"experts: {NO_ADAPTERS}"):
        make_trainable(model, TrainableConfig(kind="lora"))


def test_the_slices_train_as_they_would_in_the_whole_tensor() -> None:
    model, whole = opened(), opened()
    cells = [Cell(0, 2), Cell(1, 5)]
    trainable = make_trainable(model, SELECTED, cells)
    optimizer = torch.optim.SGD(trainable.parameters(), lr=0.1)
    step(model, trainable, optimizer)
    everything = make_trainable(whole, TrainableConfig(kind="all"))
    step(whole, everything, torch.optim.SGD(everything.parameters(), lr=0.1))
    for site, other in zip(model.sites, whole.sites, strict=True):
        expert = dict(cells)[site.layer]
        one, two = (s.module.down_proj.detach()[expert] for s in (site, other))
        # Rows are summed in another order.
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6)


def test_two_backward_passes_add_up() -> None:
    model = opened()
    trainable = make_trainable(model, SELECTED, [Cell(0, 0), Cell(1, 1)])
    ids_BS = torch.arange(4, 44)[None]

    def gradients(passes: int) -> list[Tensor]:
        for parameter in trainable.parameters():
            parameter.grad = None
        for _ in range(passes):
            backbone(model.model)(input_ids=ids_BS).last_hidden_state.square().mean().backward()
        return [p.grad.clone() for p in trainable.parameters() if p.grad is not None]

    one, two = gradients(1), gradients(2)
    assert len(one) == len(trainable.parameters())
    for single, double in zip(one, two, strict=True):
        torch.testing.assert_close(double, 2 * single)
    assert all(p.grad is None for p in model.model.parameters())


def test_frozen_parameters_get_no_gradient_and_close_restores_them() -> None:
    model = opened()
    flags = {n: p.requires_grad for n, p in model.model.named_parameters()}
    trainable = make_trainable(model, SELECTED, [Cell(0, 1)])
    assert not [n for n, p in model.model.named_parameters() if p.requires_grad]
    train(model, trainable)
    assert all(p.grad is None for p in model.model.parameters())
    trainable.close()
    assert {n: p.requires_grad for n, p in model.model.named_parameters()} == flags


def test_summary_counts_what_trains() -> None:
    model = opened()
    site = model.sites[0]
    an_expert = sum(p[0].numel() for p in site.module.parameters())
    trainable = make_trainable(model, SELECTED, [Cell(0, 3), Cell(0, 3), Cell(1, 0)])
    summary = trainable.summary
    assert summary.parameters == 2 * an_expert == sum(p.numel() for p in trainable.parameters())
    assert summary.total == model.info.parameters
    assert summary.cells == (Cell(0, 3), Cell(1, 0))
    assert "model.layers.0.mlp.experts.down_proj[3]" in summary.names == trainable.names


@pytest.mark.parametrize("kind", ["all", "selected_experts", "lora"])
def test_a_checkpoint_brings_the_same_bits_back(kind: str) -> None:
    config = TrainableConfig.model_validate({"kind": kind})
    cells = [Cell(0, 1), Cell(1, 6)]
    model, other = opened(), opened()
    trainable, again = (
        make_trainable(model, config, cells),
        make_trainable(other, config, cells, seed=9),
    )
    train(model, trainable)
    again.load({name: tensor.clone() for name, tensor in trainable.tensors().items()})
    for (name, one), two in zip(state(model).items(), state(other).values(), strict=True):
        assert torch.equal(one, two), name


def test_a_foreign_checkpoint_is_refused_and_changes_nothing() -> None:
    model = opened()
    trainable = make_trainable(model, SELECTED, [Cell(0, 1)])
    before = state(model)
    tensors = {name: tensor + 1 for name, tensor in trainable.tensors().items()}
    with pytest.raises(RunError, match="another trainable set"):
        trainable.load({**tensors, "model.norm.weight": torch.zeros(1)})
    first = next(iter(tensors))
    with pytest.raises(RunError, match=r"has shape \(1,\)"):
        trainable.load({**tensors, first: torch.zeros(1)})
    assert all(torch.equal(value, before[name]) for name, value in state(model).items())


@pytest.mark.parametrize("family", FAMILIES)
def test_lora_starts_as_the_model_trains_only_adapters_and_merges(
    family: str, tmp_path: Path
) -> None:
    model = opened(save_tiny(family, tmp_path / "model"))
    ids_BS = torch.arange(4, 36).reshape(2, 16)
    with torch.no_grad():
        at_start = model.model(input_ids=ids_BS).logits
    before = state(model)
    trainable = make_trainable(model, TrainableConfig(kind="lora", lora_rank=2))
    assert any("experts" in name for name in trainable.names)
    assert any("attn" in name for name in trainable.names)
    with torch.no_grad():
        torch.testing.assert_close(model.model(input_ids=ids_BS).logits, at_start)
    train(model, trainable)
    with torch.no_grad():
        trained = model.model(input_ids=ids_BS).logits
    assert (trained - at_start).abs().max() > 1e-3
    plain = trainable.plain_model()
    plain.save_pretrained(tmp_path / "saved")
    reread = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    with torch.no_grad():
        assert torch.equal(model.model(input_ids=ids_BS).logits, trained)
        torch.testing.assert_close(reread(input_ids=ids_BS).logits, trained, rtol=1e-4, atol=1e-4)
    trainable.close()
    assert set(state(model)) == set(before)
    with torch.no_grad():
        torch.testing.assert_close(
            model.model(input_ids=ids_BS).logits, trained, rtol=1e-4, atol=1e-4
        )


def test_lora_repeats_with_its_seed() -> None:
    config = TrainableConfig(kind="lora")
    torch.manual_seed(1)
    one = make_trainable(opened(), config, seed=4).tensors()
    torch.manual_seed(2)
    two = make_trainable(opened(), config, seed=4).tensors()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_an_empty_set_is_refused() -> None:
    with pytest.raises(CalibrationError, match="nothing would train"):
        make_trainable(opened(), SELECTED, [])


def test_a_cell_that_does_not_exist_is_refused_by_name() -> None:
    model = opened()
    with pytest.raises(InputError, match=r"no routed experts in layer 7. Its MoE layers are 0, 1"):
        make_trainable(model, SELECTED, [Cell(7, 0)])
    with pytest.raises(InputError, match=r"Layer 1 has no expert 8: its experts are 0 to 7"):
        make_trainable(model, SELECTED, [Cell(1, 8)])


def changed_names(model: OpenModel, before: dict[str, Tensor]) -> set[str]:
    return {name for name, tensor in state(model).items() if not torch.equal(tensor, before[name])}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["all", "layers"])
def test_frozen_routers_stay_bitwise_and_the_rest_trains(
    kind: str, family: str, tmp_path: Path
) -> None:
    model = opened(save_tiny(family, tmp_path))
    layer = model.sites[-1].layer
    before = state(model)
    settings = {"kind": kind, "freeze_routers": True}
    trainable = make_trainable(model, TrainableConfig.model_validate(settings), [Cell(layer, 0)])
    train(model, trainable)
    changed = changed_names(model, before)
    routers = {name for name in before if ".gate.weight" in name or ".router.weight" in name}
    assert routers
    assert changed
    assert changed.isdisjoint(routers)
    assert any(".experts." in name for name in changed)
    free = make_trainable(model, TrainableConfig.model_validate({"kind": kind}), [Cell(layer, 0)])
    assert set(free.names) - set(trainable.names) >= {n for n in routers if f".{layer}." in n}
    assert free.summary.parameters > trainable.summary.parameters


def test_chosen_layers_train_whole_and_alone(tmp_path: Path) -> None:
    model = opened(save_tiny("deepseek_v3", tmp_path))
    layers = sorted({int(n.split(".")[2]) for n in state(model) if n.startswith("model.layers.")})
    dense = next(layer for layer in layers if layer not in {s.layer for s in model.sites})
    before = state(model)
    trainable = make_trainable(model, TrainableConfig(kind="layers", layers=(dense,)))
    train(model, trainable)
    changed = changed_names(model, before)
    assert changed
    assert all(name.startswith(f"model.layers.{dense}.") for name in changed)
    assert changed == set(trainable.names)
    assert trainable.summary.parameters == sum(before[name].numel() for name in changed)
    assert trainable.summary.kind == "layers"


def test_layers_without_a_list_are_those_of_the_cells() -> None:
    model = opened()
    layer = model.sites[-1].layer
    trainable = make_trainable(model, TrainableConfig(kind="layers"), [Cell(layer, 1)])
    assert {int(name.split(".")[2]) for name in trainable.names} == {layer}
    with pytest.raises(CalibrationError, match="No layer is named"):
        make_trainable(model, TrainableConfig(kind="layers"))
    with pytest.raises(InputError, match=r"no decoder layer 99\. Its layers are 0, 1"):
        make_trainable(model, TrainableConfig(kind="layers", layers=(99,)))


def test_layers_of_another_kind_are_refused() -> None:
    with pytest.raises(ValueError, match="layers is given and kind is all"):
        TrainableConfig(layers=(1,))


def test_a_model_spread_over_devices_is_refused() -> None:
    opened = open_model(ModelConfig(source=str(tiny_olmoe()), device="cpu"))
    opened.info = replace(opened.info, device="spread")
    for kind in ("all", "layers", "lora", "selected_experts"):
        with pytest.raises(ModelError, match="spread over several devices"):
            make_trainable(opened, TrainableConfig(kind=kind), [Cell(0, 1)])  # type: ignore[arg-type]
