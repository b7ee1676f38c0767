"""Large arrays of a saved profile, mapped into memory instead of read.

An npz that is not compressed holds each array as it is in memory, so a page that opens a profile of
gigabytes reads only the cells that it shows. Accepted cost: the file's hash is still computed once
per opening, and mapped integers keep the narrow type that they have on disk.
"""

import hashlib
import struct
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from trace_engine.regular import open_file

_LOCAL_HEADER = 30
"""Bytes of a zip entry's own header before its name (PKWARE APPNOTE, 4.3.7)."""


def file_hash(path: Path) -> str:
    """SHA-256 of a file, read in pieces."""
    with open_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def mapped_arrays(path: Path) -> dict[str, NDArray[Any]] | None:
    """The arrays of an uncompressed npz, read-only; None when it is compressed.

    Raises BadZipFile, OSError or ValueError for a damaged file.
    """
    arrays: dict[str, NDArray[Any]] = {}
    with open_file(path) as file, zipfile.ZipFile(file) as archive:
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            return None
        for entry in archive.infolist():
            file.seek(entry.header_offset)
            header = file.read(_LOCAL_HEADER)
            name, extra = struct.unpack("<HH", header[26:30])
            file.seek(entry.header_offset + _LOCAL_HEADER + name + extra)
            arrays[entry.filename.removesuffix(".npy")] = _mapped(path, file)
    return arrays


def _mapped(path: Path, file: IO[bytes]) -> NDArray[Any]:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0
    if version != (1, 0):
        read = np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    if dtype.hasobject:
        raise ValueError("Python objects are not read from a profile")
    if not np.prod(shape):
        return np.zeros(shape, dtype)
    order: Any = "F" if fortran else "C"
    return np.asarray(np.memmap(path, dtype, "r", file.tell(), shape, order))
