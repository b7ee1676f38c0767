"""The image's recipe, as text: nothing here builds it."""

import fnmatch
import re
import shlex
from pathlib import Path

import pytest

from trace_engine.health.surroundings import data_folder

ROOT = Path(__file__).parent.parent
SECRETS = ".streamlit/secrets.toml"


def steps(instruction: str) -> list[str]:
    """What follows an instruction of the Dockerfile, each time."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    return re.findall(rf"^{instruction}\s+(.+)$", text, flags=re.MULTILINE)


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
