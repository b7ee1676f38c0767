"""Starting processes of the warm server, whatever ran before in this one."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType


@contextmanager
def without_a_program() -> Iterator[None]:
    """Children repeat the program that started them, and a page under test leaves its script as
    that program; meanwhile there is none.
    """
    before = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = before
