"""What a model cannot be trained as is refused before a run is made, whatever door it comes by."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from app.forms import launch_troubles
from tests.support.models import save_tiny
from trace_engine import runs
from trace_engine.adapters import NO_ADAPTERS
from trace_engine.cli import main
from trace_engine.config import ModelConfig, UnlearnConfig, to_yaml
from trace_engine.errors import InputError, ModelError
from trace_engine.runs.preflight import require_one_way, why_not
from trace_engine.stored import STAYS_PACKED
from trace_engine.unlearning.setup import read_inputs


def lora(model: str, kind: str = "lora") -> UnlearnConfig:
    return UnlearnConfig.model_validate(
        {
            "model": {"source": model},
            "forget": {"source": "demo:forget"},
            "retain": {"source": "demo:retain"},
            "trainable": {"kind": kind},
        }
    )


@pytest.fixture
def dbrx(tmp_path: Path) -> str:
    """As much of a model's folder as is looked at before a run is made."""
    folder = tmp_path / "dbrx"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "dbrx"}))
    return str(folder)


def test_lora_on_dbrx_makes_no_run(
    dbrx: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TRACE_HOME", str(tmp_path / "home"))
    with pytest.raises(ModelError, match=r"\(dbrx\): LoRA's adapters .*No run was made\.$"):
        runs.launch(lora(dbrx))
    assert not list((tmp_path / "home").rglob("config.yaml"))
    (tmp_path / "run.yaml").write_text(to_yaml(lora(dbrx)))
    assert main(["unlearn", str(tmp_path / "run.yaml"), "--out", str(tmp_path / "mine")]) == 2
    assert NO_ADAPTERS in capsys.readouterr().err
    assert not (tmp_path / "mine").exists()
    [said] = launch_troubles(lora(dbrx), None)
    assert NO_ADAPTERS in said


@pytest.mark.parametrize("method", ["bitsandbytes", "gptq", "compressed-tensors"])
def test_weights_that_stay_packed_make_no_run(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TRACE_HOME", str(tmp_path / "home"))
    folder = save_tiny("olmoe", tmp_path / "model")
    file = folder / "config.json"
    form = {"quantization_config": {"quant_method": method}}
    file.write_text(json.dumps(json.loads(file.read_text()) | form))
    config = lora(str(folder), "all")
    with pytest.raises(
        ModelError, match=rf"stored as {method}: .*packed weights cannot train.*\.$"
    ):
        runs.launch(config)
    assert not list((tmp_path / "home").rglob("config.yaml"))
    (tmp_path / "run.yaml").write_text(to_yaml(config))
    assert main(["unlearn", str(tmp_path / "run.yaml"), "--out", str(tmp_path / "mine")]) == 2
    assert "packed weights cannot train" in capsys.readouterr().err
    assert not (tmp_path / "mine").exists()
    [said] = launch_troubles(config, None)
    assert STAYS_PACKED in said
    # A run that came by another door, before a weight is read.
    monkeypatch.setattr("trace_engine.unlearning.setup.open_model", None)
    with pytest.raises(ModelError, match=STAYS_PACKED):
        read_inputs(config)


@pytest.mark.parametrize("method", ["mxfp4", "fp8"])
def test_weights_that_are_unpacked_on_the_way_may_train(dbrx: str, method: str) -> None:
    settings = {"model_type": "gpt_oss", "quantization_config": {"quant_method": method}}
    (Path(dbrx) / "config.json").write_text(json.dumps(settings))
    assert why_not(lora(dbrx, "all")) is None


def test_everything_else_is_left_to_the_worker(dbrx: str, tmp_path: Path) -> None:
    assert why_not(lora(dbrx, "all")) is None
    assert why_not(lora("demo:target")) is None
    for odd in ("demo:nothing", "owner/never-fetched", str(tmp_path / "nowhere"), "a b", "x" * 300):
        assert why_not(lora(odd)) is None
    (Path(dbrx) / "config.json").write_text("[")
    assert why_not(lora(dbrx)) is None


def test_a_fetched_hub_model_is_known_by_its_cache(
    dbrx: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "huggingface_hub.try_to_load_from_cache",
        lambda *_, **__: str(Path(dbrx) / "config.json"),
    )
    assert "owner/name (dbrx)" in (why_not(lora("owner/name")) or "")


def test_a_table_refuses_a_trial_too() -> None:
    with pytest.raises(InputError, match="The runs of a table are compared"):
        require_one_way(ModelConfig(experts_implementation="trial"), "table")
    require_one_way(ModelConfig(), "table")


def test_it_costs_no_torch() -> None:
    code = "import sys, trace_engine.runs.preflight; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
