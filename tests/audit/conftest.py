from pathlib import Path

import pytest

from tests.audit.cases import small
from trace_engine.audit.run import Audited, run_audit


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Audited:
    """A finished audit; copy its folder before changing anything."""
    folder = tmp_path_factory.mktemp("audit")
    return run_audit(small(folder / "sets"), folder / "out", base=folder / "home")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TRACE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"
