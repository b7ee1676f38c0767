"""docs/reliability.md: every fault that must be survived, the tests that provoke it, their results.

Tests say which row they provoke with `@pytest.mark.fault_row(7)`, or `(6, simulated=True)` where a
test machine cannot have the fault itself. `pytest --reliability PAGE` runs them and writes it.
"""

import ast
import csv
import platform
from collections.abc import Iterable
from datetime import date
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reliability.md"
MARK = "fault_row"


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

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count a case once: its call, or what kept it from being called."""
        if report.when != "call" and report.outcome == "passed":
            return
        name = name_of(report.nodeid)
        outcome = self._outcomes.get(name, Outcome())
        self._outcomes[name] = outcome._replace(
            **{report.outcome: getattr(outcome, report.outcome) + 1}
        )

    def pytest_sessionfinish(self) -> None:
        self._path.write_text(page(marked(), self._outcomes), encoding="utf-8")


@cache
def marked() -> list[Provoked]:
    """Every test that is marked, read from the files; sorted by row and name."""
    found = []
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.FunctionDef):
                continue
            name = f"{path.relative_to(ROOT / 'tests')}::{node.name}"
            for decorator in node.decorator_list:
                if isinstance(decorator, ast.Call) and _is_mark(decorator.func):
                    simulated = any(k.arg == "simulated" for k in decorator.keywords)
                    found += [
                        Provoked(ast.literal_eval(argument), name, simulated)
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
Chromium. *Simulated* is what a test machine cannot have. `make test-all` adds a run that is killed
at 200 random moments (`runs/test_two_hundred_kills.py`) and 100,000 mutated inputs.
"""
TABLE = [
    "| # | fault | what must happen | tests | last result |",
    "|---|---|---|---|---|",
]


def _machine() -> str:
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "streamlit"))
    python = f"Python {platform.python_version()}"
    return f"{date.today().isoformat()}, {platform.system()}, {python}, {packages}"


def page(provoked: Iterable[Provoked], outcomes: dict[str, Outcome]) -> str:
    """The page, as Markdown."""
    tests: dict[int, list[Provoked]] = {row: [] for row in ROWS}
    for each in provoked:
        tests[each.row].append(each)
    lines = [HEAD, f"Last run: {_machine()}.", "", *TABLE]
    for row, (fault, expected) in ROWS.items():
        names = "<br>".join(
            f"`{each.test}`" + (" *simulated*" if each.simulated else "") for each in tests[row]
        )
        total = [outcomes[each.test] for each in tests[row] if each.test in outcomes]
        counted = Outcome(*(sum(column) for column in zip(*total, strict=True)))
        missing = len(tests[row]) - len(total)
        result = f"{counted}, {missing} tests not run" if missing else str(counted)
        lines.append(f"| {row} | {fault} | {expected} | {names} | {result} |")
    return "\n".join(lines) + "\n"
