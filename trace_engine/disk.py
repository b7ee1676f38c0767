"""Writing so that a reader, or a machine that loses power, sees the old file or the new one, never
half.

Small files are replaced atomically; metrics are appended to, and their unterminated last line does
not exist. It accepts a few milliseconds of fsync per file.
"""

import contextlib
import errno
import hashlib
import json
import math
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trace_engine.errors import RunError
from trace_engine.regular import NotAFileError, open_file, read_bytes, read_text

Stamp = tuple[int, int, int]
"""Inode, size and time of change: a file that was replaced or appended to has another one."""
_MOST_DIGITS = 300
"""Of a whole number in JSON; a float ends at 308."""
_LEFTOVER = re.compile(r"\..+\.(tmp|old)|\.deleted-.+")
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_SAID = re.compile(r"(?:\[Errno |\(os error )(\d+)[\])]")
"""How shutil and safetensors give the system's number: in their text alone."""
_RESERVE = ".reserve.tmp"
LAST_WORDS = 64 * 1024
"""Bytes that status, events and log of an end may take together."""


class DiskFullError(RunError):
    """There is no room for what must be written next; everything written before is intact."""


class LinkedFileError(RunError):
    """A file to write in is a symbolic link, which may lead anywhere. Nothing was written."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"{path.parent.name}: its file {path.name} is a symbolic link, and nothing is written "
            "through one. Put the file itself there, or remove the link."
        )


def stamp(path: Path) -> Stamp | None:
    """What tells a file's present bytes from earlier ones; None when there is no such file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def require_no_link(path: Path) -> None:
    """Raise LinkedFileError where a file to write in is a link; folders above it may be links."""
    if path.is_symlink():
        raise LinkedFileError(path)


def open_own(path: Path, flags: int) -> int:
    """Open a file to write in, made when missing; the name of whatever is appended to or locked.

    A folder copied by hand may have anything in its place. Raises LinkedFileError for a link, and
    OSError, for a pipe or a device too.
    """
    flags |= os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, 0o644)
    except OSError:
        require_no_link(path)
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise NotAFileError(path)
    return descriptor


def fsync_path(path: Path) -> None:
    """Make a file's bytes, or the names inside a directory, durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def commit(temporary: Path, target: Path) -> None:
    """Flush `temporary` and let it take the place of `target`, in the same directory."""
    fsync_path(temporary)
    os.replace(temporary, target)
    fsync_path(target.parent)


def _beside(path: Path) -> Path:
    """A name that no other writer of `path` has, in this process either: pages are its threads."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")


def write_bytes(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Replace `path` atomically. Raises DiskFullError when there is no room."""
    temporary = _beside(path)
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with open(descriptor, "wb") as file:
            file.write(data)
        commit(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise_if_full(error, path.parent, len(data))
        # The name that the caller knows, not that of the file beside it.
        error.filename = str(path)
        raise


def write_text(path: Path, text: str, *, mode: int = 0o644) -> None:
    """Replace `path` atomically by UTF-8 text. Raises DiskFullError when there is no room."""
    write_bytes(path, text.encode(), mode=mode)


def write_json(path: Path, data: Any, *, mode: int = 0o644) -> None:
    """Replace `path` atomically by strict JSON; NaN and infinity become null."""
    write_bytes(path, _json(data, indent=1) + b"\n", mode=mode)


def _json(data: Any, indent: int | None = None) -> bytes:
    # Half of a surrogate pair, which UTF-8 lacks, becomes the escape that JSON has for it.
    return json.dumps(strict(data), ensure_ascii=False, indent=indent).encode(
        "utf-8", "backslashreplace"
    )


def write_json_quickly(path: Path, data: Any) -> None:
    """Replace `path` so that no reader sees half, without waiting for the disk: for what may be
    lost."""
    temporary = _beside(path)
    try:
        temporary.write_bytes(_json(data))
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def parse_json(text: str | bytes) -> Any:
    """JSON that a stranger may have written. Raises ValueError for whatever cannot be read, as
    brackets too deep for the stack are, and whole numbers that no float can hold."""
    if isinstance(text, bytes):
        text = text.decode(json.detect_encoding(text), "surrogatepass")
    # A short text has no long number in it, and numbers are not looked at one by one then.
    decoder = _JSON if len(text) > _MOST_DIGITS else _SHORT
    try:
        value, end = decoder.raw_decode(text)
        if end == len(text):
            return value
    except (ValueError, RecursionError):
        pass  # `decode` allows white space around a value, and says what is wrong
    try:
        return decoder.decode(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _whole(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


_JSON = json.JSONDecoder(parse_int=_whole)
_SHORT = json.JSONDecoder()
"""Made once: there can be 100,000 lines."""


def read_json(path: Path) -> Any:
    """The JSON in `path`, or None when there is no such file. Raises RunError when it is
    damaged, or no file."""
    try:
        return parse_json(read_text(path))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unreadable(path, error) from None
    except ValueError as error:
        raise RunError(f"{path.name} is damaged: it is not JSON ({error}).") from None


def _unreadable(path: Path, error: OSError) -> RunError:
    reason = error.strerror or "the system gives no reason"
    return RunError(f"{path.name} cannot be read ({reason}).")


def strict(data: Any) -> Any:
    """`data` with every NaN and infinity as None: JSON has neither, and a plot shows a gap."""
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, dict):
        return {str(key): strict(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [strict(value) for value in data]
    return data


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Every complete line of a JSON-lines file; a last line without its newline is still being
    written.

    Raises RunError naming the physical line when a complete one is not a JSON object, or when the
    file cannot be read.
    """
    try:
        complete, _, _ = read_bytes(path).rpartition(b"\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise _unreadable(path, error) from None
    rows = []
    for number, line in enumerate(complete.split(b"\n"), start=1):
        if not line:
            continue
        try:
            row = parse_json(line)
        except ValueError:
            raise RunError(f"{path.name}, line {number} is damaged: it is not JSON.") from None
        if not isinstance(row, dict):
            raise RunError(f"{path.name}, line {number} is damaged: it is not a JSON object.")
        rows.append(row)
    return rows


def read_last_line(path: Path, window: int = 65536) -> dict[str, Any] | None:
    """The last complete line of a JSON-lines file, read from its end; None when there is none.
    Raises RunError when the file cannot be read."""
    try:
        with open_file(path) as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - window))
            complete = file.read().rpartition(b"\n")[0]
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unreadable(path, error) from None
    try:
        row = parse_json(complete.rpartition(b"\n")[2])
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


class Appender:
    """The one writer of a JSON-lines file; opening it cuts a line that a killed writer left
    unfinished. Raises LinkedFileError for a link, and changes nothing then."""

    def __init__(self, path: Path) -> None:
        self._descriptor = open_own(path, os.O_RDWR | os.O_APPEND)
        self._path = path
        self._named = False
        with open(self._descriptor, "rb", closefd=False) as file:
            content = file.read()
        os.ftruncate(self._descriptor, content.rfind(b"\n") + 1)

    def append(self, row: dict[str, Any]) -> None:
        """Add one row as one line, in one write. Raises DiskFullError when there is no room."""
        line = _json(row) + b"\n"
        try:
            if os.write(self._descriptor, line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise_if_full(error, self._path.parent, len(line))
            raise

    def sync(self) -> None:
        """Make the rows so far durable, and the file's name when it is the first time: a checkpoint
        must never be newer than its curve."""
        os.fsync(self._descriptor)
        if not self._named:
            fsync_path(self._path.parent)
            self._named = True

    def close(self) -> None:
        os.close(self._descriptor)


def place_folder(target: Path, write: Callable[[Path], object], needed: int | None = None) -> None:
    """Let `write` fill a new folder, make it durable, and rename it to `target`; what is there
    moves aside first and comes back when the rename fails.

    Raises DiskFullError, for `needed` bytes where they are known, once its half is removed.
    """
    with saying_when_full(target.parent, needed):
        target.parent.mkdir(parents=True, exist_ok=True)
        _place(target, write)


def _place(target: Path, write: Callable[[Path], object]) -> None:
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    retired = temporary.with_suffix(".old")
    try:
        write(temporary)
        for path in (temporary, *temporary.rglob("*")):
            fsync_path(path)
        if target.exists():
            target.rename(retired)
        temporary.rename(target)
    except BaseException as error:
        if retired.exists() and not target.exists():
            retired.rename(target)
        if isinstance(error, OSError) and error.filename in (str(temporary), temporary):
            error.filename = str(target)
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(retired, ignore_errors=True)
    fsync_path(target.parent)


def is_leftover(name: str) -> bool:
    """Whether it is the name of what a writer puts beside its target until that is whole."""
    return _LEFTOVER.fullmatch(name) is not None


def remove_leftovers(folder: Path, *, of: str = "", older_than: float = 0.0) -> None:
    """Remove what killed writers left in `folder` (beside `of` alone, where named).

    The caller holds the lock that every writer there holds, or names an age in seconds that no
    writer at work reaches.
    """
    for path in list(folder.iterdir()) if folder.is_dir() else ():
        if not is_leftover(path.name) or not path.name.startswith(f".{of}"):
            continue
        with contextlib.suppress(FileNotFoundError):
            if time.time() - path.lstat().st_mtime < older_than:
                continue
            remove_folder(path) if path.is_dir() else path.unlink()


def delete_folder(folder: Path) -> None:
    """Remove a folder that readers find whole or not at all; what a kill leaves of it is a
    leftover, named `.deleted-…`."""
    doomed = folder.with_name(f".deleted-{folder.name}")
    os.replace(folder, doomed)
    remove_folder(doomed)


def remove_folder(folder: Path) -> None:
    """Remove a folder and what is in it, though another process may be removing it as well."""

    def failed(_: object, __: object, found: tuple[Any, BaseException, Any]) -> None:
        if not isinstance(found[1], FileNotFoundError):
            raise found[1]

    shutil.rmtree(folder, onerror=failed)


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes, read in pieces."""
    with open_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def require_space(folder: Path, needed: int) -> None:
    """Raise DiskFullError unless `needed` bytes are free where `folder` is."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise DiskFullError(f"disk full, {size(needed)} needed, {size(free)} free.")


def when_full(error: BaseException, folder: Path, needed: int | None = None) -> str | None:
    """The sentence for "no space left" and "over quota", whichever library met them; None for
    another error. Where nobody knows what is needed, it is more than there was."""
    number = error.errno if isinstance(error, OSError) else None
    said = _SAID.search(str(error)) if number is None else None
    if (int(said[1]) if said else number) not in _NO_ROOM:
        return None
    there = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(there).free
    if free > (needed or 0) and _out_of_names(there):
        return (
            f"disk full: its file system is out of inodes and takes no further file, with "
            f"{size(free)} free. Delete files that are not needed."
        )
    asked = f"more than {size(free)}" if needed is None else size(needed)
    return f"disk full, {asked} needed, {size(free)} free."


def _out_of_names(folder: Path) -> bool:
    """Whether there is no room for one more file; some file systems count none."""
    found = os.statvfs(folder)
    return found.f_files > 0 and found.f_favail == 0


def raise_if_full(error: BaseException, folder: Path, needed: int | None = None) -> None:
    """Raise DiskFullError with the sentence of `when_full`, where there is one."""
    said = when_full(error, folder, needed)
    if said is not None:
        raise DiskFullError(said) from error


@contextmanager
def saying_when_full(folder: Path, needed: int | None = None) -> Iterator[None]:
    """Raise DiskFullError for a disk that is full while something is saved in `folder`."""
    try:
        yield
    except Exception as error:
        raise_if_full(error, folder, needed)
        raise


def reserve_last_words(folder: Path) -> None:
    """Take the room that a last word needs, so that a disk that fills up leaves it to be said.

    Where a kill comes before it is given back, it is a leftover by its name. Raises DiskFullError.
    """
    write_bytes(folder / _RESERVE, bytes(LAST_WORDS))


def free_last_words(folder: Path) -> None:
    """Give that room back; the last word comes next."""
    (folder / _RESERVE).unlink(missing_ok=True)


def size(count: int) -> str:
    """A byte count for a person: 812 B, 3.4 MB."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"
