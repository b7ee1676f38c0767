"""A home with one small profile, standing in for the bundled one, and the app under AppTest."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import streamlit as st
from streamlit.runtime.pages_manager import PagesManager
from streamlit.testing.v1 import AppTest

from app import state
from tests.app.stored import open_profile_of
from tests.support.profiles import synthetic_profile
from trace_engine.config import ProfileConfig, SetConfig
from trace_engine.routing import Profile, mismatch
from trace_engine.runs import launcher

ROOT = Path(__file__).parents[2]
KEY = "ab" * 16
"""Key of the profile in the test's home."""


@pytest.fixture(scope="session")
def saved_profile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A synthetic profile on disk, with its map beside it."""
    folder = tmp_path_factory.mktemp("profiles") / KEY
    profile = synthetic_profile(layers=(1, 3, 6), experts=8)
    profile.save(folder)
    mismatch(profile, permutations=999, bootstrap=100).save(folder)
    return folder


@pytest.fixture
def trace_home(
    tmp_path: Path, saved_profile: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """An empty TRACE_HOME; the app's caches forget other tests."""
    home = tmp_path / "home"
    (home / "profiles").mkdir(parents=True, mode=0o700)
    (home / "profiles" / KEY).symlink_to(saved_profile)
    monkeypatch.setenv("TRACE_HOME", str(home))
    st.cache_resource.clear()
    st.cache_data.clear()
    yield home
    st.cache_resource.clear()
    st.cache_data.clear()


@pytest.fixture
def bundled(trace_home: Path, saved_profile: Path, monkeypatch: pytest.MonkeyPatch) -> Profile:
    """The small profile in the bundled one's place."""
    monkeypatch.setattr(state, "BUNDLED_PATH", saved_profile)
    return Profile.load(saved_profile)


@pytest.fixture
def open_page(monkeypatch: pytest.MonkeyPatch) -> Callable[..., AppTest]:
    """Open a page of the whole app: `open_page("expert", layer="3")`; keywords are the URL's."""
    monkeypatch.chdir(ROOT)
    construct = PagesManager.__init__

    def as_on_a_warm_server(self: PagesManager, *args: Any, **kwargs: Any) -> None:
        # AppTest begins every run as a cold server, where the first run of a page is repeated and
        # a click would be lost; a real server is cold once (`test_a_cold_deep_link`).
        construct(self, *args, **kwargs)
        PagesManager.uses_pages_directory = False

    monkeypatch.setattr(PagesManager, "__init__", as_on_a_warm_server)

    def open_(page: str, **address: str) -> AppTest:
        app = AppTest.from_file(str(ROOT / "streamlit_app.py"), default_timeout=60)
        if page != "start":
            # AppTest knows the pages only after a first run.
            app.run()
            app.switch_page(f"pages/{page}.py")
        for name, value in address.items():
            app.query_params[name] = value
        return app.run()

    return open_


@pytest.fixture
def own_sets(trace_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """Two small files and a profile that records them, in the bundled one's place."""
    files = {}
    for side in ("forget", "retain"):
        files[side] = tmp_path / f"{side}.jsonl"
        lines = [json.dumps({"text": f"{side} document {i}"}) for i in range(5)]
        files[side].write_text("\n".join(lines), encoding="utf-8")
    settings = ProfileConfig(
        forget=SetConfig(source=str(files["forget"])), retain=SetConfig(source=str(files["retain"]))
    )
    open_profile_of(settings, tmp_path, monkeypatch)
    # A worker that ends at once: launching is tested, not training.
    monkeypatch.setattr(launcher, "WORKER", [sys.executable, "-c", ""])
    return files
