"""Rounding, by hand; what is rounded; and that every bit comes back."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.models import save_tiny, tiny_configs, tiny_olmoe
from trace_engine.attacks.quantising import quantised, round_to_nearest, rounded_parameters
from trace_engine.config import ModelConfig
from trace_engine.errors import InputError
from trace_engine.models import open_model


def test_four_bits_by_hand() -> None:
    # Two groups of two. The first: scale 0.7 / 7 = 0.1, so 0.24 is 2.4 steps, which is 2. The
    # second: scale 14 / 7 = 2, so -3 is -1.5 steps, halves to even, which is -2.
    weight = torch.tensor([[0.7, 0.24, 14.0, -3.0]])
    found = round_to_nearest(weight, 4, 2)
    assert torch.allclose(found, torch.tensor([[0.7, 0.2, 14.0, -4.0]]))


def test_eight_bits_have_one_scale_a_row() -> None:
    # Scale 127 / 127 = 1 in the first row, 1.27 / 127 = 0.01 in the second.
    weight = torch.tensor([[127.0, 0.4, -0.6], [1.27, 0.004, -0.006]])
    found = round_to_nearest(weight, 8, 2)
    assert torch.allclose(found, torch.tensor([[127.0, 0.0, -1.0], [1.27, 0.0, -0.01]]))


def test_a_short_last_group_and_a_row_of_zeros() -> None:
    weight = torch.tensor([[7.0, 1.2, 70.0], [0.0, 0.0, 0.0]])
    assert torch.equal(
        round_to_nearest(weight, 4, 2), torch.tensor([[7.0, 1.0, 70.0], [0.0, 0.0, 0.0]])
    )


def test_one_bit_is_refused() -> None:
    with pytest.raises(InputError, match="at least 2 bits"):
        round_to_nearest(torch.ones(2, 2), 1, 2)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 8), st.integers(1, 9))
def test_no_weight_moves_by_more_than_half_a_step(seed: int, bits: int, group: int) -> None:
    weight = torch.randn(3, 2, 7, generator=torch.Generator().manual_seed(seed))
    found = round_to_nearest(weight, bits, group)
    width = 7 if bits >= 8 else min(group, 7)
    for start in range(0, 7, width):
        part, rounded = weight[..., start : start + width], found[..., start : start + width]
        step = part.abs().amax(-1, keepdim=True) / (2 ** (bits - 1) - 1)
        assert ((part - rounded).abs() <= step / 2 + 1e-6).all()
        assert torch.allclose(rounded, round_to_nearest(rounded, bits, width), atol=1e-5)


def test_experts_and_linear_layers_are_rounded_and_routers_and_head_are_not() -> None:
    opened = open_model(ModelConfig(source=str(tiny_olmoe())))
    names = set(rounded_parameters(opened))
    assert any("experts" in name for name in names)
    assert any("q_proj" in name for name in names)
    assert not [n for n in names if "mlp.gate.weight" in n or "lm_head" in n or "embed" in n]
    assert not [n for n in names if "norm" in n]


@pytest.mark.parametrize("family", sorted(tiny_configs()))
def test_weights_change_inside_and_come_back(family: str, tmp_path: Path) -> None:
    opened = open_model(ModelConfig(source=str(save_tiny(family, tmp_path))))
    before = {name: value.clone() for name, value in opened.model.state_dict().items()}
    ids = torch.arange(4, 20)[None]
    plain = opened.model(ids).logits
    with quantised(opened, 3, 16) as count:
        assert count > 1000
        changed = [n for n, v in opened.model.state_dict().items() if not v.equal(before[n])]
        assert set(changed) == {name for name in rounded_parameters(opened) if name in before}
        assert not torch.allclose(opened.model(ids).logits, plain, atol=1e-4)
    assert all(value.equal(before[name]) for name, value in opened.model.state_dict().items())


def test_weights_come_back_after_an_error() -> None:
    opened = open_model(ModelConfig(source=str(tiny_olmoe())))
    before = {name: value.clone() for name, value in opened.model.state_dict().items()}
    with pytest.raises(RuntimeError, match="inside"), quantised(opened, 4, 8):
        raise RuntimeError("inside")
    assert all(value.equal(before[name]) for name, value in opened.model.state_dict().items())
