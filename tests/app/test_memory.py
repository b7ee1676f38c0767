"""Memory that sessions leave goes back to the system, and a set allocator is left alone."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LEFT = """
import os, sys, threading
import psutil
from app import memory

if "settle" in sys.argv:
    assert memory._allocator() is not None
    memory._allocator()


def resident():
    return psutil.Process().memory_info().rss / 2**20


def page():
    parts = [bytes(50_000) for _ in range(2000)]
    rest.append([bytes(100) for _ in range(100)])
    del parts


rest = []
before = resident()
for _ in range(3):
    threads = [threading.Thread(target=page) for _ in range(4)]
    [each.start() for each in threads]
    [each.join() for each in threads]
memory.trim()
print(resident() - before)
"""


def run(code: str, *arguments: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines()[-1]


@pytest.mark.skipif(sys.platform != "linux", reason="glibc alone has these doors")
def test_what_threads_have_freed_goes_back() -> None:
    assert float(run(LEFT, "settle")) < 20


@pytest.mark.parametrize("name", ["MALLOC_ARENA_MAX", "GLIBC_TUNABLES"])
def test_an_allocator_that_somebody_has_set_is_left_alone(name: str) -> None:
    value = {"MALLOC_ARENA_MAX": "8", "GLIBC_TUNABLES": "glibc.malloc.arena_max=8"}[name]
    code = "from app import memory; print(memory._allocator())"
    assert run(code, **{name: value}) == "None"


SESSIONS = """
import time
from streamlit.testing.v1 import AppTest
from app import memory

trimmed = []
memory.QUIET_SECONDS = 0.05
memory.trim = lambda: trimmed.append(1)
for _ in range(5):
    memory._ended(object())
time.sleep(1)
print(len(trimmed))
"""


def test_sessions_that_end_together_are_one_trim() -> None:
    assert run(SESSIONS) == "1"


APART = """
import gc
from streamlit.testing.v1 import AppTest

app = AppTest.from_file("streamlit_app.py", default_timeout=120)

def looked_through():
    app.run()
    assert not app.exception, app.exception
    gc.collect()
    return len(gc.get_objects()), gc.get_freeze_count()

first, second = looked_through(), looked_through()
print(first, second)
"""


def test_what_pages_import_is_looked_through_once(tmp_path: Path) -> None:
    looked, apart, again, after = map(
        int, run(APART, TRACE_HOME=str(tmp_path)).translate(str.maketrans("(),", "   ")).split()
    )
    assert looked < apart / 5
    assert again < apart / 5
    assert after <= apart  # nothing more is set apart while nothing is imported
