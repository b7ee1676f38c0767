"""Tables as CSV that a spreadsheet can open safely.

Text that it would take for a formula is prefixed with an apostrophe; numbers stay numbers. An empty
cell is a figure that is not there. It accepts a writer for each row: only a terminator with a
carriage return makes Python's quote one, and a bare one would end the row.
"""

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def safe_cell(value: Any) -> Any:
    """Text that begins like a formula with an apostrophe before it; anything else as it is."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def csv_text(
    rows: Iterable[Mapping[str, Any]], columns: Sequence[str], form: str | None = None
) -> str:
    """Rows as CSV, columns in the given order. `form` writes floats, as `%.5g`; NaN is empty."""
    lines = [[safe_cell(column) for column in columns]]
    lines += [[_cell(row.get(column), form) for column in columns] for row in rows]
    return "".join(_line(line) for line in lines)


def _line(cells: Sequence[Any]) -> str:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\r\n").writerow(cells)
    return stream.getvalue().removesuffix("\r\n") + "\n"


def _cell(value: Any, form: str | None) -> Any:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return form % value if form and isinstance(value, float) else safe_cell(value)
