"""A stranger's config.json decides how much is built: absurd numbers are refused beforehand."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.models import save_tiny
from tests.support.moe_types import tiny_config
from trace_engine.config import ModelConfig
from trace_engine.errors import ModelError
from trace_engine.models import inspect_model
from trace_engine.models.settings import check_settings

MEMORY = 6 * 2**30
"""Of addresses, which is what a process that grows without end meets here."""


def changed(folder: Path, **settings: Any) -> Path:
    path = save_tiny("olmoe", folder) / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    return path.parent


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"num_hidden_layers": 10**7}, "num_hidden_layers is 10000000, and no model has more than"),
        ({"num_experts": 10**6}, "num_experts is 1000000, and"),
        ({"num_hidden_layers": 900, "num_experts": 900}, "asks for 900 layers of 900 experts"),
        ({"hidden_size": 10**9}, "hidden_size is 1000000000, and"),
        ({"intermediate_size": 10**12}, "intermediate_size is 1000000000000, and"),
        ({"vocab_size": 10**12}, "vocab_size is 1000000000000, and"),
        ({"num_attention_heads": 10**9}, "num_attention_heads is 1000000000, and"),
        ({"vision_config": {"depth": 10**7}}, "vision_config.depth is 10000000, and"),
        ({"text_config": {"num_layers": 1e9}}, "text_config.num_layers is 1000000000.0, and"),
    ],
)
def test_absurd_sizes_are_refused_before_anything_is_built(
    tmp_path: Path, settings: dict[str, Any], sentence: str
) -> None:
    folder = changed(tmp_path, **settings)
    began = time.process_time()
    with pytest.raises(ModelError) as refused:
        inspect_model(ModelConfig(source=str(folder)))
    assert sentence in str(refused.value)
    assert time.process_time() - began < 5


def test_the_command_refuses_it_in_a_sentence(tmp_path: Path) -> None:
    folder = changed(tmp_path, num_hidden_layers=10**7)
    limited = f'ulimit -v {MEMORY // 1024}; exec "$0" -m trace_engine.cli inspect "$1"'
    said = subprocess.run(
        ["sh", "-c", limited, sys.executable, str(folder)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert said.returncode == 2
    assert "no model has more than 1,000" in said.stderr
    assert "Traceback" not in said.stderr


def test_the_largest_models_are_let_through() -> None:
    for layers, experts in ((94, 128), (61, 256), (61, 384), (48, 512), (126, 512)):
        check_settings("x", {"num_hidden_layers": layers, "n_routed_experts": experts})
    check_settings("x", {"hidden_size": 53_248, "vocab_size": 1_000_000, "text_config": {}})


@pytest.mark.slow
def test_every_familys_defaults_are_let_through() -> None:
    from transformers import AutoConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    looked = 0
    for kind in CONFIG_MAPPING_NAMES:
        try:
            values = json.loads(AutoConfig.for_model(kind).to_json_string())
        except Exception:  # needs arguments, or a package that is not here
            continue
        check_settings(kind, values)
        looked += 1
    assert looked > 100
    check_settings("tiny", json.loads(tiny_config("olmoe").to_json_string()))
