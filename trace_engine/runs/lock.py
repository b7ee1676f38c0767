"""The exclusive `flock` that says whether a run's process is alive: the kernel frees it at any
death.

A lock belongs to an open file, so the launcher can take it and hand it to the worker through
`exec`. It accepts that `flock` wants POSIX and a local (or NFSv4) file system, and that a process
forked without `exec` shares it: the worker forks nothing.
"""

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from trace_engine.disk import open_own, require_no_link, saying_when_full
from trace_engine.errors import RunError
from trace_engine.regular import NotAFileError

_PATIENCE_SECONDS = 2.0
_LEAVING_SECONDS = 5.0


class LockedError(RunError):
    """Another process holds the lock."""


def _try(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _unusable(path: Path, error: OSError) -> RunError:
    return RunError(f"{path.parent.name}: its file {path.name} is no lock ({error.strerror}).")


def is_locked(path: Path) -> bool:
    """Whether some process holds the exclusive lock; a missing file is not locked. Raises RunError
    for what cannot be opened."""
    try:
        # A stranger's may be a pipe, which would wait for somebody at its other end.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError as error:
        require_no_link(path)
        raise _unusable(path, error) from None
    try:
        return not _try(descriptor, fcntl.LOCK_SH)
    finally:
        os.close(descriptor)


def is_held(path: Path) -> bool:
    """As `is_locked`, for a look at everything that is at work: what cannot be opened as a lock is
    held by no worker, because none could have taken it, and must not hide the others."""
    try:
        return is_locked(path)
    except RunError:
        return False


class FileLock:
    """An exclusive lock on a file, held until `release`, the process's end, or its heir's end."""

    def __init__(self, descriptor: int, path: Path) -> None:
        self.descriptor = descriptor
        """The open file that carries the lock; pass it to a child to hand the lock on."""
        self.path = path

    @classmethod
    def take(cls, path: Path, refusal: str) -> Self:
        """Take the lock or raise LockedError(refusal) at once; never waits for another holder.
        Raises DiskFullError where there is no room for its file.

        Readers probe with a shared lock for microseconds. When the exclusive lock fails but a
        shared one is granted, only readers were there, and it is tried again.
        """
        try:
            with saying_when_full(path.parent):
                descriptor = open_own(path, os.O_RDWR)
        except (IsADirectoryError, NotADirectoryError, NotAFileError) as error:
            raise _unusable(path, error) from None
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while not _try(descriptor, fcntl.LOCK_EX):
            if not _try(descriptor, fcntl.LOCK_SH) or time.monotonic() > deadline:
                os.close(descriptor)
                raise LockedError(refusal)
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        return cls(descriptor, path)

    @classmethod
    def take_over(cls, path: Path, refusal: str, leaving: Callable[[], bool]) -> Self:
        """As `take`, but waits for a holder that is `leaving`: one that has said its last word and
        has not ended yet.
        """
        deadline = time.monotonic() + _LEAVING_SECONDS
        while True:
            try:
                return cls.take(path, refusal)
            except LockedError:
                if not leaving() or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)

    @classmethod
    def inherit(cls, descriptor: int, path: Path) -> Self:
        """Adopt the lock that the launcher handed over as an open file.

        Raises LockedError when the descriptor is not `path`'s or does not hold its lock.
        """
        refusal = f"The worker was not handed the lock of {path.parent.name}."
        try:
            same = os.path.samestat(os.fstat(descriptor), path.stat())
        except OSError:
            raise LockedError(refusal) from None
        # Re-locking one's own open file succeeds; a stranger's descriptor would be refused here.
        if not same or not _try(descriptor, fcntl.LOCK_EX):
            raise LockedError(refusal)
        os.set_inheritable(descriptor, False)
        return cls(descriptor, path)

    def disown(self) -> None:
        """Close this process's copy and leave the lock with the child that inherited the open
        file."""
        os.close(self.descriptor)

    @contextmanager
    def handing_over(self) -> Iterator[None]:
        """For what is done between taking the lock and handing it on: whatever fails there frees
        it."""
        try:
            yield
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Free the lock, wherever else the open file may still be."""
        fcntl.flock(self.descriptor, fcntl.LOCK_UN)
        os.close(self.descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()
