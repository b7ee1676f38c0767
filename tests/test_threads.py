"""Every door decides how threads wait before torch is there, and leaves a user's choice alone."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from trace_engine.runs.detach import environment_of_children
from trace_engine.threads import SPINS, wait_briefly

ROOT = Path(__file__).parent.parent
CLI = """
from trace_engine.cli import main
main(["runs", "list"])
"""
APP = """
from streamlit.testing.v1 import AppTest
app = AppTest.from_file("streamlit_app.py", default_timeout=120).run()
assert not app.exception, app.exception
"""
SAID = """
import os, sys
assert "torch" not in sys.modules
print("spins:", os.environ.get("GOMP_SPINCOUNT"), os.environ.get("OMP_WAIT_POLICY"))
"""


@pytest.mark.parametrize("door", [CLI, APP], ids=["cli", "app"])
@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({}, f"{SPINS} None"),
        ({"GOMP_SPINCOUNT": "7"}, "7 None"),
        ({"OMP_WAIT_POLICY": "active"}, "None active"),
    ],
)
def test_a_door_decides_before_torch_loads(
    door: str, asked: dict[str, str], found: str, tmp_path: Path
) -> None:
    unset = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    done = subprocess.run(
        [sys.executable, "-c", door + SAID],
        cwd=ROOT,
        env=unset | asked | {"TRACE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert f"spins: {found}\n" in done.stdout


NUMPY = """
import ctypes, glob, os, sys
from pathlib import Path
assert "numpy" not in sys.modules
import app, numpy
(path,) = glob.glob(str(Path(numpy.__file__).parent.parent / "numpy.libs" / "libscipy_openblas*"))
print("blas:", ctypes.CDLL(path).scipy_openblas_get_num_threads64_())
print("left:", os.environ.get("OPENBLAS_NUM_THREADS"))
"""


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one processor is one thread anyway")
@pytest.mark.parametrize(
    ("asked", "threads", "left"), [({}, 1, None), ({"OPENBLAS_NUM_THREADS": "2"}, 2, "2")]
)
def test_the_apps_numpy_computes_on_one_thread_and_its_children_choose(
    asked: dict[str, str], threads: int, left: str | None
) -> None:
    named = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS")
    unset = {name: value for name, value in os.environ.items() if name not in named}
    done = subprocess.run(
        [sys.executable, "-c", NUMPY],
        cwd=ROOT,
        env=unset | asked,
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert f"blas: {threads}\nleft: {left}\n" == done.stdout


def test_children_wait_briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    assert environment_of_children()["GOMP_SPINCOUNT"] == SPINS
    given = {"OMP_WAIT_POLICY": "passive"}
    wait_briefly(given)
    assert given == {"OMP_WAIT_POLICY": "passive"}
