"""What is said about a model before it is loaded: routers, memory, support; trial and shift."""

from __future__ import annotations

import json
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.utils import logging as reports

from tests.support.models import save, save_tiny, tiny_olmoe
from tests.support.moe_types import tiny_config, tiny_model
from tests.support.stored import save_mxfp4
from trace_engine.adapters import NO_ADAPTERS
from trace_engine.config import ModelConfig
from trace_engine.errors import InputError, ModelError
from trace_engine.models import inspect_model, open_model, quantised, shift, sites, trial
from trace_engine.models.inspection import inspect_closely
from trace_engine.models.memory import Machine
from trace_engine.models.shift import dtype_shift
from trace_engine.models.trial import try_experts
from trace_engine.progress import Progress
from trace_engine.spelling import size
from trace_engine.stored import STAYS_PACKED


def config(folder: Path, **settings: str) -> ModelConfig:
    return ModelConfig(source=str(folder), **settings)  # type: ignore[arg-type]


def never(*_: object, **__: object) -> None:
    raise AssertionError("weights were loaded")


def test_a_model_is_looked_at_without_its_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_tiny("qwen3_moe", tmp_path)
    monkeypatch.setattr("trace_engine.models.open._load", never)
    heard: list[Progress] = []
    found = inspect_closely(config(folder), report=heard.append)
    assert found.info == inspect_model(config(folder))
    data = json.loads(json.dumps(found.to_dict()))
    assert [site["layer"] for site in data["sites"]] == [0, 2]
    assert {site["router"] for site in data["sites"]} == {"softmax top-k"}
    assert data["memory_problem"] is None
    assert data["memory"]["training"] > 3 * data["memory"]["weights"]
    everything = ("tap", "drop", "reroute", "selected experts", "lora")
    answers = {item["what"]: item["answer"] for item in data["support"]}
    assert answers == dict.fromkeys(everything, "yes")
    assert [p.done for p in heard] == sorted(p.done for p in heard)


@pytest.mark.parametrize(
    "model_type", ["gemma4", "glm5_next", "jetmoe", "qwen4_exp", "qwen4_exp_text"]
)
def test_types_whose_forward_asks_for_values_are_looked_at_without_their_weights_too(
    model_type: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save(tiny_model(model_type), tmp_path)
    monkeypatch.setattr("trace_engine.models.open._load", never)
    monkeypatch.setattr("trace_engine.models.open.file_hashes", never)
    monkeypatch.setattr("trace_engine.models.inspection.machine_memory", lambda: Machine(1000))
    found = inspect_closely(config(folder), hashed=False)
    assert set(found.info.experts_per_token) == {2}
    assert all("top-k" in kind for kind in found.routers)
    assert "this machine has" in (found.memory_problem or "")
    assert not any("loaded" in note for note in found.notes)
    assert try_experts(config(folder), tokens=16, seconds=0.001).timings


def test_a_type_that_nothing_can_be_told_of_is_loaded_if_there_is_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain = sites.send_tokens

    def only_real(model: Any, at: Any) -> None:
        if next(model.parameters()).is_meta:
            raise NotImplementedError("no values")
        plain(model, at)

    monkeypatch.setattr(sites, "send_tokens", only_real)
    monkeypatch.setattr("trace_engine.models.open.file_hashes", never)
    found = inspect_closely(config(tiny_olmoe()), hashed=False)
    assert (found.info.fingerprint, found.info.experts_per_token) == ("", (2, 2))
    assert any("so they were loaded" in note for note in found.notes)
    monkeypatch.setattr("trace_engine.models.open._load", never)
    monkeypatch.setattr("trace_engine.models.memory.machine_memory", lambda: Machine(1000))
    with pytest.raises(ModelError, match=r"this machine has 1\sKiB free.*Nothing was read"):
        inspect_closely(config(tiny_olmoe()), hashed=False)


def test_files_are_not_read_unless_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trace_engine.models.open.file_hashes", never)
    assert inspect_closely(config(tiny_olmoe()), hashed=False).info.fingerprint == ""


def test_looking_shows_no_bar_of_loading_and_leaves_bars_as_they_were(
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert reports.is_progress_bar_enabled()
    inspect_closely(config(tiny_olmoe()), hashed=False)
    assert "Loading weights" not in capfd.readouterr().err
    assert reports.is_progress_bar_enabled()
    open_model(config(tiny_olmoe()))
    assert "Loading weights" in capfd.readouterr().err  # else this test would prove nothing


def test_too_little_memory_is_said_and_not_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trace_engine.models.inspection.machine_memory", lambda: Machine(1000))
    problem = inspect_closely(config(tiny_olmoe()), hashed=False).memory_problem
    assert problem is not None
    assert re.search(r"this machine has 1\sKiB free", problem)


def test_shared_experts_are_shown_as_the_configuration_counts_them(tmp_path: Path) -> None:
    found = inspect_closely(config(save_tiny("deepseek_v3", tmp_path)), hashed=False)
    assert found.info.shared_experts is True
    assert found.to_dict()["shared_settings"] == {"n_shared_experts": 1}
    width = tiny_config("qwen2_moe").shared_expert_intermediate_size
    found = inspect_closely(config(save(tiny_model("qwen2_moe"), tmp_path / "q")), hashed=False)
    assert found.shared == {"shared_expert_intermediate_size": width}
    assert inspect_closely(config(tiny_olmoe()), hashed=False).shared == {}


def test_lora_needs_fused_experts(tmp_path: Path) -> None:
    support = inspect_closely(config(save_tiny("dbrx", tmp_path)), hashed=False).support
    answers = {item.what: item for item in support}
    assert answers["selected experts"].answer == "yes"
    assert answers["lora"].answer == "no"
    assert answers["lora"].why == f"layers 0, 1: {NO_ADAPTERS}"


def test_the_table_of_models_gives_the_same_reason_for_no_lora() -> None:
    page = (Path(__file__).parents[2] / "docs" / "models.md").read_text("utf-8")
    [row] = [line for line in page.splitlines() if line.startswith("| dbrx ")]
    assert f"LoRA: {NO_ADAPTERS}" in row


def test_notes_say_which_size_is_meant_of_a_checkpoint_that_is_unpacked(tmp_path: Path) -> None:
    save_mxfp4(tmp_path)
    found = inspect_closely(config(tmp_path), hashed=False)
    files = size((tmp_path / "model.safetensors").stat().st_size)
    [note] = found.notes
    assert f"stored as mxfp4 ({files} of files) and is unpacked to bfloat16" in note
    assert "that of the unpacked weights" in note
    opened = open_model(config(tmp_path)).model
    assert found.need.weights == sum(
        t.numel() * t.element_size() for t in (*opened.parameters(), *opened.buffers())
    )


@pytest.fixture
def packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint stored in 8 bits by bitsandbytes, as if the package were here."""
    folder = save_tiny("olmoe", tmp_path)
    file = folder / "config.json"
    form = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    file.write_text(json.dumps(json.loads(file.read_text()) | {"quantization_config": form}))
    monkeypatch.setattr("trace_engine.models.inspection.check_stored", lambda files: None)
    return folder


def test_a_checkpoint_that_stays_packed_cannot_train_and_its_size_is_named_as_unpacked(
    packed: Path,
) -> None:
    found = inspect_closely(config(packed), hashed=False)
    answers = {item.what: item for item in found.support}
    assert [answers[what].answer for what in ("tap", "selected experts", "lora")] == [
        "yes", "no", "no",
    ]  # fmt: skip
    assert answers["lora"].why == answers["selected experts"].why == STAYS_PACKED
    [note] = found.notes
    assert "stays packed in memory" in note
    assert "unpacked float32 weights, the most that it can take" in note
    assert found.need.loading == (packed / "model.safetensors").stat().st_size


@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="the extra is not installed")
def test_notes_say_what_quantisation_leaves(tmp_path: Path) -> None:
    folder = save_tiny("olmoe", tmp_path)
    [small] = inspect_closely(config(folder, quantization="8bit"), hashed=False).notes
    assert "routed experts" in small


def test_looking_refuses_a_missing_package_as_loading_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantised, "find_spec", lambda name: None)
    folder = save_tiny("olmoe", tmp_path)
    for look in (open_model, inspect_model, inspect_closely):
        with pytest.raises(ModelError, match="needs the package bitsandbytes"):
            look(config(folder, quantization="8bit"))


def test_the_trial_times_every_allowed_way_and_auto_stays_the_rule() -> None:
    found = try_experts(config(tiny_olmoe()), tokens=32, seconds=0.01)
    names = [timing.implementation for timing in found.timings]
    assert names == ["eager", "grouped_mm", "batched_mm"]
    assert all(t.forward_ms > 0 and t.training_ms > 0 and t.forwards >= 2 for t in found.timings)
    assert found.automatic == "grouped_mm"
    assert found.skipped == ()
    by_name = {timing.implementation: timing for timing in found.timings}
    assert by_name[found.fastest_training].training_ms == min(
        timing.training_ms for timing in found.timings
    )
    assert "8 experts, top-2, hidden 32, 32 tokens, float32, cpu" in found.shape


@pytest.mark.parametrize("family", ["mixtral", "deepseek_v3", "gpt_oss", "dbrx"])
def test_the_trial_works_on_other_layouts(family: str, tmp_path: Path) -> None:
    found = try_experts(config(save_tiny(family, tmp_path)), tokens=16, seconds=0.001)
    assert found.timings[0].implementation == "eager"


def test_the_trial_is_refused_where_it_would_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "machine_memory", lambda: Machine(1000))
    with pytest.raises(ModelError, match="Nothing was timed"):
        try_experts(config(tiny_olmoe()))


TEXTS = [f"document {number} about {number * 7}" for number in range(30)]


def test_the_same_precision_moves_nothing() -> None:
    settings = config(tiny_olmoe(), dtype="float32")
    found = dtype_shift(settings, settings, TEXTS)
    assert (found.choices_changed, found.counts_moved) == (0.0, 0.0)
    assert found.documents == 30
    assert found.choices == found.tokens * 2 * 2


def test_bfloat16_runs_on_the_cpu_and_its_shift_is_counted() -> None:
    settings = config(tiny_olmoe(), dtype="bfloat16")
    found = dtype_shift(settings, config(tiny_olmoe(), dtype="float32"), TEXTS)
    assert (found.dtype, found.reference) == ("bfloat16", "float32")
    # A choice that changes leaves one expert and enters another, so counts move at most as much.
    assert 0 < found.counts_moved <= found.choices_changed < 0.2


def test_the_shift_counts_choices_not_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two tokens, one site, K = 2: order is no change; one expert of four choices is another."""
    first = torch.tensor([[0, 1], [2, 3]]).numpy()
    second = torch.tensor([[1, 0], [2, 4]]).numpy()
    answers = [[first, first], [second, first]]
    monkeypatch.setattr(shift, "_choices", lambda *_: answers.pop(0))
    found = dtype_shift(config(tiny_olmoe()), config(tiny_olmoe()), ["a"])
    assert found.choices == 8
    assert found.choices_changed == pytest.approx(1 / 8)
    assert found.counts_moved == pytest.approx(1 / 8)


def test_the_sample_is_bounded_and_an_empty_one_refused() -> None:
    settings = config(tiny_olmoe())
    found = dtype_shift(settings, settings, TEXTS, most_tokens=50)
    assert found.documents < 5
    with pytest.raises(InputError, match="No document has a token"):
        dtype_shift(settings, settings, [])
