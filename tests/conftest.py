"""Settings of every test, before anything loads torch.

One thread a process: tests start workers, servers and a browser beside each other, and on two cores
waiting threads that spin cost far more than a second thread gives (design/LOG.md).
"""

import gc
import os
from collections.abc import Iterator

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from pathlib import Path

import pytest

from tests.support import disks, reliability

LONG = ("kills", "browser", "audit", "runs", "sweeps", "test_cli_processes.py")
"""Folders and files whose tests start servers and workers and wait for them."""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 2 MB."""
    with disks.small(tmp_path / "disk", "2m") as folder:
        yield folder


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--reliability", type=Path, help="run the tests of faults, and write their page here"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Long files first; with --reliability only the tests of faults."""
    items.sort(key=lambda item: item.path.relative_to(Path(__file__).parent).parts[0] not in LONG)
    if config.getoption("--reliability") is None:
        return
    chosen = [item for item in items if item.get_closest_marker(reliability.MARK)]
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = chosen


def pytest_collection_finish() -> None:
    """What the test files imported is no garbage; every page under test looks for some."""
    gc.collect()
    gc.freeze()


def pytest_configure(config: pytest.Config) -> None:
    page = config.getoption("--reliability")
    if page is not None and not hasattr(config, "workerinput"):
        config.pluginmanager.register(reliability.Writer(page))
