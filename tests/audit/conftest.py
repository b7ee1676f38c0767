from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.audit.cases import small, write_published
from trace_engine.audit.run import Audited, run_audit
from trace_engine.evaluation import muse, tofu


@contextmanager
def few_words() -> Iterator[None]:
    """MUSE and TOFU let a model write a few tokens: what is tested is what becomes of scores."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(muse, "VERBATIM_TOKENS", 8)
        patch.setattr(muse, "ANSWER_TOKENS", 4)
        patch.setattr(tofu, "ANSWER_TOKENS", 4)
        yield


@pytest.fixture(autouse=True)
def write_little() -> Iterator[None]:
    """Whatever a test here asks of a model, and of none elsewhere."""
    with few_words():
        yield


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Audited:
    """A finished audit without MUSE and TOFU; copy its folder before changing anything."""
    folder = tmp_path_factory.mktemp("audit")
    with few_words():
        return run_audit(small(folder / "sets"), folder / "out", base=folder / "home")


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Audited:
    """A finished audit that asked MUSE and TOFU, and little else."""
    folder = tmp_path_factory.mktemp("published")
    given = write_published(folder / "published")
    config = small(folder / "sets", parts=["questions", "muse", "tofu"], published=given)
    with few_words():
        return run_audit(config, folder / "out", base=folder / "home")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TRACE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"
