"""The image's recipe, as text: nothing here builds it."""

import fnmatch
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from streamlit import config

from tests.support.server import free_port, server
from trace_engine.health.surroundings import data_folder

ROOT = Path(__file__).parent.parent
SECRETS = ".streamlit/secrets.toml"


def steps(instruction: str) -> list[str]:
    """What follows an instruction of the Dockerfile, each time."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    return re.findall(rf"^{instruction}\s+(.+)$", text, flags=re.MULTILINE)


def image_variables() -> dict[str, str]:
    return dict(word.split("=", 1) for line in steps("ENV") for word in shlex.split(line))


def start_command() -> list[str]:
    (command,) = [json.loads(step) for step in steps("CMD")]
    return list(command)


@pytest.mark.parametrize("name", [".gitignore", ".dockerignore"])
def test_secrets_are_left_out(name: str) -> None:
    patterns = (ROOT / name).read_text(encoding="utf-8").splitlines()
    assert [p for p in patterns if fnmatch.fnmatch(SECRETS, p.lstrip("/"))]
    assert not [p for p in patterns if p.startswith("!")]


def test_the_image_has_the_logins_packages_of_the_pinned_versions() -> None:
    installs = [command for command in steps("RUN") if "pip install" in command]
    (own,) = [shlex.split(command) for command in installs if ".[login]" in command]
    assert "--no-deps" not in own
    # The same versions but for torch, which was chosen before.
    kept = own[own.index("-c") + 1]
    assert any(f"grep -v '^torch==' constraints.txt > {kept}" in command for command in installs)
    pinned = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert re.search(r"^Authlib==", pinned, flags=re.MULTILINE)
    assert re.search(r"^httpx==", pinned, flags=re.MULTILINE)


def test_the_images_data_folder_is_as_the_examination_wants_it(tmp_path: Path) -> None:
    (folder,) = steps("VOLUME")
    (made,) = [command for command in steps("RUN") if folder in shlex.split(command)]
    words = shlex.split(made.split("&&")[-1])
    assert words[0] == "install"
    assert words[-1] == folder == "/data"
    assert words[words.index("-o") + 1] in steps("USER")
    home = tmp_path / "data"
    home.mkdir()
    home.chmod(int(words[words.index("-m") + 1], 8))
    assert data_folder(home).state == "ok"
    home.chmod(0o755)
    assert data_folder(home).state == "warning"


def health_check(**told: str) -> int:
    """The exit status of the image's health check in a container that is told this."""
    (command,) = [step for step in steps("HEALTHCHECK") if "CMD" in step]
    program, *arguments = json.loads(command.partition("CMD")[2])
    assert program == "python"
    kept = {k: v for k, v in os.environ.items() if not k.startswith("STREAMLIT_")}
    return subprocess.run(
        [sys.executable, *arguments], env=kept | told, capture_output=True, timeout=30
    ).returncode


@pytest.mark.browser
def test_the_health_check_follows_the_servers_port_and_path(tmp_path: Path) -> None:
    port = free_port()
    where = {"STREAMLIT_SERVER_PORT": str(port)}
    path = {"STREAMLIT_SERVER_BASE_URL_PATH": "/trace/"}
    options = config.get_config_options()
    named = [options[name].env_var for name in ("server.port", "server.baseUrlPath")]
    assert named == [*where, *path]
    with server(tmp_path, port=port, base_path="trace"):
        assert health_check(**where, **path) == 0
        assert health_check(**where) != 0
        assert health_check(**path) != 0
    assert health_check(**where, **path) != 0


def test_the_container_starts_without_asking_the_internet_for_its_address() -> None:
    told = image_variables()
    assert told["STREAMLIT_BROWSER_SERVER_ADDRESS"] == "localhost"
    # What the command says goes before the environment, so it must leave these open.
    command = start_command()
    for name in ("--browser.serverAddress", "--server.baseUrlPath", "--server.port"):
        assert name not in command
