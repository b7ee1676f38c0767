"""Many sessions at once: no error, and the server's memory grows less than figures kept would."""

import os
from pathlib import Path

import psutil
import pytest

from bench.load import Figures, Load, growth, prepare, rounds, writing
from tests.support.server import ROOT, server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
SESSIONS, RERUNS, ROUNDS, LAYERS, EXPERTS = 6, 1, 8, 94, 160
MOST_MIB = 900
"""Far more than the 300 that the app takes with everything it caches, and far less than a copy of
rows, sets or profiles a session would take in the end."""
MOST_GROWTH_MIB = 4.0
"""A round, between what was measured once each: 2.1, and 7.3 with a figure of every visit kept."""
LEAK = """
from app import charts, memory

draw, kept = charts.expert_map, {}


def expert_map(*arguments, **named):
    figure = draw(*arguments, **named)
    # A visit has an object of its own, which is gone when its connection is.
    kept[memory._session()] = figure
    return figure


charts.expert_map = expert_map
"""
"""Runs as Python starts: a figure of every visit stays for ever."""


def crowded(home: Path, script: str = "") -> Figures:
    """What rounds of open-and-close find on a server that begins with `script`."""
    kept = prepare(
        home,
        runs=60,
        rows=5000,
        layers=LAYERS,
        experts=EXPERTS,
        tokens=10**6,
        blocks=32,
        sample=4000,
        upload_bytes=1,
    )
    environment = {}
    if script:
        (home / "sitecustomize.py").write_text(script, encoding="utf-8")
        environment["PYTHONPATH"] = os.pathsep.join((str(home), str(ROOT)))
    with kept.live.lock(), server(home, deadline=240, environment=environment) as served:
        load = Load(kept, served)
        with writing(kept.live, load.figures):
            rounds(load, ROUNDS, SESSIONS, RERUNS, LAYERS, EXPERTS)
        assert psutil.pid_exists(served.pid)
        log = served.log.read_text(encoding="utf-8", errors="replace")
    assert load.figures.faults == []
    assert "Traceback" not in log
    return load.figures


def test_many_sessions_cause_no_error_and_little_growth(tmp_path: Path) -> None:
    figures = crowded(tmp_path)
    assert len(figures.seconds["crowd"]) == ROUNDS * SESSIONS * RERUNS
    assert figures.appended > 0
    assert figures.ticks > 0
    memory = figures.memory["all open"] + figures.memory["all closed"]
    assert max(memory) < MOST_MIB
    assert growth(figures.memory["all closed"]) < MOST_GROWTH_MIB


def test_a_figure_that_every_visit_leaves_would_be_seen(tmp_path: Path) -> None:
    assert growth(crowded(tmp_path, LEAK).memory["all closed"]) > MOST_GROWTH_MIB
