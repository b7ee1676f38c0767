"""docs/reliability.md: every fault that must be survived, the tests that provoke it, their results.

Tests say which row they provoke with `@pytest.mark.fault_row(7)`, or `(6, simulated=True)` where
they play the fault. `pytest --reliability PAGE` runs them and writes it; a
row of which nothing was run keeps its line. A slow test is not among those that `make reliability`
runs: its own last result is kept in `slow.json`, and what those of many kills hit in `kills.json`,
batch by batch; both are parts of the page, and say of which commit they are.
"""

import ast
import csv
import json
import platform
import re
import subprocess
from collections.abc import Iterable
from datetime import date
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reliability.md"
MARK = "fault_row"
KILLED = "kills"
"""The property of a test, and what its record is called."""
MANY_KILLS = "kills/test_kills.py::test_many_kills_at_any_moment_change_no_result"
"""Its cases have a record each."""
RECORD = Path(__file__).with_name("kills.json")
SLOW = Path(__file__).with_name("slow.json")


def _rows() -> dict[int, tuple[str, str]]:
    with Path(__file__).with_name("faults.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.reader(file))[1:]
    return {int(row): (fault, expected) for row, fault, expected in lines}


ROWS = _rows()
"""Row -> fault, and what must happen."""


class Provoked(NamedTuple):
    """A test, and whether it has the fault itself or plays it."""

    row: int
    test: str
    simulated: bool
    slow: bool
    """Not among those that write the table."""


class Outcome(NamedTuple):
    """What became of a test's cases."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0

    def __str__(self) -> str:
        parts = [f"{n} {word}" for n, word in zip(self, self._fields, strict=True) if n]
        return ", ".join(parts) or "none run"


class Writer:
    """Pytest plugin of the process that sees every report: writes the page at the end."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._outcomes: dict[str, Outcome] = {}
        self._killed: dict[str, Any] = {}
        self._ran = {"when": _machine(), "commit": _commit()}
        """Before the page is written, which changes the tree."""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count a case once: its call, or what kept it from being called."""
        if report.when != "call" and report.outcome == "passed":
            return
        for key, value in report.user_properties:
            if key == KILLED and report.outcome == "passed":
                self._killed[str(value["work"])] = value
        name = name_of(report.nodeid)
        outcome = self._outcomes.get(name, Outcome())
        self._outcomes[name] = outcome._replace(
            **{report.outcome: getattr(outcome, report.outcome) + 1}
        )

    def pytest_sessionfinish(self) -> None:
        if self._killed:
            known = recorded()
            for work, value in self._killed.items():
                # With another seed they are more kills of a work that was killed before.
                seed, earlier = value["seed"], known.get(work, [])
                before = [b for b in earlier if b["seed"] != seed] if seed != 1 else []
                batch = {"moments": value["moments"], "seed": seed, **self._ran}
                known[work] = [*before, batch]
            RECORD.write_text(json.dumps(known, indent=1, ensure_ascii=False) + "\n", "utf-8")
        ran = {each.test for each in marked() if each.slow} & self._outcomes.keys() - {MANY_KILLS}
        if ran:
            results = {test: {"result": str(self._outcomes[test]), **self._ran} for test in ran}
            known = dict(sorted((recorded(SLOW) | results).items()))
            SLOW.write_text(json.dumps(known, indent=1) + "\n", "utf-8")
        before = self._path.read_text(encoding="utf-8") if self._path.exists() else ""
        self._path.write_text(page(marked(), self._outcomes, before), encoding="utf-8")


@cache
def marked() -> list[Provoked]:
    """Every test that is marked, read from the files; sorted by row and name."""
    found = []
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.FunctionDef):
                continue
            name = f"{path.relative_to(ROOT / 'tests')}::{node.name}"
            slow = any(ast.unparse(d) == "pytest.mark.slow" for d in node.decorator_list)
            for decorator in node.decorator_list:
                if isinstance(decorator, ast.Call) and _is_mark(decorator.func):
                    simulated = any(k.arg == "simulated" for k in decorator.keywords)
                    found += [
                        Provoked(ast.literal_eval(argument), name, simulated, slow)
                        for argument in decorator.args
                    ]
    return sorted(found)


def _is_mark(node: ast.expr) -> bool:
    return isinstance(node, ast.Attribute) and node.attr == MARK


def name_of(node_id: str) -> str:
    """A test's name on the page, of pytest's node id with its parameters."""
    return node_id.split("[")[0].removeprefix("tests/")


HEAD = """# Reliability: what is survived, and the test that provokes it

Written by `make reliability`; do not edit. A child that must die dies of a real signal, a disk is
full by a limit that the system enforces, a second process is a second process, a browser is
Chromium. A *simulated* test plays its fault: a test machine cannot have it, or another test of the
row has it. `make test-all` adds slow tests, many kills (both below) and 100,000 mutated inputs.
"""
SLOW_HEAD = """
## Slow tests

`make test-all` runs them; each has the date of its own last run. `pytest -m slow
--reliability=docs/reliability.md FILE` runs those of a file and writes them here.

| test | # | last result | last run | commit |
|---|---|---|---|---|
"""
KILLS_HEAD = """
## Killed at any moment

`kills/test_kills.py` kills each of these at moments of its whole life (half by the clock, half
before a change to the file system; a first kill aims at what was hit least), goes on with the same
command, sometimes kills that too, at random, and compares the end with an undisturbed one: weights
and counts bit for bit, results without their clocks. `TRACE_KILLS` says how many kills, and with
another `TRACE_KILLS_SEED` than 1 they are a batch beside those before; the number here is what was
run, and what they hit is what the dead one was found at.

| what | kills | what they hit | run | commit |
|---|---|---|---|---|
"""
UNKNOWN = "not recorded"
"""The commit of what was run before commits were."""
TABLE = [
    "| # | fault | what must happen | tests | last result |",
    "|---|---|---|---|---|",
]


def _machine() -> str:
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "streamlit"))
    python = f"Python {platform.python_version()}"
    return f"{date.today().isoformat()}, {platform.system()}, {python}, {packages}"


def _commit() -> str:
    """The commit that the tests run on, and whether anything but the page and its records differs
    from it."""

    def git(*words: str) -> str:
        words = ("git", "-C", str(ROOT), *words)
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout.rstrip()

    written = [f":!{path.relative_to(ROOT)}" for path in (PAGE, RECORD, SLOW)]
    try:
        head = git("rev-parse", "--short", "HEAD")
        changed = git("status", "--porcelain", "--", ".", *written)
    except (OSError, subprocess.CalledProcessError):  # a copy without its history
        return UNKNOWN
    return f"{head}, with changes" if changed else head


def recorded(record: Path | None = None) -> dict[str, Any]:
    """Batches of kills by what was killed: moments, when and where, commit. Or another record."""
    record = record or RECORD
    found: dict[str, Any] = json.loads(record.read_text("utf-8")) if record.exists() else {}
    return found


def slow() -> str:
    """The page's part on slow tests, from their record."""
    rows: dict[str, list[int]] = {}
    for each in marked():
        if each.slow:
            rows.setdefault(each.test, []).append(each.row)
    known, never = recorded(SLOW), {"result": "not run yet", "when": "", "commit": ""}
    lines = []
    for test, numbers in rows.items():
        found = known.get(test, never)
        if test == MANY_KILLS:
            found = dict.fromkeys(("result", "when", "commit"), "below")
        lines.append(
            f"| `{test}` | {', '.join(map(str, numbers))} | {found['result']} | {found['when']} | "
            f"{found['commit']} |"
        )
    return SLOW_HEAD + "\n".join(lines) + "\n"


def kills() -> str:
    """The page's part on many kills, from their record: a line a batch."""
    lines = [
        f"| {work} | {sum(batch['moments'].values())} | "
        + ", ".join(f"{moment} {number}" for moment, number in batch["moments"].items())
        + f" | {batch['when']} | {batch['commit']} |"
        for work, batches in sorted(recorded().items())
        for batch in batches
    ]
    return KILLS_HEAD + "\n".join(lines) + "\n"


def _lines(text: str) -> dict[int, str]:
    return {int(m[1]): m[0] for m in re.finditer(r"^\| (\d+) \|.*$", text, re.MULTILINE)}


def _since(rows: str) -> str:
    return f" Since then, rows {rows}: {_machine()}."


def page(provoked: Iterable[Provoked], outcomes: dict[str, Outcome], before: str = "") -> str:
    """The page, as Markdown. A row without an outcome keeps the line that it had `before`."""
    old, kept = _lines(before), []
    tests: dict[int, list[Provoked]] = {row: [] for row in ROWS}
    for each in provoked:
        if not each.slow:
            tests[each.row].append(each)
    lines = list(TABLE)
    for row, (fault, expected) in ROWS.items():
        names = "<br>".join(
            f"`{each.test}`" + (" *simulated*" if each.simulated else "") for each in tests[row]
        )
        total = [outcomes[each.test] for each in tests[row] if each.test in outcomes]
        if not total and f" | {names} | " in old.get(row, ""):
            kept.append(row)
            lines.append(old[row])
            continue
        counted = Outcome(*(sum(column) for column in zip(*total, strict=True)))
        missing = len(tests[row]) - len(total)
        result = f"{counted}, {missing} tests not run" if missing else str(counted)
        lines.append(f"| {row} | {fault} | {expected} | {names} | {result} |")
    ran = f"Last run: {_machine()}."
    dated = re.search(r"^Last run: .*$", before, re.MULTILINE)
    if kept and dated:
        ran = dated[0]
        if len(kept) < len(tests):
            again = ", ".join(str(row) for row in tests if row not in kept)
            ran = f"{ran.removesuffix(_since(again))}{_since(again)}"
    return "\n".join([HEAD, ran, "", *lines]) + "\n" + slow() + kills()
