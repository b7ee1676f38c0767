"""Opening what a stranger may have put where a file belongs: a file, or an error, and never a wait.

A named pipe has nobody at its other end, and a device may have no end. Accepted trade-off: what a
shell hands over as a pipe (`<(command)`) is refused too; it must be saved first.
"""

import errno
import os
import stat
from collections.abc import Iterable
from io import BufferedReader
from pathlib import Path
from typing import IO

WHAT = "a pipe, a socket or a device"


class NotAFileError(OSError):
    """What should be a file is a pipe, a socket or a device. It was not read."""

    def __init__(self, path: str | Path) -> None:
        super().__init__(errno.EINVAL, f"it is {WHAT}, and no file", str(path))


def _opener(path: str, flags: int) -> int:
    try:
        descriptor = os.open(path, flags | os.O_NONBLOCK)
    except OSError as error:
        if error.errno == errno.ENXIO:  # a socket
            raise NotAFileError(path) from None
        raise
    mode = os.fstat(descriptor).st_mode
    # `open` itself says what a folder is.
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        return descriptor
    os.close(descriptor)
    raise NotAFileError(path)


def open_file(path: Path) -> BufferedReader:
    """A file's bytes to read. Raises OSError, for a pipe or a device too."""
    return open(path, "rb", opener=_opener)


def open_text(path: Path, encoding: str = "utf-8", errors: str = "strict") -> IO[str]:
    """A file's text to read. Raises OSError, for a pipe or a device too."""
    return open(path, encoding=encoding, errors=errors, opener=_opener)


def read_bytes(path: Path) -> bytes:
    """`path.read_bytes()` of a file. Raises OSError, for a pipe or a device too."""
    with open_file(path) as file:
        return file.read()


def read_text(path: Path, encoding: str = "utf-8", errors: str = "strict") -> str:
    """`path.read_text()` of a file. Raises OSError, for a pipe or a device too."""
    with open_text(path, encoding, errors) as file:
        return file.read()


def irregular(paths: Iterable[Path]) -> list[Path]:
    """Those that are there and neither a file nor a folder, links followed."""
    return [path for path in paths if _is_irregular(path)]


def _is_irregular(path: Path) -> bool:
    try:
        mode = path.stat().st_mode
    except OSError:
        return False  # whoever opens it says what is wrong
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))
