"""Work that is killed at a random moment of its life and started again, many times over.

Children are forked from a server that has everything imported, so that a life is the work and not
the imports. A child dies of a real SIGKILL: half of them when a clock says so, the others just
before a change to the file system, because that is where halves are left. A life's first kill aims
at the kind of moment that was hit least, as an undisturbed life passed through them; a later one,
while the work goes on, comes at any time. It accepts that what a kill hits depends on the machine,
so that what is counted is what a dead one was found at; the aims themselves are seeded.
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
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
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

    passed: list[tuple[float, str]]
    """Its changes to the file system: after how many seconds, and at what it was just before."""
    seconds: float

    @property
    def changes(self) -> int:
        return len(self.passed)


@dataclass(frozen=True, slots=True)
class Aim:
    """When a life is to be cut short: before a change, or `after` seconds from one on; a change
    of -1 is its beginning. With a `moment` only the changes count that it is seen at."""

    change: int
    after: float | None = None
    moment: str | None = None


def _anywhere(lasted: Lasted, by_clock: bool, chance: random.Random) -> Aim:
    if by_clock:
        return Aim(-1, chance.random() * lasted.seconds)
    return Aim(chance.randrange(lasted.changes))


def _at(moment: str, lasted: Lasted, by_clock: bool, chance: random.Random) -> Aim:
    """Somewhere in a kind of moment; anywhere when the undisturbed life was never seen in it."""
    ends = [*lasted.passed, (lasted.seconds, lasted.passed[-1][1])]
    seen = [n for n, (_, name) in enumerate(lasted.passed) if name == moment]
    if not seen:
        return _anywhere(lasted, by_clock, chance)
    if not by_clock:
        return Aim(chance.randrange(len(seen)), moment=moment)
    # What lies before a change at which the moment was seen, by how long it lasted.
    lengths = [ends[n][0] - (ends[n - 1][0] if n else 0.0) for n in seen]
    [n] = chance.choices(seen, [max(length, 1e-6) for length in lengths])
    return Aim(n - 1, chance.random() * lengths[seen.index(n)])


def fork(target: Callable[..., object], *arguments: object) -> ForkServerProcess:
    """A process of the warm server that calls `target` of one of the tests' modules."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    process = context.Process(target=target, args=arguments)
    with without_a_program():
        process.start()
    return process


def on_change(seen: Callable[[int], object]) -> None:
    """Call `seen` just before each of this process's changes to the file system from here on, with
    its number from 0; what `seen` changes itself does not count."""
    own, changes, looking = os.getpid(), 0, False

    def watch(event: str, values: tuple[Any, ...]) -> None:
        nonlocal changes, looking
        opened = event == "open" and isinstance(values[2], int) and values[2] & _WRITES
        if (opened or event in _CHANGES) and os.getpid() == own and not looking:
            looking = True
            seen(changes)
            looking = False
            changes += 1

    sys.addaudithook(watch)


def dying_before(fatal: int) -> None:
    """Let this process die before the fatal one of its changes to the file system."""

    def seen(change: int) -> None:
        if change == fatal:
            os.kill(os.getpid(), signal.SIGKILL)

    on_change(seen)


def _live(
    act: Act,
    life: Path,
    aim: Aim | None,
    moment: Callable[[Path], str],
    tell: Connection,
) -> None:
    """A child: dies before the change that is aimed at, or tells of it; without an aim it tells of
    all its changes, each with the moment that it was at."""
    log = os.open(life.with_name(f"{life.name}.log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    life.mkdir(exist_ok=True)
    gc.freeze()  # what the server imported is not garbage, and looking through it takes long
    passed: list[tuple[float, str]] = []
    began, looked, there = time.monotonic(), 0.0, 0

    def seen(change: int) -> None:
        nonlocal looked, there
        if aim is None:
            now = time.monotonic()
            passed.append((now - began - looked, moment(life)))
            looked += time.monotonic() - now  # no part of the life
            return
        if aim.moment is not None:
            if moment(life) != aim.moment:
                return
            change, there = there, there + 1
        if change == aim.change:
            os.kill(os.getpid(), signal.SIGKILL) if aim.after is None else tell.send(None)

    on_change(seen)
    if aim is not None and aim.change == -1:
        tell.send(None)
    code = act(life)
    if aim is None:
        tell.send(Lasted(passed, time.monotonic() - began - looked))
    sys.exit(code)


def _whole(work: Work, act: Act, life: Path) -> Lasted:
    """A life to its end. Fails when that is not a good one."""
    hear, tell = multiprocessing.Pipe(duplex=False)
    process = fork(_live, act, life, None, work.moment, tell)
    tell.close()
    lasted = _heard(hear, process)
    process.join(_SECONDS)
    assert process.exitcode == 0, (process.exitcode, _log(life))
    assert isinstance(lasted, Lasted)
    return lasted


def _killed(work: Work, act: Act, life: Path, aim: Aim) -> bool:
    """A life that is cut short; False when it ended before."""
    hear, tell = multiprocessing.Pipe(duplex=False)
    process = fork(_live, act, life, aim, work.moment, tell)
    tell.close()
    if aim.after is not None:
        _heard(hear, process)  # or it ended without that change
        process.join(aim.after)
        process.kill()
    process.join(_SECONDS)
    if process.exitcode == 0:  # faster than the one that was timed, or with fewer changes
        return False
    assert process.exitcode == -signal.SIGKILL, (process.exitcode, _log(life))
    return True


def _heard(hear: Connection, process: ForkServerProcess) -> Any:
    """What a child tells; None when it ends without a word, which whoever it left behind may not
    let be seen at the pipe."""
    wait([hear, process.sentinel], _SECONDS)
    with suppress(EOFError):
        return hear.recv() if hear.poll() else None


def _log(life: Path) -> str:
    return life.with_name(f"{life.name}.log").read_text(encoding="utf-8", errors="replace")[-3000:]


def kill_and_go_on(
    work: Work, folder: Path, kills: int, seed: int = 1, least: int = 0
) -> Counter[str]:
    """So many kills, and some more while a kind of moment was hit less often than `least`; every
    life ends like the undisturbed one. Returns what the kills hit."""
    work.prepare(folder)
    _whole(work, work.begin, folder / "first")  # fills what all later ones find filled
    lasted = _whole(work, work.begin, folder / "undisturbed")
    expected = work.result(folder / "undisturbed")
    chance, hit, turn = random.Random(seed), Counter[str](), 0

    def enough() -> bool:
        if hit.total() < kills:
            return False
        rare = min(hit[each] for each in work.moments) < least
        return not rare or hit.total() >= kills + 4 * len(work.moments)

    while not enough():
        turn += 1
        life = folder / f"life-{turn}"
        by_clock = turn % 2 == 0
        rarest = min(work.moments, key=lambda name: (hit[name], chance.random()))
        act, aim = work.begin, _at(rarest, lasted, by_clock, chance)
        for n in range(1 if turn % 3 else 3):  # every third is killed again, while it goes on
            if enough() or not _killed(work, act, life, aim):
                break
            hit[work.moment(life)] += 1
            work.also(life, chance)
            act, aim = work.again, _anywhere(lasted, (n % 2 == 0) != by_clock, chance)
        _whole(work, work.again, life)
        found = work.result(life)
        assert found == expected, f"{life.name}: {_log(life)}"
        shutil.rmtree(life)
        life.with_name(f"{life.name}.log").unlink()
    return hit
