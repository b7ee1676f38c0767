"""Finished windows on disk, so that an interrupted profile goes on where it was.

A shard is one file, written atomically, that begins with the SHA-256 of the rest; a damaged one
counts as missing and is said. Arrays are narrowed but not compressed, because a shard lives for
minutes. Accepted cost: the folder is of use only to the same question, program and libraries.
"""

import io
import shutil
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from trace_engine.disk import read_json, write_bytes, write_json
from trace_engine.errors import InputError, RunError
from trace_engine.routing.storage import DAMAGE, Arrays, narrow

IDENTITY = "asked.json"
Say = Callable[[str], None]
"""Hears sentences about the work itself: what was resumed, what was damaged."""


def keep_quiet(sentence: str) -> None:
    """The listener that does not listen."""


class Shards:
    """The work folder of one profile."""

    def __init__(self, folder: Path, say: Say = keep_quiet) -> None:
        self._folder, self._say = folder, say

    def prepare(self, identity: Mapping[str, Any]) -> None:
        """Make the folder, or take it over; what another question or program left is removed.

        One process does this while no other works in the folder.
        """
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        asked = self._folder / IDENTITY
        try:
            known = read_json(asked)
        except RunError:
            known = "damaged"
        if known == dict(identity):
            names = self.names()
            if any(name.split("-")[1] in ("counts", "sum") for name in names):
                self._say("Resuming: finished parts of an interrupted profile found.")
        elif known is not None:
            self._say(
                "An interrupted profile of these sets was made by another version; starting again."
            )
            shutil.rmtree(self._folder)
            self._folder.mkdir(mode=0o700)
        write_json(asked, dict(identity))

    def check_shared(self) -> None:
        """Raise InputError when this process does not see what the leading one prepared."""
        if not (self._folder / IDENTITY).is_file():
            raise InputError(
                f"{self._folder} is not there in every process: all of them must share one "
                "TRACE_HOME. Nothing was profiled."
            )

    def names(self) -> set[str]:
        """Names of the shards that are there, sound or not."""
        return {path.name.removesuffix(".shard") for path in self._folder.glob("*.shard")}

    def write(self, name: str, arrays: Arrays) -> None:
        """Keep a part. Raises DiskFullError when there is no room; earlier parts stay."""
        buffer = io.BytesIO()
        # `narrow` refuses object arrays, the only ones that numpy would pickle.
        kept: dict[str, Any] = {key: narrow(array) for key, array in arrays.items()}
        np.savez(buffer, **kept)
        data = buffer.getvalue()
        write_bytes(self._path(name), sha256(data).hexdigest().encode() + data)

    def read(self, name: str) -> Arrays | None:
        """A part, or None when it is missing or damaged; damage is said and the file removed."""
        path = self._path(name)
        try:
            found = path.read_bytes()
        except FileNotFoundError:
            return None
        try:
            content = memoryview(found)[64:]
            if sha256(content).hexdigest().encode() != found[:64]:
                raise ValueError("its hash does not match")
            with np.load(io.BytesIO(content), allow_pickle=False) as archive:
                return {key: archive[key] for key in archive.files}
        except DAMAGE as error:
            self._say(f"{path.name} is damaged ({error}); it is computed again.")
            path.unlink(missing_ok=True)
            return None

    def drop(self, name: str) -> None:
        """Remove a part that another one now holds."""
        self._path(name).unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove the folder: the profile is finished."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.shard"
