"""Tables that `trace-moe bench` has written, read again: those of the home, and any folder.

A folder may come from elsewhere, so what a page draws is checked first: a damaged table is one
sentence, and so is a newer version's. Accepted trade-off: the trials beside it are not read, so
whether the figures follow from them is for the command to say, which makes the table again.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pandas as pd
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from trace_engine import formats
from trace_engine.benchmark.report import SAME, SUMMARY, TABLE
from trace_engine.benchmark.settings import BenchConfig, checked
from trace_engine.disk import read_json
from trace_engine.errors import InputError, RunError
from trace_engine.runs.places import subfolder

_FILES = (SUMMARY, TABLE, SAME)
MOST_BYTES = 32 * 2**20
"""Of one file; the bundled pack's largest has 0.14 MB."""
_TEXT = ("retain", "method", "weighting", "role", "measure", "group")
_NUMBERS = (
    "level", "value", "low", "high", "difference_value", "difference_low", "difference_high",
)  # fmt: skip
_SAME_TEXT = ("retain", "method", "weighting")
_SAME_NUMBERS = ("value", "low", "high", "higher", "both", "only_this", "only_compared")


class _Row(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)
    retain: str
    method: str
    weighting: str
    reached: int
    seeds: int
    own_settings: bool = False


class _Headline(BaseModel):
    model_config = ConfigDict(extra="ignore")
    retain: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    trace: tuple[str, str] | None = None
    baseline: tuple[str, str] | None = None

    @model_validator(mode="after")
    def _compares_something(self) -> Self:
        if self.value is not None and None in (self.trace, self.baseline):
            raise ValueError("a headline with a number says which two rows it compares")
        return self


class _Summary(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)
    config: dict[str, Any]
    rows: list[_Row]
    headlines: list[_Headline]


@dataclass(frozen=True, slots=True)
class StoredTable:
    """A finished table as its files have it."""

    config: BenchConfig
    summary: dict[str, Any]
    """table.json: settings, one entry a row, one headline a retain set."""
    figures: pd.DataFrame
    """table.csv: one line a figure, with interval and paired difference."""
    same: pd.DataFrame
    """same-settings.csv; empty for a table of a version that did not write it."""


def read_table(folder: str | Path) -> StoredTable | None:
    """The table in `folder`, or None where there is none.

    Raises RunError for one that is damaged, or that a newer version wrote.
    """
    try:
        return _read(Path(folder))
    except OSError as error:
        raise RunError(f"The table's files cannot be read: {error.strerror}.") from None


def list_tables(base: Path | None = None) -> dict[str, Path]:
    """Folders of the home's tables by name, in the order of names; where each came to an end.

    A folder or file that leads elsewhere is no table of this home.
    """
    try:
        return {
            place.name: place
            for place in sorted(subfolder("tables", base).iterdir())
            if _is_table(place)
        }
    except OSError as error:
        raise RunError(f"The folder of tables cannot be read: {error.strerror}.") from None


def _is_table(place: Path) -> bool:
    try:
        return (place / SUMMARY).is_file() and not any(
            path.is_symlink() for path in (place, *(place / name for name in _FILES))
        )
    except OSError:
        return not place.is_symlink()  # whoever opens it is told what is wrong


def default_folder(name: str, base: Path | None = None) -> Path:
    """Where a table is written when nobody says where, so that *Compare* offers it."""
    return subfolder("tables", base) / name


def _read(place: Path) -> StoredTable | None:
    for name in _FILES:
        if (place / name).is_file() and (place / name).stat().st_size > MOST_BYTES:
            raise RunError(f"{name} is larger than {MOST_BYTES >> 20} MiB, so it is not read.")
    summary = read_json(place / SUMMARY)
    if summary is None or not (place / TABLE).is_file():
        return None
    try:
        if not isinstance(summary, dict):
            raise ValueError("it is no object")
        formats.require_known(summary, formats.TABLE, "The table", RunError)
        _Summary.model_validate(summary)
        config = checked(summary["config"], "the table's settings")
    except (ValidationError, InputError, ValueError) as error:
        raise RunError(f"{SUMMARY} is damaged: {_first(error)}.") from None
    same = place / SAME
    return StoredTable(
        config,
        summary,
        _frame(place / TABLE, _TEXT, _NUMBERS),
        _frame(same, _SAME_TEXT, _SAME_NUMBERS) if same.is_file() else pd.DataFrame(),
    )


def _frame(path: Path, text: tuple[str, ...], numbers: tuple[str, ...]) -> pd.DataFrame:
    try:
        # A name may be NA or null; only a number can be missing.
        found = pd.read_csv(
            path,
            dtype=dict.fromkeys(text, str),
            keep_default_na=False,
            na_values={name: [""] for name in numbers},
        )
        lacking = [name for name in (*text, *numbers) if name not in found.columns]
        if lacking:
            raise ValueError(f"it has no column {lacking[0]}")
        for name in numbers:
            found[name] = pd.to_numeric(found[name])
        if not found[list(text)].map(lambda value: isinstance(value, str)).all(axis=None):
            raise ValueError("a name is missing")
        return found
    except (ValueError, OverflowError) as error:  # pandas' parser errors are ValueErrors
        raise RunError(f"{path.name} is damaged: {_first(error)}.") from None


def _first(error: Exception) -> str:
    """What is wrong, in one line, without what a stranger wrote at length."""
    if isinstance(error, ValidationError):
        found = error.errors()[0]
        where = ".".join(str(part)[:40] for part in found["loc"])
        return f"{where}: {found['msg'][:100]}"
    return (str(error).splitlines() or [type(error).__name__])[0][:200].rstrip(".")
