"""Hub models over real requests: a server with the hub's protocol, its own client, a cache."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.hub import COMMIT, GATED, hub
from tests.support.models import tiny_olmoe
from trace_engine.config import ModelConfig
from trace_engine.models import open_model

OPEN = """
import json, sys
from trace_engine.config import ModelConfig
from trace_engine.errors import TraceError
from trace_engine.models import open_model

for source, revision in json.loads(sys.argv[1]):
    try:
        found = open_model(ModelConfig(source=source, revision=revision)).info.fingerprint
    except TraceError as error:
        found = str(error)
    print(json.dumps(found))
"""


class Visited(NamedTuple):
    """What a process said of each model, and what the hub was asked meanwhile."""

    said: list[str]
    asked: list[tuple[str, str, str]]


def visit(url: str, cache: Path, *models: tuple[str, str | None]) -> list[str]:
    """Open models in a process whose hub is at `url`; fingerprints and refusals."""
    environment = {
        "HF_ENDPOINT": url,
        "HF_HOME": str(cache),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", OPEN, json.dumps(models)],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model whose weights are there twice, and one that wants its own code to run."""
    folder = tmp_path_factory.mktemp("hub")
    plain, code = folder / "plain", folder / "code"
    shutil.copytree(tiny_olmoe(), plain)
    shutil.copy(plain / "model.safetensors", plain / "consolidated.safetensors")
    (plain / "pytorch_model.bin").write_bytes(b"pickled")
    shutil.copytree(tiny_olmoe(), code)
    settings = json.loads((code / "config.json").read_text())
    settings |= {"model_type": "own", "auto_map": {"AutoModelForCausalLM": "modeling_own.Own"}}
    (code / "config.json").write_text(json.dumps(settings))
    (code / "modeling_own.py").write_text("raise SystemExit('ran')")
    return {"tiny/moe": plain, "tiny/code": code}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def visited(folders: dict[str, Path], cache: Path) -> Visited:
    with hub(folders) as (url, asked):
        said = visit(
            url, cache, ("tiny/moe", None), ("tiny/moe", "v9"), (GATED, None),
            ("tiny/none", None), ("tiny/code", None),
        )  # fmt: skip
    return Visited(said, asked)


def files(visited: Visited, method: str, model: str) -> list[str]:
    """Names of the files that were asked for whole."""
    start = f"{model}/resolve/{COMMIT}/"
    return sorted(
        path.removeprefix(start)
        for how, path, part in visited.asked
        if how == method and path.startswith(start) and not part
    )


def test_a_model_comes_over_the_wire_and_is_the_one_of_the_folder(
    visited: Visited, folders: dict[str, Path]
) -> None:
    assert visited.said[0] == open_model(ModelConfig(source=str(tiny_olmoe()))).info.fingerprint
    assert files(visited, "GET", "tiny/moe") == [
        "config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
        "tokenizer_config.json",
    ]  # fmt: skip
    weights = f"tiny/moe/resolve/{COMMIT}/model.safetensors"
    asked = [(how, part) for how, path, part in visited.asked if path == weights]
    assert asked[0][0] == "GET"
    assert asked[0][1].startswith("bytes=0-"), "the header before the weights"
    assert ("GET", "") in asked[1:]


@pytest.mark.fault_row(22)
def test_every_answer_of_the_hub_has_its_sentence(visited: Visited) -> None:
    assert visited.said[1] == "tiny/moe has no revision 'v9' on the hub."
    assert visited.said[2].startswith(f"{GATED} is gated on the hub: accept its terms there")
    assert visited.said[3].startswith("There is neither a folder tiny/none here nor a public model")


@pytest.mark.fault_row(22)
def test_a_models_own_code_is_not_even_fetched(visited: Visited) -> None:
    assert "brings its own Python code" in visited.said[4]
    assert not [path for _, path, _ in visited.asked if path.endswith((".py", ".bin"))]


@pytest.mark.fault_row(22)
def test_without_the_hub_the_cache_serves_and_the_rest_is_a_sentence(
    visited: Visited, cache: Path
) -> None:
    nobody = "http://127.0.0.1:9"  # the discard port: nothing listens there
    said = visit(nobody, cache, ("tiny/moe", None), ("tiny/other", None))
    assert said[0] == visited.said[0]
    assert said[1].startswith("tiny/other is not a folder here, and the hub cannot be reached")
