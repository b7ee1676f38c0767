"""A batch that is gone through in parts makes the step of the whole batch, in double precision, for
every method, retain term, normalising and control.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.unlearning.cases import tiny_config
from trace_engine.config import UnlearnConfig, identity_of
from trace_engine.methods import METHODS, RETAIN_TERMS
from trace_engine.routing import Profile
from trace_engine.unlearning import Session
from trace_engine.unlearning.schedule import parts_of
from trace_engine.unlearning.terms import MEANS

EXACT = {"rule": "exact", "hardness": 0.7}
UNIFORM = {"rule": "uniform"}
ALIVE: dict[str, dict[str, Any]] = {"simnpo": {"beta": 0.5}}
"""At its own beta of 4.5 SimNPO's term is 5e-13 at this start: whatever it did would pass."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sets")


@pytest.fixture(scope="module")
def profile(folder: Path) -> Profile:
    with Session(config_of(folder, {}, None)) as session:
        return session.profile


def config_of(folder: Path, settings: dict[str, Any], size: int | None) -> UnlearnConfig:
    config = tiny_config(
        folder, **{"batch_size": 16, "micro_batch_size": size, "weights": EXACT} | settings
    )
    # Grouped matrix products have no double precision.
    eager = config.model.model_copy(update={"experts_implementation": "eager"})
    return config.model_copy(update={"model": eager})


def update(
    folder: Path, profile: Profile, settings: dict[str, Any], size: int | None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The gradients of the second step in double precision, and its two terms' figures."""
    config = config_of(folder, settings, size)
    # Methods on answers have a forget set of their own.
    known = None if METHODS[config.method].pairs else profile
    with Session(config, profile=known) as session:
        session.opened.model.double()
        if session._copy is not None:
            session._copy._opened.model.double()
        session.step = 1
        forget = session._forget_pass(session._start())
        retain, row = session._retain_pass()
        found = zip(session.trainable.names, session.trainable.parameters(), strict=True)
        gradients = {name: p.grad.clone() for name, p in found if p.grad is not None}
        figures = {"forget": forget[0], "retain": retain, **forget[1], **row}
        return gradients, {name: value for name, value in figures.items() if value is not None}


CASES = [
    *[pytest.param({"method": m, "weights": UNIFORM} | ALIVE.get(m, {}), id=m) for m in METHODS],
    *[pytest.param({"retain_term": t}, id=t) for t in RETAIN_TERMS],
    *[
        pytest.param({"weights": EXACT | {"normalise": n, "routing": r}}, id=f"{n}-{r}")
        for n in ("set", "batch", "sequence", "none")
        for r in ("current", "frozen")
    ],
    pytest.param(
        {"weights": EXACT | {"normalise": "batch"}, "retain_term": "kl", "method": "simnpo"}
        | ALIVE["simnpo"],
        id="batch-kl",
    ),
    *[
        pytest.param({"control": c, "weights": EXACT | {"normalise": n}}, id=f"{c}-{n}")
        for c in ("uniform_matched_norm", "shuffled_weights", "random_experts")
        for n in ("set", "batch")
    ],
    pytest.param({"trainable": {"kind": "lora", "lora_rank": 2}}, id="lora"),
    pytest.param({"method": "rmu"}, id="rmu-weighted"),
]


@pytest.mark.slow
@pytest.mark.parametrize("settings", CASES)
def test_parts_add_up_to_the_whole_batch(
    folder: Path, profile: Profile, settings: dict[str, Any]
) -> None:
    whole, row = update(folder, profile, settings, None)
    assert sum(float(g.abs().sum()) for g in whole.values()) > 0
    if settings.get("method") == "simnpo":
        assert row["forget"] > 0.01
    for size in (4, 5):
        parts, parts_row = update(folder, profile, settings, size)
        torch.testing.assert_close(parts, whole, rtol=1e-10, atol=1e-12)
        assert parts_row == pytest.approx(row, rel=1e-10, abs=1e-12)


@pytest.mark.parametrize("settings", [{"method": "graddiff"}, {"method": "npo"}])
def test_a_mean_of_parts_means_would_be_another_step(
    folder: Path, profile: Profile, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tests above could not fail if all parts had as many labels or documents."""
    whole, _ = update(folder, profile, settings, 5)
    monkeypatch.setitem(MEANS, settings["method"], lambda documents: 1)
    wrong, _ = update(folder, profile, settings, 5)
    different = [n for n in whole if not torch.allclose(whole[n], wrong[n], rtol=1e-3, atol=1e-9)]
    assert different


@pytest.mark.parametrize("kind", ["selected_experts", "top_experts"])
def test_single_experts_add_up_too(folder: Path, profile: Profile, kind: str) -> None:
    """Their slices are float32 leaves of their own, so to its precision."""
    settings = {"trainable": {"kind": kind}}
    rows, weights = [], []
    for size in (None, 3):
        config = config_of(folder, settings, size)
        with Session(config, profile=profile) as session:
            rows.append([session.train_step() for _ in range(3)])
            weights.append({name: t.clone() for name, t in session.trainable.tensors().items()})
    for one, other in zip(*rows, strict=True):
        assert ("anchor_loss" in one) == (kind == "top_experts")
        keys = ("forget_loss", "retain_loss", "loss", "grad_norm", "mean_weight", "weighted_gap")
        for key in (*keys, *(["anchor_loss"] if "anchor_loss" in one else [])):
            assert one[key] == pytest.approx(other[key], rel=1e-4), key
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-3, atol=1e-4)


def test_a_part_as_large_as_the_batch_is_bitwise_the_batch(folder: Path, profile: Profile) -> None:
    rows = []
    for size in (None, 16, 99):
        with Session(config_of(folder, {}, size), profile=profile) as session:
            row = session.train_step()
        rows.append({key: value for key, value in row.items() if key != "seconds"})
    assert rows[0] == rows[1] == rows[2]


def test_the_setting_is_part_of_a_run_only_where_it_is_given(folder: Path) -> None:
    assert "micro_batch_size" not in identity_of(config_of(folder, {}, None))
    assert identity_of(config_of(folder, {}, 4))["micro_batch_size"] == 4


@pytest.mark.parametrize("processes", [1, 2, 3, 5, 20])
@pytest.mark.parametrize("size", [None, 1, 4])
def test_processes_and_parts_cover_the_batch_once_in_order(
    processes: int, size: int | None
) -> None:
    batch = list(range(16))
    seen: list[int] = []
    for rank in range(processes):
        parts = parts_of(len(batch), size, rank, processes)
        assert all(len(batch[part]) <= (size or 16) for part in parts)
        assert all(batch[part] for part in parts)
        own = sum(len(batch[part]) for part in parts)
        assert own in (16 // processes, 16 // processes + 1)
        seen += [index for part in parts for index in batch[part]]
    assert seen == batch
