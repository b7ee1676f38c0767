"""What a person sees on a terminal, or a program reads: tables, sentences or JSON on stdout,
progress on stderr.

It accepts one line of progress that overwrites itself on a terminal, and a line a phase elsewhere.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from trace_engine.progress import Progress
from trace_engine.spelling import NBSP

if TYPE_CHECKING:
    import pandas as pd


def emit_json(data: Any) -> None:
    """Strict JSON on stdout; NaN and infinity become null."""
    from trace_engine.disk import strict

    text = json.dumps(strict(data), ensure_ascii=False, indent=1)
    # Half of a surrogate pair, as in the name of a file, becomes the escape that JSON has for it.
    print(text.encode("utf-8", "backslashreplace").decode())


def note(text: str) -> None:
    """A sentence for the person, beside the output."""
    clear_progress()
    print(text, file=sys.stderr)


def print_table(rows: "Sequence[Mapping[str, Any]] | pd.DataFrame", columns: Sequence[str]) -> None:
    """Aligned columns; floats with four decimals, an empty cell where there is no value."""
    import pandas as pd

    frame = pd.DataFrame(rows, columns=list(columns))
    if frame.empty:
        print("(none)")
        return
    shown = frame.map(_cell)
    right = {name: "right" if frame[name].dtype.kind in "iuf" else "left" for name in columns}
    widths = {name: max(len(name), *map(len, shown[name])) for name in columns}
    print("  ".join(_fit(name, widths[name], right[name]) for name in columns).rstrip())
    for _, row in shown.iterrows():
        line = "  ".join(_fit(row[name], widths[name], right[name]) for name in columns)
        print(line.rstrip())


def _cell(value: Any) -> str:
    if value is None or value != value:
        return ""
    if isinstance(value, float):
        return f"{value:.4f}"
    return plain(str(value))


def plain(text: str) -> str:
    """A label or a document may hold anything; a terminal must not obey it."""
    return "".join(c if c.isprintable() or c == NBSP else "�" for c in text)


def _fit(text: str, width: int, side: str) -> str:
    return text.rjust(width) if side == "right" else text.ljust(width)


def interval(value: float | None, low: float | None, high: float | None, digits: int = 3) -> str:
    """`0.412 [0.380, 0.445]`; the bracket is left out where n allows no interval."""
    if value is None:
        return ""
    bounds = "" if low is None or high is None else f" [{low:.{digits}f}, {high:.{digits}f}]"
    return f"{value:.{digits}f}{bounds}"


class ProgressLine:
    """Progress on stderr with rate and time left: one line that overwrites itself on a terminal."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._phase = ""

    def __call__(self, progress: Progress) -> None:
        if self._terminal:
            print(f"\r\033[K{describe(progress)}", end="", file=sys.stderr, flush=True)
            if progress.done >= progress.total:
                print(file=sys.stderr)
        elif progress.phase != self._phase or progress.done >= progress.total:
            print(describe(progress), file=sys.stderr, flush=True)
        self._phase = progress.phase


def clear_progress() -> None:
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr, flush=True)


def describe(progress: Progress) -> str:
    """`profiling forget set: 12,000 of 48,000 tokens, 8,100 tokens/s, 4 s left`."""
    if progress.total <= 1:
        return progress.phase
    text = f"{progress.phase}: {progress.done:,} of {progress.total:,} {progress.unit}"
    if progress.per_second is not None:
        rate = progress.per_second
        text += f", {rate:,.0f}" if rate >= 10 else f", {rate:.2f}"
        text += f" {progress.unit}/s"
    if progress.eta_seconds is not None and progress.done < progress.total:
        text += f", {duration(progress.eta_seconds)} left"
    return text


def duration(seconds: float) -> str:
    """`45 s`, `3 min 20 s`, `2 h 05 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
