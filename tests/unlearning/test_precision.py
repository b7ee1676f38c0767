"""Mixed precision narrows the training forwards and nothing else, for every method and term."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.models.conformance import opened
from tests.unlearning.cases import tiny_config, without_clock
from trace_engine.config import UnlearnConfig, identity_of
from trace_engine.errors import ModelError
from trace_engine.methods import METHODS, RETAIN_TERMS
from trace_engine.models import Encoded, backbone
from trace_engine.unlearning import Session, drive
from trace_engine.unlearning.precision import check_mixed, mixed

EXACT = {"rule": "exact", "hardness": 0.5}


def rows_of(config: UnlearnConfig) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    with Session(config) as session:
        drive(session, on_row=rows.append)
        assert {t.dtype for t in session.trainable.tensors().values()} == {torch.float32}
        gradients = [p.grad.dtype for p in session.trainable.parameters() if p.grad is not None]
        assert set(gradients) == {torch.float32}
    return without_clock(rows)


CASES = [
    *[{"method": m, "weights": {"rule": "uniform"}} for m in METHODS],
    *[{"retain_term": t, "weights": EXACT} for t in RETAIN_TERMS],
    {"weights": EXACT | {"routing": "frozen"}},
    {"control": "uniform_matched_norm", "weights": EXACT},
    {"micro_batch_size": 2, "weights": EXACT | {"normalise": "batch"}},
    {"trainable": {"kind": "selected_experts"}},
    {"trainable": {"kind": "lora", "lora_rank": 2}},
]


@pytest.mark.parametrize("settings", CASES, ids=lambda s: "-".join(map(str, s.values())))
def test_the_curve_is_that_of_full_precision_to_bfloat16(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    config = tiny_config(tmp_path, max_steps=2, **settings)
    full = rows_of(config)
    narrow = rows_of(config.model_copy(update={"mixed_precision": "bfloat16"}))
    # The start is measured as the saved model is: in full precision, in both runs.
    assert narrow[0] == full[0]
    for one, other in zip(narrow[1:], full[1:], strict=True):
        if one["kind"] == "train":
            assert one["retain_nll"] != other["retain_nll"]
            # bfloat16 has 8 bits of mantissa; routing may move a token beside that.
            for key in ("forget_nll", "retain_nll"):
                assert one[key] == pytest.approx(other[key], rel=0.02), key
        else:
            for key in ("forget_nll", "retain_nll"):
                assert one[key]["value"] == pytest.approx(other[key]["value"], rel=0.02), key


def test_none_changes_nothing_and_is_no_part_of_an_identity(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, max_steps=1)
    assert "mixed_precision" not in identity_of(config)
    narrow = config.model_copy(update={"mixed_precision": "bfloat16"})
    assert identity_of(narrow)["mixed_precision"] == "bfloat16"
    with Session(narrow) as session:
        assert session.facts()["mixed_precision"] == "bfloat16"


def test_npo_starts_at_its_known_value_in_mixed_precision_too(tmp_path: Path) -> None:
    """The reference is taken in the precision of the forwards that are compared with it."""
    config = tiny_config(tmp_path, method="npo", beta=0.1, mixed_precision="bfloat16")
    with Session(config) as session:
        row = session.train_step()
        assert row["forget_loss"] == pytest.approx(13.8629436, rel=2e-3)


def test_products_are_narrow_inside_and_only_there(tmp_path: Path) -> None:
    with Session(tiny_config(tmp_path)) as session:
        model = session.opened.model
        ids = torch.tensor([[1, 40, 50, 60]])
        with mixed("bfloat16", session.opened.device):
            assert model(input_ids=ids).logits.dtype == torch.bfloat16
        with mixed("none", session.opened.device):
            assert model(input_ids=ids).logits.dtype == torch.float32
        assert backbone(model)(input_ids=ids)[0].dtype == torch.float32


def test_a_model_whose_code_cannot_mix_precisions_is_refused_at_once() -> None:
    found = opened("dbrx")
    document = Encoded((1, 2, 3, 4, 5), 1)
    check_mixed(found, document, "none")
    with pytest.raises(ModelError, match=r"cannot compute in mixed precision \(.*to none"):
        check_mixed(found, document, "bfloat16")
