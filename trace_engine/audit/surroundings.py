"""Software and hardware that the figures were computed with; nothing that names the machine."""

import os
import platform
from importlib import metadata
from typing import Any

import psutil  # type: ignore[import-untyped]

import trace_engine

_PACKAGES = ("torch", "transformers", "tokenizers", "numpy", "scipy", "safetensors")


def surroundings(threads: int) -> dict[str, Any]:
    """Versions, processor, memory and accelerators, as JSON values."""
    import torch

    return {
        "trace": trace_engine.__version__,
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in _PACKAGES},
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": threads,
        "memory": psutil.virtual_memory().total,
        "accelerators": [
            torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())
        ],
    }


def _processor() -> str:
    """The processor's model, where the system tells."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"
