"""Many sessions at once: no error, and the server's memory is what the first round left it at."""

from pathlib import Path

import psutil
import pytest

from bench.load import Load, prepare, rounds
from tests.support.server import server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
SESSIONS, RERUNS, LAYERS, EXPERTS = 8, 1, 8, 16
MOST_MIB = 900
"""Far more than the 300 that the app takes with everything it caches, and far less than a copy of
rows, sets or profiles a session would take in the end."""
MOST_GROWTH_MIB = 40
"""Between the second round and the last; a figure of the map alone is a tenth of it a session."""


def test_many_sessions_cause_no_error_and_no_growth(tmp_path: Path) -> None:
    home = prepare(
        tmp_path,
        runs=60,
        rows=5000,
        layers=LAYERS,
        experts=EXPERTS,
        tokens=10**6,
        blocks=32,
        sample=4000,
        upload_bytes=1,
    )
    with home.live.lock(), server(tmp_path) as served:
        load = Load(home, served)
        rounds(load, 3, SESSIONS, RERUNS, LAYERS, EXPERTS)
        assert psutil.pid_exists(served.pid)
        log = served.log.read_text(encoding="utf-8", errors="replace")
    figures = load.figures
    assert figures.faults == []
    assert "Traceback" not in log
    assert len(figures.seconds["crowd"]) == 3 * SESSIONS * RERUNS
    memory = figures.memory["all open"] + figures.memory["all closed"]
    assert max(memory) < MOST_MIB
    closed = figures.memory["all closed"]
    assert closed[-1] - closed[1] < MOST_GROWTH_MIB
