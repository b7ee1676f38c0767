"""The allocator setting of processes that compute."""

import subprocess
import sys

import pytest

from trace_engine.allocator import keep_freed_memory

FAULTS = """
import resource, sys, numpy as np
from trace_engine.allocator import keep_freed_memory
kept = keep_freed_memory() if sys.argv[1] == "keep" else False
def faults(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
np.ones(2**24)
before = faults()
for _ in range(5):
    np.ones(2**24)
print(faults() - before)
"""


@pytest.mark.skipif(not keep_freed_memory(), reason="the C library has no such setting")
def test_a_large_block_is_not_fetched_from_the_system_twice() -> None:
    found = {
        mode: int(subprocess.check_output([sys.executable, "-c", FAULTS, mode]))
        for mode in ("plain", "keep")
    }
    pages = 5 * 2**24 * 8 // 2**21  # at least one fault per huge page
    assert found["plain"] >= pages
    assert found["keep"] < pages
