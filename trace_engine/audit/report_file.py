"""report.json as a file: what it is called, and reading it without torch."""

from pathlib import Path
from typing import Any, Final

from trace_engine.disk import read_json
from trace_engine.errors import RunError
from trace_engine.formats import AUDIT, require_known

HTML: Final = "report.html"
JSON: Final = "report.json"


def read_report(folder: Path) -> dict[str, Any]:
    """What report.json holds. Raises RunError when it is missing, damaged or newer."""
    data = read_json(folder / JSON)
    if not isinstance(data, dict):
        raise RunError(f"{folder.name}: there is no readable {JSON}.")
    require_known(data, AUDIT, JSON, RunError)
    return data
