"""Fifty people at once: server time, errors and memory while many sessions use one server.

A data home is prepared with 500 runs, one of them with 100,000 rows and one at work, a simulated
profile of 94 layers x 160 experts and a set of 50 MB. Sessions are clients of Streamlit's own
protocol, and a few are tabs of Chromium. Each round opens them all on the map, lets each move about
it, and closes them; what the server's memory does over the rounds is the figure: does it level off?
Processor seconds are the server's own; those on the clock stretch with whatever else the machine
does. The run at work is a held lock over 100,000 written rows, and a thread that adds a row every
36 ms, as an hour of them would come; not a worker, which would take the cores that are measured
here: pages cannot tell the two apart, and a real worker's rows under a watching page are
tests/browser/test_journey.py's. It ends with 1 when a page shows an error, a page's median is over
a second, or memory grows by more than MOST_GROWTH_MIB a session and round.
"""

import argparse
import asyncio
import json
import math
import re
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlencode

import psutil

from app.memory import QUIET_SECONDS
from bench import hardware
from bench.scale import simulate
from tests.app.stored import eval_row, train_row, write_run
from tests.support.server import Server, chromium, find_chromium, server
from tests.support.sessions import Session
from trace_engine.disk import Appender
from trace_engine.routing import mismatch
from trace_engine.runs import RunDirectory

READY = '[data-testid="stApp"][data-test-script-state="notRunning"]'
SEED = "seed"
"""What the field is called in the address."""
KEY = "10ad" * 8
"""The simulated profile's."""
TARGET_SECONDS = 1.0
"""Of the server's processor, the median of a page's runs once it was seen."""
MOST_GROWTH_MIB = 0.5
"""A session and round. A figure that every visit leaves adds 0.9 (design/LOG.md)."""
MOST_MIB = 2048
"""Of the server's process, at any moment that is noted."""
ROW_SECONDS = 0.036
"""An hour has 100,000 of them."""
FIRST, READ = ", first", "a large set, read"
"""What is done once: told, and no page's median."""
SETTLED_SECONDS = 10 * QUIET_SECONDS
"""Without a fall of the memory; a busy machine trims later than it is asked to."""
WARM_ROUNDS = 2
"""After these, caches and heaps are as full as they get."""


@dataclass(frozen=True)
class Home:
    """A data home with much in it."""

    folder: Path
    long: RunDirectory
    """A finished run of many rows."""
    live: RunDirectory
    """A run of many rows that goes on, once its lock is held."""
    upload: Path


def prepare(
    folder: Path,
    *,
    runs: int = 500,
    rows: int = 100_000,
    layers: int = 94,
    experts: int = 160,
    tokens: int = 10**8,
    blocks: int = 128,
    sample: int = 20_000,
    upload_bytes: int = 50 * 10**6 - 10_000,
) -> Home:
    """Fill `folder`."""
    brief = [eval_row(0, 0.9, 0.9), *map(train_row, range(1, 21)), eval_row(20, 0.4, 0.8)]
    for number in range(runs - 2):
        write_run(folder, brief, name=f"run {number}")
    long = write_run(folder, [], name="a long one", max_steps=rows)
    # Far from its end: it is written to as long as it is looked at.
    live = write_run(folder, [], "running", name="at work", max_steps=rows + 100_000)
    for run in (long, live):
        with (run.path / "metrics.jsonl").open("w", encoding="utf-8") as file:
            for step in range(1, rows + 1):
                file.write(json.dumps({"attempt": 1, **train_row(step, 1 + 1 / step)}) + "\n")
                if step % max(1, rows // 100) == 0:
                    row = eval_row(step, 0.9 - 0.5 * step / rows, 0.9)
                    file.write(json.dumps({"attempt": 1, **row}) + "\n")
    profile = simulate(
        layers, experts, tokens=tokens, blocks=blocks, sample=sample, top_k=min(8, experts // 2)
    )
    target = folder / "profiles" / KEY
    target.parent.mkdir(exist_ok=True)
    profile.save(target)
    mismatch(profile, permutations=99, bootstrap=100).save(target)
    upload = folder / "upload.jsonl"
    with upload.open("w", encoding="utf-8") as file:
        written = number = 0
        while written < upload_bytes:
            number += 1
            text = f"Document {number}: " + "many words of one kind or another, " * 30
            written += file.write(json.dumps({"text": text}) + "\n")
    return Home(folder, long, live, upload)


@dataclass
class Figures:
    """What was measured."""

    faults: list[str] = field(default_factory=list)
    memory: dict[str, list[float]] = field(default_factory=dict)
    """MiB of the server's process, by moment and round."""
    seconds: dict[str, list[float]] = field(default_factory=dict)
    """On the clock, one a rerun."""
    processor: dict[str, list[float]] = field(default_factory=dict)
    """Of the server, one a page alone, or the mean of a round."""
    ticks: int = 0
    appended: int = 0
    """Rows that the run at work got meanwhile."""


class Load:
    """One server and what is done to it."""

    def __init__(self, home: Home, served: Server) -> None:
        self.home, self.served = home, served
        self.figures = Figures()
        self._process = psutil.Process(served.pid)

    def processor(self) -> float:
        used = self._process.cpu_times()
        return float(used.user + used.system)

    def note_memory(self, moment: str) -> None:
        mebibytes = self._process.memory_info().rss / 2**20
        self.figures.memory.setdefault(moment, []).append(mebibytes)
        # Minutes lie between two of these, and a fault at the end must not lose them.
        print(f"{moment}: {mebibytes:.0f} MiB", file=sys.stderr, flush=True)

    async def note_settled_memory(self, moment: str) -> None:
        """As `note_memory`, once the server has given back what it gives back."""
        least, since = float("inf"), time.monotonic()
        while time.monotonic() - since < SETTLED_SECONDS:
            await asyncio.sleep(QUIET_SECONDS / 4)
            found = self._process.memory_info().rss / 2**20
            if found < least - 1:
                least, since = found, time.monotonic()
        self.note_memory(moment)

    async def page_alone(self, name: str, page: str, repetitions: int = 3, **query: str) -> None:
        """Server time of a page that nobody else disturbs; its first run is told apart."""
        before = self.processor()
        async with Session.open(self.served.address, page, urlencode(query)) as session:
            self.figures.processor[name + FIRST] = [self.processor() - before]
            for _ in range(repetitions):
                before = self.processor()
                self.figures.seconds.setdefault(name, []).append(await session.run())
                used = self.processor() - before
                self.figures.processor.setdefault(name, []).append(used)
            self.figures.faults += session.faults
        used = statistics.median(self.figures.processor[name])
        print(f"{name}: {used:.2f} s", file=sys.stderr, flush=True)

    async def crowd(
        self, sessions: int, reruns: int, known: list[str], layers: int, experts: int
    ) -> list[str]:
        """One round: all open at once on the map, move about it, and close. One follows the run
        at work. Returns the sessions' ids, by which they may come back."""
        cpu, count = self.processor(), 0
        address = self.served.address
        query = urlencode({"profile": KEY})
        async with AsyncExitStack() as stack:
            watching = Session.open(address, "unlearn", urlencode({"run": self.home.live.id}))
            watcher = await stack.enter_async_context(watching)

            async def open_(number: int) -> Session:
                old = known[number] if number < len(known) else ""
                opened = Session.open(address, "routing_map", query, known=old)
                return await stack.enter_async_context(opened)

            async def move(number: int, session: Session) -> None:
                for turn in range(reruns):
                    place = 7 * number + turn
                    label, most = (("Layer", layers), ("Expert", experts))[turn % 2]
                    taken = await session.enter(label, float(place % most))
                    self.figures.seconds.setdefault("crowd", []).append(taken)

            opened = [await open_(number) for number in range(sessions)]
            await asyncio.gather(*(move(number, one) for number, one in enumerate(opened)))
            count = sessions * (reruns + 1) + 1
            self.note_memory("all open")
            for session in (watcher, *opened):
                self.figures.faults += session.faults
            self.figures.ticks += watcher.ticks
            ids = [session.id for session in opened]
        used = (self.processor() - cpu) / count
        self.figures.processor.setdefault("crowd", []).append(used)
        print(f"crowd: {used:.2f} s a rerun", file=sys.stderr, flush=True)
        await self.note_settled_memory("all closed")
        return ids


@contextmanager
def writing(run: RunDirectory, figures: Figures) -> Iterator[None]:
    """Add rows to the run meanwhile, as its worker would. The caller holds its lock."""
    done, first = threading.Event(), run.status().step + 1

    def write() -> None:
        rows = Appender(run.path / "metrics.jsonl")
        while not done.wait(ROW_SECONDS):
            step = first + figures.appended
            rows.append({"attempt": 1, **train_row(step, 1 + 1 / step)})
            figures.appended += 1
            if step % 1000 == 0:
                rows.append({"attempt": 1, **eval_row(step, 0.4, 0.9)})
        rows.close()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        yield
    finally:
        done.set()
        writer.join()


def growth(closed: list[float]) -> float:
    """MiB a round, after the first: what is left once all have closed, as the median of the slopes
    between any two rounds, so that one odd reading does not count; NaN for too few rounds."""
    late = list(enumerate(closed[WARM_ROUNDS:]))
    slopes = [(b - a) / (later - one) for (one, a), (later, b) in combinations(late, 2)]
    return statistics.median(slopes) if slopes else float("nan")


def rounds(load: Load, number: int, sessions: int, reruns: int, layers: int, experts: int) -> None:
    """`number` rounds of the crowd; from the second on, tabs come back under their ids."""
    ids: list[str] = []
    # In a thread of its own, because playwright has this one's event loop.
    with ThreadPoolExecutor(1) as thread:
        for _ in range(number):
            crowd = load.crowd(sessions, reruns, ids, layers, experts)
            ids = thread.submit(asyncio.run, crowd).result()


def browse(load: Load, tabs: int, between: Callable[[], None]) -> None:
    """`tabs` tabs of Chromium on the map, and one with the large set, while `between` runs."""
    with chromium() as browser:
        pages = [browser.new_page() for _ in range(tabs)]
        for page in pages:
            page.goto(f"{load.served.address}/routing_map?profile={KEY}")
            page.wait_for_selector("h1", timeout=300_000)
            page.wait_for_selector(READY, timeout=300_000)
        page = browser.new_page()
        page.goto(f"{load.served.address}/data_model?forget_kind=Upload")
        page.wait_for_selector(READY, timeout=300_000)
        before = load.processor()
        page.set_input_files('input[type="file"]', load.home.upload, timeout=300_000)
        page.get_by_text("Reveal the text").wait_for(timeout=300_000)
        page.wait_for_selector(READY, timeout=300_000)
        load.figures.processor[READ] = [load.processor() - before]
        load.note_memory("large set in a session")
        between()
        for each in pages:
            each.reload()
            each.wait_for_selector("h1", timeout=300_000)
            each.wait_for_selector(READY, timeout=300_000)
        for each in (*pages, page):
            shown = each.locator('[data-testid="stException"], [data-testid="stAlertContentError"]')
            load.figures.faults += shown.all_inner_texts()
        page.get_by_text("Settings", exact=True).first.click()
        seed = page.get_by_role("spinbutton", name="Seed")
        for _ in range(3):
            before, clock = load.processor(), time.perf_counter()
            chosen = str(int(seed.input_value()) + 1)
            seed.fill(chosen)
            seed.press("Enter")
            # The address follows in the run that the number causes.
            page.wait_for_url(re.compile(rf"[?&]{SEED}={chosen}\b"), timeout=300_000)
            page.wait_for_selector(READY, timeout=300_000)
            load.figures.seconds.setdefault("a large set, rerun", []).append(
                time.perf_counter() - clock
            )
            used = load.processor() - before
            load.figures.processor.setdefault("a large set, rerun", []).append(used)


PAGES: dict[str, tuple[str, dict[str, str]]] = {
    "start": ("", {}),
    "map, large": ("routing_map", {"profile": KEY}),
    "expert, large": ("expert", {"profile": KEY}),
    "selection, large": ("selection", {"profile": KEY}),
    "data and model": ("data_model", {}),
    "unlearn, list of runs": ("unlearn", {}),
    "compare": ("compare", {}),
    "causal evidence": ("causal", {}),
    "audit": ("audit", {}),
}


def measure(home: Home, arguments: argparse.Namespace) -> Figures:
    """Everything, on one server. A lock makes the run at work one that a worker holds."""
    with ExitStack() as stack:
        stack.enter_context(home.live.lock())
        load = Load(home, stack.enter_context(server(home.folder)))
        load.note_memory("at the start")
        stack.enter_context(writing(home.live, load.figures))

        async def alone() -> None:
            for name, (page, query) in PAGES.items():
                await load.page_alone(name, page, **query)
            for name, run in (("finished", home.long), ("at work", home.live)):
                await load.page_alone(f"unlearn, long run {name}", "unlearn", run=run.id)

        asyncio.run(alone())
        load.note_memory("each page seen")
        crowd = (arguments.sessions, arguments.reruns, arguments.layers, arguments.experts)
        if arguments.tabs and find_chromium() is not None:
            browse(load, arguments.tabs, lambda: rounds(load, arguments.rounds, *crowd))
        else:
            print("Without tabs of Chromium.")
            rounds(load, arguments.rounds, *crowd)
    return load.figures


def missed(figures: Figures, sessions: int) -> list[str]:
    """What is not as it should be, as lines."""
    found = [f"error: {fault}" for fault in figures.faults]
    for name, used in figures.processor.items():
        median = statistics.median(used)
        if median > TARGET_SECONDS and name != READ and not name.endswith(FIRST):
            found.append(f"{name}: {median:.2f} s, over {TARGET_SECONDS:g} s")
    grown, most = growth(figures.memory.get("all closed", [])), MOST_GROWTH_MIB * sessions
    if math.isnan(grown):
        found.append(f"memory: growth not known, fewer than {WARM_ROUNDS + 2} rounds")
    elif grown > most:
        found.append(f"memory: {grown:+.1f} MiB a round, over {most:g}")
    peak = max((value for values in figures.memory.values() for value in values), default=0.0)
    if peak > MOST_MIB:
        found.append(f"memory: {peak:.0f} MiB, over {MOST_MIB:,}")
    return found


def told(figures: Figures) -> list[str]:
    """The figures as lines."""
    lines = ["server processor seconds a rerun (median, largest, n); on the clock (median)"]
    for name, used in figures.processor.items():
        clock = figures.seconds.get(name, [])
        on_clock = f"; {statistics.median(clock):.2f} s, n {len(clock)}" if clock else ""
        over = "" if statistics.median(used) <= TARGET_SECONDS else "  over a second"
        lines.append(
            f"{name}: {statistics.median(used):.2f} s, {max(used):.2f}, n {len(used)}"
            f"{on_clock}{over}"
        )
    lines.append("memory of the server's process, MiB, by round")
    for moment, values in figures.memory.items():
        lines.append(f"{moment}: {', '.join(f'{value:.0f}' for value in values)}")
    closed = figures.memory.get("all closed", [])
    grown = growth(closed)
    said = "not known, too few rounds" if math.isnan(grown) else f"{grown:+.1f} MiB a round"
    lines.append(f"growth after {WARM_ROUNDS} rounds: {said}")
    lines.append(f"ticks of the run at work: {figures.ticks}; rows it got: {figures.appended}")
    lines.append(f"errors: {len(figures.faults)} {figures.faults[:3] or ''}".rstrip())
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (
        ("sessions", 50),
        ("tabs", 3),
        ("reruns", 4),
        ("rounds", 5),
        ("runs", 500),
        ("rows", 100_000),
        ("layers", 94),
        ("experts", 160),
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with TemporaryDirectory() as folder:
        home = prepare(
            Path(folder),
            runs=arguments.runs,
            rows=arguments.rows,
            layers=arguments.layers,
            experts=arguments.experts,
        )
        figures = measure(home, arguments)
    found: dict[str, Any] = {"hardware": hardware(), **vars(arguments), **vars(figures)}
    if arguments.json:
        print(json.dumps(found, indent=1))
    else:
        print(found["hardware"], *told(figures), sep="\n")
    misses = missed(figures, arguments.sessions)
    for miss in misses:
        print(miss, file=sys.stderr)
    return 1 if misses else 0


if __name__ == "__main__":
    sys.exit(main())
