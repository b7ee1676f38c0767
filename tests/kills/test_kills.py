"""Row 28: killed at any moment, the same command goes on to the same result.

TRACE_KILLS sets how many kills of each kind the slow tests make, TRACE_KILLS_SEED their moments.
"""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.kills.cases import WORKS
from tests.support import reliability
from tests.support.kills import kill_and_go_on

KILLS = int(os.environ.get("TRACE_KILLS", "200"))
SEED = int(os.environ.get("TRACE_KILLS_SEED", "1"))
LEAST_OF_EACH = max(1, KILLS // 20)
"""Kills at each kind of moment, so that the test says something about it."""


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.fault_row(1, 2, 28)
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("name", WORKS)
def test_many_kills_at_any_moment_change_no_result(
    name: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    work = WORKS[name]
    hit = kill_and_go_on(work, tmp_path, KILLS, SEED, LEAST_OF_EACH)
    others = sorted(set(hit) - set(work.moments))
    moments = {moment: hit[moment] for moment in (*work.moments, *others)}
    record_property(reliability.KILLED, {"work": name, "moments": moments, "seed": SEED})
    print(f"{name}: {moments}")
    assert min(moments[moment] for moment in work.moments) >= LEAST_OF_EACH, moments


@pytest.mark.faults
@pytest.mark.fault_row(28)
@pytest.mark.parametrize("name", ["profile", "scan"])
def test_a_few_kills_change_no_result(name: str, tmp_path: Path) -> None:
    hit = kill_and_go_on(WORKS[name], tmp_path, 5, seed=2)
    assert hit.total() == 5
