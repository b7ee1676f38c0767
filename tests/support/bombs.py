"""Small files that stand for much when they are unpacked."""

import io
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq


def packed(columns: dict[str, Any], **options: Any) -> bytes:
    """A Parquet file of these columns, packed."""
    stream = io.BytesIO()
    pq.write_table(pa.table(columns), stream, compression="zstd", **options)
    return stream.getvalue()


def repeated(text: str, rows: int) -> pa.DictionaryArray:
    """One text in so many rows, without taking their room."""
    return pa.DictionaryArray.from_arrays(np.zeros(rows, dtype=np.int32), pa.array([text]))


def parquet_bomb(rows: int = 3000) -> bytes:
    """Some 500 bytes: one text of a megabyte, in every row."""
    return packed({"text": repeated("a" * 2**20, rows)})
