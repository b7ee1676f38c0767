"""Figures beside named references, measured in one run: ratios are the claim, seconds context.

Each module prints its own table; nothing here asserts a time, because machines differ.
"""

import platform

import psutil


def hardware() -> str:
    """The machine in words: what seconds below were measured on."""
    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            name = next(line.split(":", 1)[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        pass  # not Linux: platform's word is all there is
    memory = psutil.virtual_memory().total / 2**30
    return (
        f"{name}, {psutil.cpu_count()} cores, {memory:.0f} GiB, Python {platform.python_version()}"
    )
