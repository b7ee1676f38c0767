"""Tables on screen and as files: CSV that a spreadsheet can open safely, JSON, Parquet.

Text that starts like a formula is prefixed in CSV only; JSON and Parquet keep it as it is, because
nothing evaluates it there. Numbers stay numbers everywhere. Files are made when asked for, not on
every run. Streamlit's own download of a table, which prefixes nothing, is off (`.streamlit`); so is
its copying of cells, which spreadsheets evaluate too.
"""

import csv
import io
from collections.abc import Callable
from functools import partial
from typing import Any

import pandas as pd
import streamlit as st

from trace_engine.csvfile import safe_cell

_WORD_WIDTH = 105
"""Pixels in which "not measured" can be read."""


def to_csv(table: pd.DataFrame) -> bytes:
    """CSV, UTF-8 with BOM so that spreadsheets read accents.

    Text that starts with = + - @ tab or CR is prefixed with an apostrophe, column names included.
    """
    text_columns = [c for c in table.columns if not pd.api.types.is_numeric_dtype(table[c])]
    safe = table.assign(**{str(c): table[c].map(safe_cell) for c in text_columns})
    safe.columns = pd.Index([safe_cell(str(c)) for c in safe.columns])
    # Quoting all text keeps a carriage return inside its field: pandas alone would not.
    return safe.to_csv(index=False, quoting=csv.QUOTE_NONNUMERIC).encode("utf-8-sig")


def to_json(table: pd.DataFrame) -> bytes:
    """A list of one object per row."""
    return str(table.to_json(orient="records", indent=1, force_ascii=False)).encode()


def to_parquet(table: pd.DataFrame) -> bytes:
    """One Parquet file, types kept."""
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False)
    return buffer.getvalue()


FORMATS: dict[str, tuple[Callable[[pd.DataFrame], bytes], str]] = {
    "CSV": (to_csv, "text/csv"),
    "JSON": (to_json, "application/json"),
    "Parquet": (to_parquet, "application/vnd.apache.parquet"),
}


def numbers(*columns: str) -> dict[str, Any]:
    """Column settings of figures that may be missing: three digits, and room for the word."""
    column = st.column_config.NumberColumn(format="%.3f", width=_WORD_WIDTH)
    return dict.fromkeys(columns, column)


def downloads(table: pd.DataFrame, name: str, *, key: str | None = None) -> None:
    """A small menu with one button per format; `name` is the file name without its ending."""
    with st.popover("Download", icon=":material/download:", type="tertiary"):
        buttons(table, name, key=key)


def buttons(table: pd.DataFrame, name: str, *, key: str | None = None) -> None:
    """One download button per format; files are made when a button is pressed."""
    for label, (make, mime) in FORMATS.items():
        st.download_button(
            f"{name}.{label.lower()}",
            data=partial(make, table),
            file_name=f"{name}.{label.lower()}",
            mime=mime,
            key=f"{key or name}-{label}",
            on_click="ignore",
            type="tertiary",
        )


def show(
    table: pd.DataFrame,
    name: str,
    *,
    alt: str,
    column_config: dict[str, Any] | None = None,
    height: int | None = None,
    key: str | None = None,
    download: pd.DataFrame | None = None,
    missing: str | None = None,
) -> None:
    """A table with its downloads under it. `alt` describes it for a screen reader.

    `download` is what the files hold when that is more than the screen shows; `missing` is what
    the screen says in an empty cell, which the files leave empty.
    """
    st.dataframe(
        table,
        hide_index=True,
        column_config=column_config,
        height=height if height is not None else "auto",
        placeholder=missing,
        alt=alt,
    )
    downloads(table if download is None else download, name, key=key)
