"""What a model needs against what is free: exact weights, stated estimates, one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.support.models import save_tiny, tiny_olmoe
from trace_engine.config import ModelConfig
from trace_engine.models import memory, open_model
from trace_engine.models.files import locate
from trace_engine.models.memory import Machine, MemoryNeed, free_on, memory_need, too_little
from trace_engine.models.open import outline
from trace_engine.models.sites import find_sites
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


def test_a_container_has_less_than_its_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    whole = memory.machine_memory().main
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("700000\n")
    (tmp_path / "memory.stat").write_text("anon 400000\ninactive_file 300000\n")
    assert memory.machine_memory().main == 600_000 < whole
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.machine_memory().main > 600_000


def test_sizes_read_well() -> None:
    assert size(13.84 * 2**30) == f"13.8{NBSP}GiB"
    assert size(17 * 2**20) == f"17{NBSP}MiB"
    assert size(210_000) == f"205{NBSP}KiB"
