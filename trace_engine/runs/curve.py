"""A run's rows as they arrive: the numbers of the steps as columns, the evaluations as rows.

A page that is open on a run looks every second, so only what was appended since is read. Accepted
trade-off: 8 bytes a number stay in memory for as long as the curve is followed.
"""

import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from operator import itemgetter
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from trace_engine.disk import parse_json
from trace_engine.errors import RunError
from trace_engine.regular import open_file
from trace_engine.runs.shapes import require_row

_BATCH = 4096
"""Lines that are parsed before they become columns."""
_NUMBERS: Final = {int, float, type(None)}
_ABOUT_THE_ROW = frozenset({"kind", "step", "attempt"})
KIND_ORDER = {"train": 0, "eval": 1}
"""Of rows of one step; others come after."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What a curve holds by now; of a repeated step, what was written last."""

    train: dict[str, NDArray[Any]] = field(default_factory=lambda: {"step": np.empty(0, int)})
    """`step`, ascending, and every number that the steps recorded; NaN where there is none."""
    evaluations: tuple[dict[str, Any], ...] = ()
    """All rows that are no step of training, in order of step."""

    @property
    def rows(self) -> int:
        return len(self.train["step"]) + len(self.evaluations)


class Curve:
    """The rows of one `metrics.jsonl`; sessions may look at once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._forget()

    def look(self) -> Seen:
        """The rows that are complete now. Raises RunError naming a damaged line."""
        with self._lock:
            try:
                with open_file(self._path) as file:
                    self._read(file)
            except FileNotFoundError:
                self._forget()
            except OSError as error:
                self._forget()
                raise RunError(f"{self._path.name} cannot be read ({error.strerror}).") from None
            return self._seen

    def _forget(self) -> None:
        self._inode = self._offset = self._lines = 0
        self._last = b""
        self._others: dict[tuple[str, int], dict[str, Any]] = {}
        self._seen = Seen()

    def _read(self, file: BinaryIO) -> None:
        if os.fstat(file.fileno()).st_ino != self._inode or not self._continues(file):
            # Another file in its place: the run was started anew, or its folder was exchanged.
            self._forget()
            self._inode = os.fstat(file.fileno()).st_ino
        file.seek(self._offset)
        lines = self._complete_lines(file)
        parts = [self._seen.train]
        while batch := list(islice(lines, _BATCH)):
            steps = []
            for row in batch:
                if row["kind"] == "train":
                    steps.append(row)
                else:
                    self._others[row["kind"], row["step"]] = row
            parts.append(_columns(steps))
            evaluations = sorted(
                self._others.values(),
                key=lambda row: (row["step"], KIND_ORDER.get(row["kind"], 2)),
            )
            self._seen = Seen(self._seen.train, tuple(evaluations))
        if len(parts) > 1:
            self._seen = Seen(_last_of_each_step(_joined(parts)), self._seen.evaluations)

    def _continues(self, file: BinaryIO) -> bool:
        """Whether the file still holds, where reading ended, the line that was read last."""
        file.seek(self._offset - len(self._last))
        return file.read(len(self._last)) == self._last

    def _complete_lines(self, file: BinaryIO) -> Iterator[dict[str, Any]]:
        """Rows up to the last line that has its end. Raises RunError."""
        for line in file:
            if not line.endswith(b"\n"):
                return
            if line != b"\n":
                try:
                    # Settled here, so that no line's encoding is looked for.
                    row = parse_json(line[:-1].decode())
                    require_row(row)
                except (ValueError, TypeError, KeyError):
                    number = self._lines + 1
                    self._forget()
                    raise RunError(
                        f"{self._path.name}, line {number} is damaged: it is not a row of a run."
                    ) from None
                yield row
            self._lines += 1
            self._offset += len(line)
            self._last = line


def _columns(rows: Sequence[dict[str, Any]]) -> dict[str, NDArray[Any]]:
    columns: dict[str, NDArray[Any]] = {"step": np.array([row["step"] for row in rows], int)}
    for name in dict.fromkeys(chain.from_iterable(rows)):
        if name in _ABOUT_THE_ROW:
            continue
        try:
            values = list(map(itemgetter(name), rows))
        except KeyError:
            values = [row.get(name) for row in rows]
        if set(map(type, values)) <= _NUMBERS:
            numbers = np.array(values, dtype=float)  # None becomes NaN
            numbers[~np.isfinite(numbers)] = np.nan
            columns[name] = numbers
    return columns


def _joined(parts: Sequence[dict[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    names = dict.fromkeys(name for part in parts for name in part)
    return {
        name: np.concatenate([part.get(name, np.full(len(part["step"]), np.nan)) for part in parts])
        for name in names
    }


def _last_of_each_step(columns: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    steps = columns["step"]
    if (np.diff(steps) > 0).all():
        return columns
    _, last = np.unique(steps[::-1], return_index=True)
    kept = len(steps) - 1 - last
    return {name: values[kept] for name, values in columns.items()}
