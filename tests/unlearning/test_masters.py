"""Narrow weights train through float32 masters; float16 does not train."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.unlearning.cases import tiny_config
from trace_engine.config import ModelConfig, UnlearnConfig, parse_config
from trace_engine.errors import InputError, RunError
from trace_engine.models import open_model
from trace_engine.unlearning import Session, set_up
from trace_engine.unlearning.masters import Masters


def narrow(folder: Path, dtype: str = "bfloat16", **settings: Any) -> UnlearnConfig:
    config = tiny_config(folder, learning_rate=1e-5, **settings)
    return config.model_copy(update={"model": config.model.model_copy(update={"dtype": dtype})})


def test_small_updates_add_up_in_the_master_and_reach_the_weight() -> None:
    """1 + 1/512 is no bfloat16 number: alone, each update would be rounded away for ever."""
    weight = nn.Parameter(torch.ones(1, dtype=torch.bfloat16))
    masters = Masters(["w"], [weight])
    optimizer = torch.optim.SGD(masters.leaves, lr=1.0)
    seen: list[float] = []
    for _ in range(4):
        weight.grad = torch.full_like(weight, -1 / 512)
        masters.take_gradients()
        optimizer.step()
        masters.give_weights()
        seen.append(float(weight.detach()))
    assert weight.grad is None
    # 1 + k/512; the grid above 1 is 1/128, ties go to the even neighbour.
    assert seen == [1.0, 1.0, 1 + 1 / 128, 1 + 1 / 128]
    assert float(masters.leaves[0].detach()) == 1 + 4 / 512


def test_float32_is_its_own_master() -> None:
    weight = nn.Parameter(torch.ones(2))
    masters = Masters(["w"], [weight])
    assert masters.leaves == [weight]
    assert masters.leaves[0] is weight
    assert (masters.tensors(), masters.numbers) == ({}, 0)


@pytest.mark.parametrize("kind", ["all", "selected_experts"])
def test_bfloat16_weights_follow_the_float32_run(tmp_path: Path, kind: str) -> None:
    """Every master moves by about the learning rate, as AdamW's first step does."""
    with Session(narrow(tmp_path, warmup_steps=0, trainable={"kind": kind})) as session:
        before = {name: t.clone() for name, t in session._masters.tensors().items()}
        assert {t.dtype for t in before.values()} == {torch.float32}
        facts = session.facts()["trainable"]
        assert facts["float32_masters"] == facts["parameters"]
        session.train_step()
        after = session._masters.tensors()
        moved = torch.cat([(after[n] - before[n]).abs().flatten() for n in before])
        assert moved.max() == pytest.approx(1e-5, rel=0.05)
        if kind == "all":
            # Nearly every number that has a gradient moves by the whole rate.
            assert float((moved > 0.5e-5).float().mean()) > 0.5
        for name, weight in session.trainable.tensors().items():
            assert weight.dtype == torch.bfloat16
            assert torch.equal(weight, after[name].bfloat16())
        moments = {v.dtype for e in session._optimizer.state.values() for v in e.values()}
        assert moments == {torch.float32}


def test_a_bfloat16_run_resumes_bit_for_bit(tmp_path: Path) -> None:
    config = narrow(tmp_path, max_steps=4)
    with Session(config) as whole:
        for _ in range(2):
            whole.train_step()
        tensors, data = whole.state()
        for _ in range(2):
            whole.train_step()
        expected = {**whole.trainable.tensors(), **whole._masters.tensors()}
        with Session(config) as resumed:
            old = {n: t for n, t in tensors.items() if not n.startswith("master/")}
            with pytest.raises(RunError, match=r"no float32 masters .* start a new run"):
                resumed.load_state(old, data)
            resumed.load_state(tensors, data)
            for _ in range(2):
                resumed.train_step()
            found = {**resumed.trainable.tensors(), **resumed._masters.tensors()}
            assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_float16_is_refused_in_the_settings_and_old_ones_stay_readable(tmp_path: Path) -> None:
    data = tiny_config(tmp_path).model_dump(mode="json")
    data["model"]["dtype"] = "float16"
    with pytest.raises(InputError, match="set dtype to float32 or bfloat16"):
        parse_config(data)
    assert parse_config(data, recorded=True).model.dtype == "float16"


def test_a_model_that_was_saved_in_float16_is_refused_before_profiling(tmp_path: Path) -> None:
    config = tiny_config(tmp_path)
    half = tmp_path / "half"
    opened = open_model(config.model)
    opened.model.half().save_pretrained(half)
    opened.tokenizer.save_pretrained(half)
    model = ModelConfig(source=str(half), device="cpu")

    class NoProfile:
        def get(self, key: str) -> None:
            raise AssertionError("it came to profiling")

        def put(self, key: str, profile: object) -> None: ...

    with pytest.raises(InputError, match=r"is in float16.*Set dtype to float32 or bfloat16"):
        set_up(config.model_copy(update={"model": model}), profiles=NoProfile())
