"""Opening a model, and each refusal's own sentence."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    DogeConfig,
    SwitchTransformersConfig,
)

from tests.support.models import (
    save,
    save_tiny,
    save_tiny_dense,
    save_tiny_olmoe,
    tiny_olmoe,
    tiny_tokenizer,
)
from tests.support.moe_types import tiny_config as tiny_moe_config
from tests.support.moe_types import tiny_model
from trace_engine.config import ModelConfig
from trace_engine.errors import ModelError
from trace_engine.models import backbone, hub, inspect_model, open_model
from trace_engine.models.fit import out_of_place
from trace_engine.models.inspection import inspect_closely
from trace_engine.models.memory import Machine, MemoryNeed, memory_need
from trace_engine.models.open import choose_place

FAMILIES = ("olmoe", "qwen3_moe", "mixtral", "deepseek_v3", "gpt_oss")


def config(folder: Path | str, **settings: Any) -> ModelConfig:
    return ModelConfig(source=str(folder), **settings)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the tiny model that a test may damage."""
    return Path(shutil.copytree(tiny_olmoe(), tmp_path / "model"))


def test_a_folder_opens() -> None:
    opened = open_model(config(tiny_olmoe()))
    info = opened.info
    assert (info.architecture, info.model_type) == ("OlmoeForCausalLM", "olmoe")
    assert (info.layers, info.num_experts, info.experts_per_token) == ((0, 1), (8, 8), (2, 2))
    assert info.expert_parameters == (32 * 2 * 16 + 16 * 32,) * 2
    assert info.parameters == sum(p.numel() for p in opened.model.parameters())
    assert (info.dtype, info.device, info.vocab_size) == ("float32", "cpu", 260)
    assert opened.tokenizer.bos_token_id == 1
    assert not opened.model.training
    assert opened.device == torch.device("cpu")
    assert json.loads(json.dumps(info.to_dict())) == info.to_dict()


@pytest.mark.parametrize("family", FAMILIES)
def test_inspecting_says_the_same_without_loading_weights(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_tiny(family, tmp_path)
    loaded = open_model(config(folder)).info
    monkeypatch.setattr("trace_engine.models.open._load", _never)
    assert inspect_model(config(folder)) == loaded
    assert loaded.shared_experts is (family == "deepseek_v3")
    assert loaded.experts_per_token == (2,) * len(loaded.layers)


def test_the_backbone_has_no_head() -> None:
    opened = open_model(config(tiny_olmoe()))
    hidden_BSD = backbone(opened.model)(input_ids=torch.tensor([[1, 5]])).last_hidden_state
    assert hidden_BSD.shape == (1, 2, 32)


def test_the_fingerprint_follows_the_weights_and_the_tokenizer(
    tmp_path: Path, folder: Path
) -> None:
    first = inspect_model(config(folder))
    assert inspect_model(config(tiny_olmoe())).fingerprint == first.fingerprint
    other = save_tiny_olmoe(tmp_path / "other", seed=1)
    assert inspect_model(config(other)).fingerprint != first.fingerprint
    tokenizer = folder / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text() + "\n")
    changed = inspect_model(config(folder))
    assert changed.fingerprint != first.fingerprint
    different = {n for n in first.files if first.files[n] != changed.files[n]}
    assert different == {"tokenizer.json"}


@pytest.mark.parametrize("implementation", ["eager", "grouped_mm", "batched_mm"])
def test_experts_implementations_agree(implementation: str) -> None:
    ids_BS = torch.arange(4, 36)[None]
    chosen = open_model(config(tiny_olmoe(), experts_implementation=implementation))
    automatic = open_model(config(tiny_olmoe()))
    assert chosen.info.experts_implementation == implementation
    assert automatic.info.experts_implementation == "grouped_mm"
    with torch.no_grad():
        torch.testing.assert_close(
            chosen.model(input_ids=ids_BS).logits,
            automatic.model(input_ids=ids_BS).logits,
            rtol=1e-4,
            atol=1e-4,
        )


def test_precision_is_the_checkpoints_or_the_settings(tmp_path: Path) -> None:
    folder = save_tiny_olmoe(tmp_path, dtype=torch.bfloat16)
    assert open_model(config(folder)).info.dtype == "bfloat16"
    assert inspect_model(config(folder)).dtype == "bfloat16"
    assert open_model(config(folder, dtype="float32")).info.dtype == "float32"
    assert inspect_model(config(folder, dtype="float32")).dtype == "float32"


def test_an_unknown_device_is_refused() -> None:
    for name in ("gpu7", "mps", "meta", "xpu:0", "cuda:-1", ""):
        for door in (open_model, inspect_model):
            with pytest.raises(ModelError, match=f"does not run on device '{name}': set device to"):
                door(config(tiny_olmoe(), device=name))
    assert inspect_model(config(tiny_olmoe(), device="cpu:0")).device == "cpu"
    with pytest.raises(ModelError, match="This machine has no device cuda:99"):
        open_model(config(tiny_olmoe(), device="cuda:99"))


def test_a_tokenizer_of_another_model_is_refused(folder: Path) -> None:
    tokenizer = tiny_tokenizer().__class__.from_pretrained(folder)
    tokenizer.add_tokens(["one", "more"])
    tokenizer.save_pretrained(folder)
    with pytest.raises(ModelError, match="has 262 tokens and the model 260"):
        open_model(config(folder))


class _Trap:
    """Unpickling this makes a file: proof that a pickle was opened."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self._path,)


@pytest.mark.fault_row(21)
@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pkl"])
def test_pickled_weights_are_refused_before_opening(folder: Path, name: str) -> None:
    fired = folder.parent / "fired"
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(pickle.dumps(_Trap(fired)))
    for door in (open_model, inspect_model):
        with pytest.raises(ModelError, match=rf"only pickled weights \({name}\).*not opened"):
            door(config(folder))
    assert not fired.exists()
    pickle.loads((folder / name).read_bytes())
    assert fired.exists(), "the trap does not work, so this test would prove nothing"


@pytest.mark.fault_row(21)
def test_pickles_beside_safetensors_stay_shut(folder: Path) -> None:
    fired = folder.parent / "fired"
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(_Trap(fired)))
    open_model(config(folder))
    assert not fired.exists()


@pytest.mark.parametrize("left", [0, 4, 200, 20_000])
def test_a_truncated_file_is_named(folder: Path, left: int) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:left])
    for door in (open_model, inspect_model):
        with pytest.raises(ModelError, match=r"model\.safetensors is damaged or incomplete"):
            door(config(folder))


def test_a_missing_shard_is_named(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"lm_head.weight": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"model-00001-of-00002\.safetensors is missing"):
        open_model(config(folder))


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (Path.mkdir, "a folder, where weights are"),
        (os.mkfifo, "a pipe, a socket or a device, where a model has files"),
        (lambda path: path.symlink_to("nowhere"), "a link that leads nowhere, where weights are"),
    ],
)
def test_weights_that_are_no_file_are_named(
    folder: Path, make: Callable[[Path], None], kind: str
) -> None:
    (folder / "model.safetensors").unlink()
    make(folder / "model.safetensors")
    for door in (open_model, inspect_model):
        with pytest.raises(ModelError, match=rf"model\.safetensors is {kind}"):
            door(config(folder))


def test_a_part_of_a_model_is_refused_alike_by_looking_and_loading(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    for door in (open_model, inspect_model):
        with pytest.raises(
            ModelError,
            match=r"has model-00001-of-00002\.safetensors, and neither model\.safetensors nor "
            r"model\.safetensors\.index\.json.*Bring the rest",
        ):
            door(config(folder))


def test_an_adapter_is_no_model(folder: Path) -> None:
    """transformers would put one that lies beside a model on it, and route by another model."""
    (folder / "adapter_config.json").write_text("{}")
    for door in (open_model, inspect_model):
        with pytest.raises(ModelError, match="holds an adapter beside a model"):
            door(config(folder))
    (folder / "adapter_config.json").unlink()
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    for _ in range(2):
        with pytest.raises(ModelError, match=r"holds only an adapter .*Merge it into its base"):
            inspect_model(config(folder))
        (folder / "config.json").unlink(missing_ok=True)


def test_a_folder_has_no_revisions(folder: Path) -> None:
    for door in (open_model, inspect_model):
        with pytest.raises(ModelError, match=r"has no revisions, and revision is 'v1'\. Leave"):
            door(config(folder, revision="v1"))


def test_a_precision_that_a_family_mixes_is_not_blamed_on_its_configuration(
    tmp_path: Path,
) -> None:
    folder = save(tiny_model("deepseek_v4"), tmp_path)
    with pytest.raises(ModelError, match=r"does not run in float16: transformers keeps \d+ of its"):
        open_model(config(folder, dtype="float16"))
    [note] = [n for n in inspect_closely(config(folder, dtype="float16")).notes if "float16" in n]
    assert "of this family's tensors in float32" in note
    assert not any("float32" in n for n in inspect_closely(config(folder, dtype="bfloat16")).notes)


def test_an_index_cannot_point_outside_the_folder(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"lm_head.weight": "../../other.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match="names a file outside the folder"):
        open_model(config(folder))


def change_config(folder: Path, **settings: Any) -> Path:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))
    return folder


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"num_hidden_layers": 3}, r"11 missing \(model\.layers\.2\.input_layernorm"),
        ({"num_hidden_layers": 1}, r"11 of layers that there are not \(model\.layers\.1\."),
        ({"hidden_size": 64}, "25 of another shape"),
        ({"num_experts": 16}, r"6 of another shape \(model\.layers\.0\.mlp\.experts"),
        ({"vocab_size": 300}, r"2 of another shape \(lm_head"),
        ({"num_experts_per_tok": 9}, r"experts that no layer has \(num_experts_per_tok is 9\)"),
        ({"num_experts_per_tok": 0}, r"experts that no layer has \(num_experts_per_tok is 0\)"),
        ({"num_experts_per_tok": -1}, "num_experts_per_tok is -1, and it must be 0 or more"),
        ({"num_hidden_layers": float("nan")}, "says num_hidden_layers is nan, and it must be 1"),
        ({"hidden_size": -32}, "config.json says hidden_size is -32, and it must be 1 or more"),
        ({"num_experts": -8}, "num_experts is -8, and it must be 0 or more"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0, and it must be 1 or more"),
        ({"rope_parameters": "x"}, "rope_parameters is 'x', and settings in braces are expected"),
        ({"quantization_config": "x"}, "quantization_config is 'x', and settings in braces"),
        ({"text_config": "x"}, "text_config is 'x', and settings in braces are expected"),
        ({"model_type": ["olmoe"]}, r"model_type is \['olmoe'\], and a name is expected"),
        ({"hidden_size": "big"}, "refused by transformers .*'hidden_size'.*expected int, got str"),
        ({"hidden_act": "nonsense"}, "cannot build this model .*does not know 'nonsense'"),
        ({"num_experts": 0}, "No routed experts found"),
        ({"dtype": "float7"}, "dtype is 'float7', which is no precision that torch knows. Write"),
        ({"torch_dtype": "nn"}, "torch_dtype is 'nn', which is no precision that torch knows"),
        ({"text_config": {"dtype": "x"}}, r"text_config\.dtype is 'x', which is no precision"),
        ({"dtype": "float64"}, "is saved in float64, and TRACE computes in float32, bfloat16, fl"),
        ({"dtype": "float8_e4m3fn"}, "is saved in float8_e4m3fn"),
    ],
)
def test_weights_of_another_configuration_are_refused(
    folder: Path, changes: dict[str, Any], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    change_config(folder, **changes)
    with pytest.raises(ModelError, match=sentence) as refusal:
        open_model(config(folder))
    assert "\n" not in str(refusal.value)
    assert "attribute" not in str(refusal.value)
    assert str(folder) in str(refusal.value)
    monkeypatch.setattr("trace_engine.models.open._load", _never)
    with pytest.raises(ModelError) as looked:
        inspect_model(config(folder))
    assert str(looked.value) == str(refusal.value)


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> Path:
    """The folder with its tensors changed."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


EXPERT = "model.layers.0.mlp.experts.3.down_proj.weight"


def _shorten(tensors: dict[str, torch.Tensor]) -> None:
    tensors[EXPERT] = tensors[EXPERT][..., :-1].contiguous()


def _drop(tensors: dict[str, torch.Tensor]) -> None:
    del tensors[EXPERT]


def _drop_up(tensors: dict[str, torch.Tensor]) -> None:
    del tensors["model.layers.1.mlp.experts.7.up_proj.weight"]


def _rename(tensors: dict[str, torch.Tensor]) -> None:
    for name in list(tensors):
        tensors[f"other.{name}"] = tensors.pop(name)


def _as_integers(tensors: dict[str, torch.Tensor]) -> None:
    for name in tensors:
        tensors[name] = tensors[name].to(torch.int8)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (_shorten, rf"wrong: 1 of another shape \({re.escape(EXPERT)}\)"),
        (_drop, rf"wrong: 1 missing \({re.escape(EXPERT)}\)"),
        (_drop_up, r"wrong: 1 missing \(model\.layers\.1\.mlp\.experts\.7\.up_proj\.weight\)"),
        (_rename, "25 missing"),
        (_as_integers, "holds no floating-point tensor, and config.json does not say"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(
    folder: Path, change: Callable[[dict[str, torch.Tensor]], None], sentence: str
) -> None:
    rewrite(folder, change)
    for door in (open_model, inspect_model):
        with pytest.raises(ModelError, match=sentence) as refusal:
            door(config(folder))
        assert "\n" not in str(refusal.value)


def test_a_tensor_of_a_type_that_nobody_knows(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes().replace(b'"F32"', b'"Q32"', 1))
    with pytest.raises(ModelError, match=r"model\.safetensors is damaged .*unknown variant `Q32`"):
        open_model(config(folder))


def test_without_a_precision_in_the_configuration_the_files_decides(tmp_path: Path) -> None:
    folder = save_tiny_olmoe(tmp_path, dtype=torch.bfloat16)
    change_config(folder, dtype=None)
    assert inspect_model(config(folder)).dtype == open_model(config(folder)).info.dtype
    assert open_model(config(folder)).info.dtype == "bfloat16"


def test_too_little_memory_is_refused_before_a_weight_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("trace_engine.models.open._load", _never)
    monkeypatch.setattr("trace_engine.models.memory.machine_memory", lambda: Machine(50_000))
    with pytest.raises(
        ModelError,
        match=r"needs about \d+\sKiB of memory .*this machine has 49\sKiB free: set dtype to "
        r"bfloat16, which halves it, set quantization .*, close other programs, .*"
        r"\. Nothing was read\.$",
    ):
        open_model(config(tiny_olmoe()))


def test_a_model_that_no_gpu_holds_is_spread(monkeypatch: pytest.MonkeyPatch) -> None:
    need = memory_need_of(tiny_olmoe())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)

    def place(*free: int) -> str:
        machine = Machine(10**9, free)
        monkeypatch.setattr("trace_engine.models.open.machine_memory", lambda: machine)
        return choose_place("auto", need)

    assert place(need.loading) == "cuda"
    assert place(need.loading - 1, need.loading) == "cuda:1"
    assert place(need.loading - 1, need.loading - 1) == "spread"
    assert choose_place("cpu", need) == "cpu"


def test_what_is_spread_is_placed_by_accelerate(monkeypatch: pytest.MonkeyPatch) -> None:
    """On this machine's devices, however few: the map is accelerate's, not ours."""
    asked: list[Any] = []
    load = AutoModelForCausalLM.from_pretrained

    def spy(*words: Any, **options: Any) -> Any:
        asked.append(options.get("device_map"))
        return load(*words, **options)

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", spy)
    monkeypatch.setattr("trace_engine.models.open.choose_place", lambda *_: "spread")
    opened = open_model(config(tiny_olmoe()))
    assert asked == ["auto"]
    assert opened.info.device == "spread"
    assert opened.model(input_ids=torch.tensor([[1, 5]])).logits.shape == (1, 2, 260)


def memory_need_of(folder: Path) -> MemoryNeed:
    model = open_model(config(folder))
    return memory_need(model.model, model.sites, model.info.experts_per_token)


def test_a_folder_without_weights_config_or_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(ModelError, match="tokenizer could not be opened"):
        open_model(config(folder))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    with pytest.raises(ModelError, match="has no usable tokenizer"):
        open_model(config(folder))
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="has no weights"):
        open_model(config(folder))
    (folder / "config.json").write_text("{")
    with pytest.raises(ModelError, match=r"config\.json is not readable JSON"):
        open_model(config(folder))
    (folder / "config.json").unlink()
    with pytest.raises(ModelError, match=r"has no config\.json"):
        open_model(config(folder))


def test_a_missing_folder_and_a_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="There is no folder"):
        open_model(config(tmp_path / "nowhere"))
    for odd in ("a\0b", "../../nowhere", "/" + "x" * 300):
        with pytest.raises(ModelError, match="There is no folder"):
            open_model(config(odd))
    with pytest.raises(ModelError, match="is neither a folder nor a valid hub id"):
        open_model(config("x" * 300))
    with pytest.raises(ModelError, match="No model is given"):
        open_model(config(" "))
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match=r"is a file. A model is a folder"):
        open_model(config(tmp_path / "file"))


@pytest.mark.fault_row(20)
def test_a_dense_model(tmp_path: Path) -> None:
    dense = save_tiny_dense(tmp_path)
    for door in (open_model, inspect_model):
        with pytest.raises(
            ModelError,
            match=r"^No routed experts found in .* \(llama\): it is a dense model, and TRACE works "
            r"on mixtures of experts\. docs/models\.md lists the types that work\.$",
        ):
            door(config(dense))


def _with_config(folder: Path, settings: Any) -> Path:
    settings.save_pretrained(folder)
    return folder


def test_an_encoder_decoder(folder: Path) -> None:
    _with_config(folder, SwitchTransformersConfig())
    with pytest.raises(ModelError, match=r"is an encoder-decoder \(switch_transformers\)"):
        open_model(config(folder))


def test_a_family_that_cannot_be_mapped_is_refused_by_name(folder: Path) -> None:
    _with_config(folder, DogeConfig())
    with pytest.raises(
        ModelError, match=r"cannot tap its routing yet: .*DogeCDMoE.*router_gate.*product keys"
    ):
        open_model(config(folder))


def test_a_router_of_an_unknown_kind_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it would be for a family that is new."""
    monkeypatch.setattr("trace_engine.models.open.UNTAPPED", {})
    _with_config(folder, tiny_moe_config("doge", is_moe=True, num_experts=16))
    with pytest.raises(
        ModelError,
        match=r"declares 16 experts, but model\.layers\.0\.mlp \(DogeCDMoE\) routes to them",
    ):
        inspect_model(config(folder))


def test_experts_that_no_layer_has_are_told_with_the_architecture(folder: Path) -> None:
    _with_config(folder, tiny_moe_config("qwen2_moe", mlp_only_layers=[0, 1, 2]))
    with pytest.raises(ModelError, match="no module of Qwen2MoeForCausalLM routes to them"):
        inspect_model(config(folder))


def test_layers_for_further_tokens_are_no_mismatch() -> None:
    """DeepSeek and GLM checkpoints bring a layer after the last, and say so in their settings."""
    with torch.device("meta"):
        model = tiny_model("deepseek_v3", num_mtp_layers=1)
        without = tiny_model("deepseek_v3", num_mtp_layers=0)
    decoder = ["model.layers.3.mlp.gate.weight", "model.layers.3.self_attn.o_proj.weight"]
    further = [*decoder, "model.layers.3.eh_proj.weight", "model.layers.3.enorm.weight"]
    assert out_of_place(further, model) == ([], [])
    # One more than is said, and one that holds what every decoder layer does.
    assert out_of_place(further, without) == (sorted(further), [])
    assert out_of_place(decoder, model) == (sorted(decoder), [])


def test_tensors_without_a_place_are_told_from_parts_that_text_does_without() -> None:
    with torch.device("meta"):
        model = tiny_model("olmoe")
    homeless = ["lm_head.bias", "model.layers.1.self_attn.q_proj.bias", "model.norm.bias"]
    parts = ["vision.blocks.0.weight", "mtp.norm.weight", "model.mtp.layers.7.weight", "scores"]
    assert out_of_place([*homeless, *parts], model) == ([], homeless)


@pytest.mark.fault_row(22)
def test_remote_code_is_never_run(folder: Path) -> None:
    fired = folder.parent / "fired"
    settings = json.loads((folder / "config.json").read_text())
    settings |= {
        "model_type": "homemade_moe",
        "auto_map": {
            "AutoConfig": "homemade.HomemadeConfig",
            "AutoModelForCausalLM": "homemade.HomemadeModel",
        },
    }
    (folder / "config.json").write_text(json.dumps(settings))
    (folder / "homemade.py").write_text(f"open({str(fired)!r}, 'w').close()\n")
    with pytest.raises(ModelError, match=r"brings its own Python code .*never runs"):
        open_model(config(folder))
    assert not fired.exists()


def test_an_unknown_architecture(folder: Path) -> None:
    settings = json.loads((folder / "config.json").read_text())
    settings["model_type"] = "not_yet_invented"
    (folder / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ModelError, match=r"does not know the architecture 'not_yet_invented'"):
        open_model(config(folder))


class _Response:
    """As much of an HTTP response as the hub's errors read."""

    headers: ClassVar[dict[str, str]] = {}
    request = None


def _response() -> Any:
    return _Response()


@pytest.mark.fault_row(22)
@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (GatedRepoError("gated", response=_response()), "is gated on the hub: accept its terms"),
        (
            RepositoryNotFoundError("none", response=_response()),
            "neither a folder owner/name here nor a public model",
        ),
        (RevisionNotFoundError("none", response=_response()), "has no revision 'v9' on the hub"),
        (OfflineModeIsEnabled("offline"), r"the hub cannot be reached \(offline\)"),
        (LocalEntryNotFoundError("offline"), r"the hub cannot be reached \(offline\)"),
        (OSError("disk on fire"), "could not be fetched from the hub: disk on fire"),
    ],
)
def test_the_hubs_answers_become_sentences(
    error: Exception, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(hub, "snapshot_download", fail)
    monkeypatch.setattr("trace_engine.models.hub.HfApi.model_info", fail)
    with pytest.raises(ModelError, match=sentence):
        open_model(config("owner/name", revision="v9"))


def _never(*_: Any, **__: Any) -> Any:
    raise AssertionError("this should not have been called")
