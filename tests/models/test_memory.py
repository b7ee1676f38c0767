"""What a model needs against what is free: exact weights, stated estimates, one sentence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil  # type: ignore[import-untyped]
import pytest
import torch

from tests.support.models import save, save_tiny, tiny_olmoe
from tests.support.moe_types import tiny_model
from trace_engine import limits
from trace_engine.config import ModelConfig
from trace_engine.errors import ModelError
from trace_engine.models import memory, open_model
from trace_engine.models.files import locate
from trace_engine.models.memory import (
    Machine,
    MemoryNeed,
    enough_memory,
    free_on,
    memory_need,
    too_little,
)
from trace_engine.models.open import outline
from trace_engine.models.sites import expert_parameters, find_sites
from trace_engine.spelling import NBSP, size


def need_of(folder: Path, quantization: str = "none", **settings: str) -> MemoryNeed:
    config = ModelConfig(source=str(folder), **settings)  # type: ignore[arg-type]
    model = outline(locate(config.source), config)
    sites = find_sites(model)
    return memory_need(model, sites, (2,) * len(sites), quantization=quantization)


@pytest.mark.parametrize("family", ["olmoe", "mixtral", "deepseek_v3", "dbrx"])
def test_the_shell_weighs_what_the_loaded_model_weighs(family: str, tmp_path: Path) -> None:
    folder = save_tiny(family, tmp_path)
    opened = open_model(ModelConfig(source=str(folder)))
    tensors = [*opened.model.parameters(), *opened.model.buffers()]
    need = need_of(folder)
    assert need.weights == sum(t.numel() * t.element_size() for t in tensors)
    experts = sum(
        each * number * 4
        for each, number in zip(opened.info.expert_parameters, opened.info.num_experts, strict=True)
    )
    assert need.experts == experts


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_what_a_family_keeps_in_float32_is_weighed_so(dtype: Any, tmp_path: Path) -> None:
    folder = save_tiny("deepseek_v3", tmp_path)
    opened = open_model(ModelConfig(source=str(folder), dtype=dtype))
    tensors = [*opened.model.parameters(), *opened.model.buffers()]
    assert {t.dtype for t in tensors} == {getattr(torch, dtype), torch.float32}
    need = need_of(folder, dtype=dtype)
    assert need.weights == sum(t.numel() * t.element_size() for t in tensors)


def test_loading_peaks_one_layers_experts_above_the_weights() -> None:
    """Checkpoints keep experts one by one, and the largest layer's are stacked beside them."""
    # Eight experts of (2 * 16, 32) gate and up and (32, 16) down, in float32.
    one_layer = 8 * (2 * 16 * 32 + 32 * 16) * 4
    for layers in (1, 2):
        need = need_of(tiny_olmoe(layers=layers))
        assert need.experts == layers * one_layer
        assert need.loading == need.weights + one_layer
    half = need_of(tiny_olmoe(), dtype="bfloat16")
    assert half.loading == half.weights + one_layer // 2


def test_a_tower_that_stays_in_float32_does_not_keep_the_rest_there(tmp_path: Path) -> None:
    """Its tensors are the first of the model, and say nothing about what it computes in."""
    folder = save(tiny_model("nemo_speechlm"), tmp_path)
    opened = open_model(ModelConfig(source=str(folder), dtype="bfloat16", device="cpu"))
    assert next(opened.model.parameters()).dtype == torch.float32
    for site in opened.sites:
        assert {p.dtype for p, _ in expert_parameters(site).values()} == {torch.bfloat16}
    need = need_of(folder, dtype="bfloat16")
    assert (opened.info.dtype, need.precision) == ("bfloat16", "bfloat16")
    tensors = [*opened.model.parameters(), *opened.model.buffers()]
    assert need.weights == sum(t.numel() * t.element_size() for t in tensors)


def test_half_the_precision_is_half_the_bytes() -> None:
    full, half = need_of(tiny_olmoe()), need_of(tiny_olmoe(), dtype="bfloat16")
    assert half.training * 2 == full.training
    assert half.experts * 2 == full.experts
    assert half.batch * 2 == full.batch
    assert (full.precision, half.precision) == ("float32", "bfloat16")


def test_quantisation_leaves_the_experts() -> None:
    full = need_of(tiny_olmoe())
    eight, four = (need_of(tiny_olmoe(), bits) for bits in ("8bit", "4bit"))
    linears = 2 * 4 * 32 * 32  # two layers' q, k, v and o
    assert eight.weights == full.weights - 3 * linears
    assert four.weights == full.weights - 4 * linears + linears // 2
    assert eight.experts == four.experts == full.experts


def test_a_batch_takes_what_the_estimate_says_within_a_factor_of_two() -> None:
    """Against the largest sum of live tensors in a real forward, on a shape where experts rule."""
    folder = tiny_olmoe(hidden=128, experts=16, top_k=4)
    opened = open_model(ModelConfig(source=str(folder), device="cpu"))
    tokens = 2048
    need = memory_need(opened.model, opened.sites, (4, 4), tokens=tokens)
    ids_BS = torch.randint(4, 260, (16, tokens // 16))
    with torch.no_grad(), torch.profiler.profile(profile_memory=True) as profiled:
        opened.model.base_model(input_ids=ids_BS, use_cache=False)
    live = peak = 0
    assert profiled.profiler is not None
    for event in profiled.profiler.kineto_results.events():
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    assert need.batch / 2 < peak < 2 * need.batch


def test_free_memory_follows_the_place() -> None:
    machine = Machine(100, (10, 20))
    assert [free_on(machine, p) for p in ("cpu", "cuda", "cuda:1", "cuda:7", "spread")] == [
        100, 10, 20, 0, 130,
    ]  # fmt: skip


def test_the_sentence_names_what_helps() -> None:
    need = need_of(tiny_olmoe())
    poor = Machine(0, (0,))
    config = ModelConfig()
    assert too_little("m", need, "cpu", config, Machine(need.loading)) is None
    said = too_little("m", need, "cuda", config, poor)
    assert said is not None
    assert said.startswith("m needs about")
    assert f"cuda has 0{NBSP}KiB free" in said
    assert "set device to auto" in said
    half = need_of(tiny_olmoe(), dtype="bfloat16")
    assert "halves" in said
    assert "halves" not in (too_little("m", half, "cpu", config, poor) or "halves")


CONFIG = ModelConfig()
V1, V2 = (
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ("memory.max", "memory.current", "inactive_file"),
)


def group(folder: Path, names: tuple[str, str, str], limit: str, used: int = 700_000) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 400000\n{names[2]} 300000\n")


@pytest.mark.parametrize(
    ("groups", "mount", "inside", "names", "none"),
    [
        ("0::/\n", "", "", V2, "max"),
        # A container that sees its own group as the mount, by a name from outside.
        ("0::/docker/abc\n", "", "", V2, "max"),
        ("0::/user.slice/job\n", "", "user.slice", V2, "max"),
        ("1:cpu:/x\n5:memory:/jobs/seven\n0::/\n", "memory", "jobs/seven", V1, str(2**63 - 4096)),
        ("5:memory,cpu:/docker/abc\n", "memory", "", V1, str(2**63 - 4096)),
    ],
)
def test_a_container_has_less_than_its_machine(
    groups: str,
    mount: str,
    inside: str,
    names: tuple[str, str, str],
    none: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "_CGROUP", tmp_path / "mount")
    monkeypatch.setattr(limits, "_GROUPS", tmp_path / "groups")
    whole = memory.machine_memory().main
    (tmp_path / "groups").write_text(groups)
    folder = tmp_path / "mount" / mount / inside
    group(folder, names, "1000000")
    assert memory.machine_memory().main == 600_000 < whole
    group(folder, names, none)
    assert limits.container_room() == []
    # The least of a group and those above it counts.
    group(folder, names, "1000000")
    group(tmp_path / "mount" / mount, names, "900000")
    assert memory.machine_memory().main == 500_000


def test_a_limit_of_addresses_counts_the_files_that_are_mapped() -> None:
    need = need_of(tiny_olmoe())
    assert need.mapped == 0
    enough = need.loading + memory._LOADERS_ADDRESSES
    config = ModelConfig()

    def said(addresses: int, device: str = "cpu", mapped: int = 0) -> str | None:
        machine = Machine(2**60, (2**60,), addresses)
        return too_little("m", replace(need, mapped=mapped), device, config, machine)

    assert said(enough) is None
    assert said(enough + 5000, mapped=5000) is None
    for problem in (said(enough - 1), said(enough + 4999, mapped=5000)):
        assert problem is not None
        assert "(ulimit -v) leaves" in problem
    assert said(0, "cuda") is None


def test_the_address_space_left_is_the_limit_less_what_is_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert limits.address_room() is None
    taken = psutil.Process().memory_info().vms
    monkeypatch.setattr(limits.resource, "getrlimit", lambda _: (taken + 10**9, -1))
    room = limits.address_room()
    assert room is not None
    assert 9 * 10**8 < room < 11 * 10**8
    assert memory.machine_memory().addresses is not None


@pytest.mark.parametrize(
    "take",
    [
        lambda: torch.empty(2**55),
        lambda: np.empty(2**55),
        lambda: bytearray(2**60),
        lambda: (_ for _ in ()).throw(OSError(12, "Cannot allocate memory")),
        lambda: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA out of memory.")),
    ],
)
def test_a_real_lack_of_memory_is_one_sentence(take: Callable[[], object]) -> None:
    need = need_of(tiny_olmoe())
    said = r"^m: memory ran out while loading.*set dtype to"
    with pytest.raises(ModelError, match=said) as one, enough_memory("m", need, "cpu", CONFIG):
        take()
    assert size(need.loading) in str(one.value)
    said = r"while profiling, where a batch of 8,192 .*: lower tok"
    profiling = enough_memory("m", need, "cpu", CONFIG, running="profiling")
    with pytest.raises(ModelError, match=said), profiling:
        take()


def test_another_failure_is_no_lack_of_memory() -> None:
    guard = enough_memory("m", need_of(tiny_olmoe()), "cpu", CONFIG)
    with pytest.raises(RuntimeError, match="shapes"), guard:
        raise RuntimeError("shapes do not fit")


def test_sizes_read_well() -> None:
    assert size(13.84 * 2**30) == f"13.8{NBSP}GiB"
    assert size(17 * 2**20) == f"17{NBSP}MiB"
    assert size(210_000) == f"205{NBSP}KiB"
