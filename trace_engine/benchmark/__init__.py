"""The table of methods and weightings: tuned on validation questions, measured on test questions.

Names are loaded when first used, so that a page which shows a finished table loads no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trace_engine.benchmark.run import Finished, run_table
    from trace_engine.benchmark.settings import BenchConfig, bundled_bench, read_bench
    from trace_engine.benchmark.stored import StoredTable, list_tables, read_table

_HOME = {
    "Finished": "run",
    "run_table": "run",
    "BenchConfig": "settings",
    "bundled_bench": "settings",
    "read_bench": "settings",
    "StoredTable": "stored",
    "list_tables": "stored",
    "read_table": "stored",
}
__all__ = [
    "BenchConfig",
    "Finished",
    "StoredTable",
    "bundled_bench",
    "list_tables",
    "read_bench",
    "read_table",
    "run_table",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
