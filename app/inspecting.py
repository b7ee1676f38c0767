"""Runs `trace-moe inspect` for the page, in a process of its own, and keeps its answers.

Looking at a model needs torch, which the app's process never loads. Accepted trade-off: each look
pays for starting Python, a few seconds, so an answer is kept until a file of the folder changes.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from trace_engine.bundled import resolve_source
from trace_engine.config import ModelConfig
from trace_engine.errors import InputError, ModelError
from trace_engine.runs.detach import environment_of_children

PATIENCE_SECONDS = 900.0
"""A few files of a hub model are fetched first; whatever takes longer is ended, and the hub's cache
keeps its part."""
_PHASE = " of 3 steps"
_REFUSAL = "trace-moe: "
_REFUSED = 2
"""The command's exit code; where the model does not fit here, its answer comes all the same."""


def question(config: ModelConfig, *, trial: bool = False) -> str:
    """What an answer is kept under: the settings, and the state of the folder's files."""
    files = []
    try:
        folder = Path(resolve_source(config.source)).expanduser()
        if os.path.isdir(folder):
            files = sorted(
                (entry.name, entry.stat().st_size, entry.stat().st_mtime_ns)
                for entry in os.scandir(folder)
            )
    except (InputError, OSError):
        pass  # the inspection itself says what is wrong with the folder
    return json.dumps([config.model_dump(mode="json"), files, trial])


class NoAnswerError(ModelError):
    """The process ended, or was ended, before it could say anything of the model."""


class Inspecting:
    """One inspection under way; as a context manager it never outlives the page's run."""

    def __init__(
        self, config: ModelConfig, *, trial: bool = False, owner: str | None = None
    ) -> None:
        self.owner = owner
        self._started = time.monotonic()
        self._folder = tempfile.TemporaryDirectory(prefix="trace-inspect-")
        folder = Path(self._folder.name)
        self._out, self._err = folder / "out", folder / "err"
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self._process = subprocess.Popen(
                command(config, trial=trial),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=environment_of_children(),
            )

        _open.add(self)

    @property
    def at_work(self) -> bool:
        return self._process.poll() is None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        _open.discard(self)
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._folder.cleanup()

    def phases(self, interval: float = 0.25) -> Iterator[str]:
        """What it is doing, again and again until it ends. Raises NoAnswerError when it takes too
        long."""
        while self._process.poll() is None:
            if time.monotonic() - self._started > PATIENCE_SECONDS:
                raise NoAnswerError(
                    f"Looking at the model took longer than {PATIENCE_SECONDS / 60:.0f} minutes "
                    "and was ended. Nothing was changed; a download can be continued by trying "
                    "again."
                )
            said = [line for line in self._errors() if line.endswith(_PHASE)]
            yield said[-1].partition(":")[0] if said else "starting a process for it"
            time.sleep(interval)

    def result(self) -> dict[str, Any]:
        """The answer once it has ended, that of a model which does not fit here too. Raises
        ModelError with the command's own sentence."""
        code = self._process.wait()
        said = self._out.read_text(encoding="utf-8")
        if code == 0 or (code == _REFUSED and said):
            answer: dict[str, Any] = json.loads(said)
            return answer
        refusals = [line for line in self._errors() if line.startswith(_REFUSAL)]
        if refusals:
            raise ModelError(refusals[-1].removeprefix(_REFUSAL))
        if code < 0:
            raise NoAnswerError(
                f"The inspection was ended by signal {-code}, often for want of memory. Nothing "
                "was changed."
            )
        raise NoAnswerError(
            f"The inspection ended with code {code} and no answer. `trace-moe inspect` on a "
            "terminal shows why."
        )

    def _errors(self) -> list[str]:
        return self._err.read_text(encoding="utf-8", errors="replace").splitlines()


_open: weakref.WeakSet[Inspecting] = weakref.WeakSet()


def under_way(owner: str | None = None) -> int:
    """How many looks at a model this server makes now: of one person or, with None, of
    everybody."""
    return sum(look.at_work and (owner is None or look.owner == owner) for look in list(_open))


def command(config: ModelConfig, *, trial: bool = False) -> list[str]:
    """The command line; files are not hashed, so that a large model is answered in seconds."""
    words = [sys.executable, "-m", "trace_engine.cli", "inspect", "--json", "--no-fingerprint"]
    words += ["--trial"] if trial else []
    # With `=`, and the source after `--`: what a person typed is never taken for an option.
    words += [f"--{name}={value}" for name, value in options(config)]
    return [*words, "--", config.source]


def options(config: ModelConfig) -> list[tuple[str, str]]:
    """The model's settings that differ from their defaults, as command-line options."""
    fields = type(config).model_fields
    return [
        (name.replace("_", "-"), str(getattr(config, name)))
        for name in ("revision", "dtype", "device", "experts_implementation", "quantization")
        if getattr(config, name) != fields[name].default
    ]
