"""A tab that follows something while another tab, or a shell, deletes it: real sessions on a real
server, whose clocks tick."""

import asyncio
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from tests.app.stored import eval_row, train_row, unlearn_config, write_run
from tests.security import fuzz
from tests.support.server import serve
from tests.support.sessions import Session
from tests.sweeps.test_outcomes import stored_sweep
from trace_engine.runs import RunDirectory
from trace_engine.runs.lock import FileLock
from trace_engine.runs.places import new_run_id, subfolder

pytestmark = pytest.mark.browser
PATIENCE_SECONDS = 120.0


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def address(home: Path) -> Iterator[str]:
    with serve(home, deadline=240) as found:
        yield found


def _run(home: Path) -> tuple[str, Path, str]:
    run = write_run(home, [eval_row(0, 0.9, 0.8), train_row(5)], "interrupted")
    return "run", run.path, "unlearn"


def _job(home: Path) -> tuple[str, Path, str]:
    run = RunDirectory(subfolder("runs", home) / new_run_id())
    run.create(unlearn_config().profile_config()).release()
    return "job", run.path, "data_model"


def _sweep(home: Path) -> tuple[str, Path, str]:
    found = stored_sweep(home, {"selection.top_k": (1, 2)}, [None, None])
    found.update(state="running")
    return "sweep", found.path, "unlearn"


def _audit(home: Path) -> tuple[str, Path, str]:
    folder = subfolder("audits", home) / new_run_id()
    folder.mkdir()
    (folder / "audit.yaml").write_text(fuzz.AUDIT, encoding="utf-8")
    return "audit", folder, "audit"


@pytest.mark.parametrize(
    "make", [_run, *(pytest.param(m, marks=pytest.mark.slow) for m in (_job, _sweep, _audit))]
)
def test_what_another_tab_deletes_is_gone_in_a_sentence(
    make: Callable[[Path], tuple[str, Path, str]], home: Path, address: str
) -> None:
    key, folder, page = make(home)

    async def follow() -> tuple[list[str], bytes]:
        async with Session.open(address, page, f"{key}={folder.name}", keep=True) as session:
            assert session.kept is not None
            await _until(lambda: session.ticks > 1)
            assert session.faults == []
            session.kept.clear()
            folder.rename(folder.with_name(".gone"))
            with suppress(TimeoutError):  # what it showed instead is looked at below
                await _until(lambda: b"There is no" in b"".join(session.kept or ()))
            return session.faults, b"".join(session.kept)

    with FileLock.take(folder / "lock", "taken"), ThreadPoolExecutor(1) as thread:
        faults, heard = thread.submit(asyncio.run, follow()).result()
    shutil.rmtree(folder.with_name(".gone"))
    assert all("There is no" in fault for fault in faults), faults
    assert f"There is no {'run' if key == 'job' else key}".encode() in heard


async def _until(reached: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while not reached():
        if time.monotonic() > end:
            raise TimeoutError
        await asyncio.sleep(0.05)
