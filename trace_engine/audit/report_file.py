"""report.json as a file: what it is called, and reading it without torch."""

from pathlib import Path
from typing import Any, Final

from trace_engine.disk import read_json
from trace_engine.errors import RunError
from trace_engine.formats import AUDIT, require_known

HTML: Final = "report.html"
JSON: Final = "report.json"
ODD: Final = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)
"""What reading a value raises that has not the shape, or the size, of a report's. Shapes differ
from format to format and part to part, so each reader tells it in one sentence (`damaged`)."""
_MOST = 100
"""Characters that are quoted."""


def damaged(name: str, error: Exception) -> str:
    """The sentence on a file whose values are no report's; `error` is one of `ODD`."""
    why = f"{type(error).__name__}: {' '.join(str(error).split())[:_MOST]}"
    return f"{name} is damaged: it is not built as a report is ({why})"


def read_report(folder: Path) -> dict[str, Any]:
    """What report.json holds. Raises RunError when it is missing, damaged or newer."""
    data = read_json(folder / JSON)
    if not isinstance(data, dict):
        raise RunError(f"{folder.name}: there is no readable {JSON}.")
    require_known(data, AUDIT, JSON, RunError)
    return data
