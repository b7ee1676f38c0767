"""Work that is killed at a random moment of its life and started again, many times over.

Children are forked from a server that has everything imported, so that a life is the work and not
the imports. A child dies of a real SIGKILL: half of them when a clock says so, the others just
before a change to the file system, the n-th of their life, because that is where halves are left.
It accepts that what a moment hits depends on the machine; the moments themselves are seeded.
"""

import gc
import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from tests.support.forking import without_a_program

PRELOADED = ["tests.runs.real", "tests.kills.cases"]
"""What the server has imported, for all that fork from it in a process of the tests."""
_SECONDS = 120
_CHANGES = {
    *("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate"),
    "shutil.rmtree",
}
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT

Act = Callable[[Path], int]
"""Does work in the folder of a life, and returns the exit code of the command that did it."""


def _nobody_else(life: Path, chance: random.Random) -> None:
    """One process is all there is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """Something that goes on where it was killed."""

    prepare: Callable[[Path], None]
    """Writes what all lives read into the folder that theirs lie in."""
    begin: Act
    again: Act
    """What a person does after a kill; it is killed as well, now and then."""
    moment: Callable[[Path], str]
    """What a dead one was at, told by what it left."""
    result: Callable[[Path], Any]
    """What every life must come to, without clocks and names."""
    moments: tuple[str, ...]
    """Those that kills must have hit."""
    also: Callable[[Path, random.Random], None] = _nobody_else
    """Kills what else was at work, or does not."""


@dataclass(frozen=True, slots=True)
class Lasted:
    """An undisturbed life."""

    seconds: float
    changes: int
    """To the file system."""


def fork(target: Callable[..., object], *arguments: object) -> ForkServerProcess:
    """A process of the warm server that calls `target` of one of the tests' modules."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    process = context.Process(target=target, args=arguments)
    with without_a_program():
        process.start()
    return process


def dying_before(fatal: int | None) -> Callable[[], int]:
    """Let this process die before the fatal one of its changes to the file system from here on,
    counted from 0. Returns what says how many there were."""
    own, changes = os.getpid(), 0

    def watch(event: str, values: tuple[Any, ...]) -> None:
        nonlocal changes
        opened = event == "open" and isinstance(values[2], int) and values[2] & _WRITES
        if (opened or event in _CHANGES) and os.getpid() == own:
            if changes == fatal:
                os.kill(own, signal.SIGKILL)
            changes += 1

    sys.addaudithook(watch)
    return lambda: changes


def _live(act: Act, life: Path, fatal: int | None, tell: Connection) -> None:
    """A child: counts its changes to the file system, and dies before the fatal one."""
    log = os.open(life.with_name(f"{life.name}.log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    life.mkdir(exist_ok=True)
    gc.freeze()  # what the server imported is not garbage, and looking through it takes long
    changes = dying_before(fatal)
    code = act(life)
    tell.send(changes())
    sys.exit(code)


def _whole(act: Act, life: Path) -> Lasted:
    """A life to its end. Fails when that is not a good one."""
    begun = time.monotonic()
    hear, tell = multiprocessing.Pipe(duplex=False)
    process = fork(_live, act, life, None, tell)
    tell.close()
    process.join(_SECONDS)
    assert process.exitcode == 0, (process.exitcode, _log(life))
    return Lasted(time.monotonic() - begun, int(hear.recv()))


def _killed(act: Act, life: Path, lasted: Lasted, by_clock: bool, chance: random.Random) -> bool:
    """A life that is cut short; False when it ended before."""
    _, tell = multiprocessing.Pipe(duplex=False)
    fatal = None if by_clock else chance.randrange(lasted.changes)
    process = fork(_live, act, life, fatal, tell)
    if by_clock:
        process.join(chance.random() * lasted.seconds)
        process.kill()
    process.join(_SECONDS)
    if process.exitcode == 0:  # faster than the one that was timed, or with fewer changes
        return False
    assert process.exitcode == -signal.SIGKILL, (process.exitcode, _log(life))
    return True


def _log(life: Path) -> str:
    return life.with_name(f"{life.name}.log").read_text(encoding="utf-8", errors="replace")[-3000:]


def kill_and_go_on(work: Work, folder: Path, kills: int, seed: int = 1) -> Counter[str]:
    """So many kills; every life ends like the undisturbed one. Returns what the kills hit."""
    work.prepare(folder)
    _whole(work.begin, folder / "first")  # fills what all later ones find filled
    lasted = _whole(work.begin, folder / "undisturbed")
    expected = work.result(folder / "undisturbed")
    chance, hit, turn = random.Random(seed), Counter[str](), 0
    while hit.total() < kills:
        turn += 1
        life = folder / f"life-{turn}"
        act, by_clock = work.begin, turn % 2 == 0
        while hit.total() < kills and _killed(act, life, lasted, by_clock, chance):
            hit[work.moment(life)] += 1
            work.also(life, chance)
            # Every third is killed once more, while it goes on.
            act, by_clock = work.again, not by_clock
            if turn % 3:
                break
        _whole(work.again, life)
        found = work.result(life)
        assert found == expected, f"{life.name}: {_log(life)}"
        shutil.rmtree(life)
        life.with_name(f"{life.name}.log").unlink()
    return hit
