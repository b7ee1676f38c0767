"""Every type of the installed transformers that can have routed experts, found by enumeration.

A type that is new in a later transformers turns up here by itself: as covered, or as a failing
test. The sweep takes a minute of one core, so all of it is in the default tier.
"""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import save_file
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from tests.models import table
from tests.models.conformance import BY_LOGITS, CHECKS, opened, outcome
from tests.support.models import save
from tests.support.moe_types import moe_types, tiny_model
from trace_engine.adapters import NO_ADAPTERS, WITHOUT_ADAPTERS
from trace_engine.config import ModelConfig
from trace_engine.errors import ModelError
from trace_engine.models import find_sites, inspect_model, open_model, unmapped_blocks
from trace_engine.models.families import UNTAPPED
from trace_engine.models.inspection import inspect_closely
from trace_engine.models.routers import router_kinds
from trace_engine.models.sites import experts_per_token

COVERED = [name for name in moe_types() if name not in UNTAPPED]
REROUTED_IN_PART = {"deepseek_v4"}
# Dense, with settings that the builder's tiny sizes break, or with a package that may be missing.
NOT_TINY = {
    "bamba", "cohere_compass_text", "falcon_h1", "gemma3n", "gemma3n_text", "gemma4_assistant",
    "gemma4_unified_assistant", "gpt-sw3", "gpt2", "gpt_bigcode", "mamba2", "musicgen",
    "musicgen_melody", "nemotron", "openai-gpt", "reformer",
}  # fmt: skip


@pytest.fixture(autouse=True)
def quiet() -> None:
    transformers.logging.set_verbosity_error()


def test_enumeration_finds_families_whatever_they_call_their_experts() -> None:
    found = moe_types()
    known = {"olmoe", "mixtral", "deepseek_v3", "gpt_oss", "dbrx", "llama4", "jetmoe", "doge"}
    assert known | {"nemotron_h", "longcat_flash", "zaya", "qwen3_vl_moe"} <= set(found)
    assert not {"llama", "gpt2", "bamba", "switch_transformers"} & set(found)


@pytest.mark.slow
def test_no_causal_type_outside_the_enumeration_has_a_routed_block() -> None:
    outside = [t for t in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES if t not in moe_types()]
    built = 0
    for model_type in outside:
        try:
            with torch.device("meta"):
                model = tiny_model(model_type)
        except Exception:
            if model_type not in NOT_TINY:
                raise
            continue
        built += 1
        assert not find_sites(model), model_type
        assert not unmapped_blocks(model), model_type
    assert built >= len(outside) - len(NOT_TINY) > 0


@pytest.mark.parametrize("model_type", ["olmoe", "mixtral", "qwen3_moe"])
def test_families_whose_next_best_must_be_told_from_logits_have_such_routers(
    model_type: str,
) -> None:
    model = opened(model_type)
    assert set(router_kinds(model.model, model.sites)) <= BY_LOGITS


@pytest.mark.parametrize("check", list(CHECKS))
@pytest.mark.parametrize("model_type", COVERED)
def test_every_type(model_type: str, check: str) -> None:
    why = outcome(model_type, check)
    if check == "LoRA" and model_type in WITHOUT_ADAPTERS:
        assert NO_ADAPTERS in why
    elif check == "reroute" and model_type in REROUTED_IN_PART:
        assert why
    else:
        assert why == ""


@pytest.mark.parametrize("model_type", COVERED)
def test_every_type_is_the_same_without_its_weights(model_type: str) -> None:
    """Slots a token and the kind of router, off the meta device and off a real forward."""
    real = tiny_model(model_type)
    with torch.device("meta"):
        shell = tiny_model(model_type)
    sites, empty = find_sites(real), find_sites(shell)
    assert [site.name for site in empty] == [site.name for site in sites]
    assert experts_per_token(shell, empty) == experts_per_token(real, sites)
    assert router_kinds(shell, empty) == router_kinds(real, sites)


def test_the_table_is_what_the_checks_say() -> None:
    committed = table.PAGE.read_text(encoding="utf-8")
    assert table.outdated(committed, table.page()) == [], "run: python -m tests.models.table"


def test_a_table_made_with_another_transformers_is_compared_by_the_rows_of_both() -> None:
    """What is new or gone there is the other tests' matter; a row of both must say the same."""
    row, other = "| olmoe | OlmoeForCausalLM | yes |  |", "| gone | GoneForCausalLM | yes |  |"
    committed = f"in transformers 0.1 that can\n{row}\n{other}\n- `doge`: keys.\n"
    now = (
        f"in transformers {table.version()} that can\n{row}\n| new | N | no |  |\n- `doge`: keys.\n"
    )
    assert table.outdated(committed, now) == []
    assert table.outdated(committed, now.replace("yes", "no")) == [row]
    assert table.outdated(committed, now.replace("keys", "tables")) == ["- `doge`: keys."]
    assert table.outdated(committed, "") == ["no type of the page is known to this transformers"]
    # Of this very transformers, the whole page.
    same = committed.replace("0.1", table.version())
    assert table.outdated(same, same) == []
    assert table.outdated(same, now) == [other]


@pytest.mark.parametrize("model_type", sorted(UNTAPPED))
def test_what_cannot_be_mapped_is_refused_in_a_sentence(model_type: str, tmp_path: Path) -> None:
    assert model_type in moe_types()
    (tmp_path / "config.json").write_text(f'{{"model_type": "{model_type}"}}')
    save_file({"weight": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=re.escape(UNTAPPED[model_type])) as refused:
        open_model(ModelConfig(source=str(tmp_path)))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("model_type", sorted(UNTAPPED))
def test_a_refusal_names_a_module_that_there_is(model_type: str) -> None:
    code = import_module(f"transformers.models.{model_type}.modeling_{model_type}")
    named = re.findall(r"\b[A-Z]\w*[a-z][A-Z]\w*", UNTAPPED[model_type])
    assert named
    assert all(issubclass(getattr(code, name), torch.nn.Module) for name in named)


def test_the_refusal_of_doge_names_its_router() -> None:
    with torch.device("meta"):
        modules = dict(tiny_model("doge", is_moe=True, num_experts=16).named_modules())
    [name] = re.findall(r"model\.layers\.N\.\S+(?=\))", UNTAPPED["doge"])
    assert type(modules[name.replace("N", "0")]) is torch.nn.Linear
    assert type(modules["model.layers.0.mlp"]).__name__ == "DogeCDMoE"


PLAIN = [t for t in COVERED if t in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and t != "llama4"]


@pytest.mark.parametrize(
    "model_type",
    # Wrappers of several senses are where loading differs from building.
    [pytest.param(t, marks=[pytest.mark.slow] if t in PLAIN else []) for t in COVERED],
)
def test_every_type_opens_from_a_folder_as_it_was_looked_at(
    model_type: str, tmp_path: Path
) -> None:
    save(tiny_model(model_type), tmp_path)
    config = ModelConfig(source=str(tmp_path), device="cpu")
    opened = open_model(config)
    assert opened.info == inspect_model(config)
    assert opened.info.model_type.removesuffix("_text") == model_type.removesuffix("_text")
    assert set(opened.info.num_experts) == {8}
    assert all(count > 0 for count in opened.info.expert_parameters)
    for site in opened.sites:
        chosen = getattr(site.module, "config", None)
        if type(opened.model)._can_set_experts_implementation() and chosen is not None:
            assert chosen._experts_implementation == opened.info.experts_implementation


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("model_type", COVERED)
def test_every_type_weighs_in_half_precision_what_was_said(
    model_type: str, dtype: Any, tmp_path: Path
) -> None:
    """Also where a family keeps some tensors in float32."""
    if (model_type, dtype) == ("deepseek_v4", "float16"):
        pytest.skip("its code does not mix the precisions; test_open has its refusal")
    save(tiny_model(model_type), tmp_path)
    config = ModelConfig(source=str(tmp_path), dtype=dtype, device="cpu")
    found, opened = inspect_closely(config, hashed=False), open_model(config, hashed=False)
    assert opened.info == found.info
    assert opened.info.dtype == dtype
    tensors = [*opened.model.parameters(), *opened.model.buffers()]
    assert found.need.weights == sum(t.numel() * t.element_size() for t in tensors)


def test_second_routed_blocks_are_named_and_no_row() -> None:
    jetmoe, ernie = tiny_model("jetmoe"), tiny_model("ernie4_5_vl_moe")
    assert [site.name for site in find_sites(jetmoe)] == [f"model.layers.{n}.mlp" for n in range(3)]
    assert {n.rsplit(".", 2)[1] for n in unmapped_blocks(jetmoe)} == {"self_attention"}
    assert all("text_moe" in site.name for site in find_sites(ernie))
    assert all("vision_moe" in name for name in unmapped_blocks(ernie))
    assert not unmapped_blocks(tiny_model("olmoe"))
