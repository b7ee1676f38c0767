"""Every fault that must be survived has a test, and their page is that of the tests there are."""

import re

from tests.kills.cases import WORKS
from tests.support import reliability


def test_every_row_is_provoked() -> None:
    rows = {each.row for each in reliability.marked()}
    assert rows == set(reliability.ROWS) == set(range(1, 29))


def test_what_is_simulated_is_only_what_a_test_machine_cannot_have() -> None:
    real = {each.row for each in reliability.marked() if not each.simulated and not each.slow}
    assert set(reliability.ROWS) - real == {6, 13}


def test_the_page_lists_these_tests_and_all_passed() -> None:
    text = reliability.PAGE.read_text(encoding="utf-8")
    lines = {int(m[1]): m[0] for m in re.finditer(r"^\| (\d+) \|.*$", text, re.MULTILINE)}
    assert set(lines) == set(reliability.ROWS), "run: make reliability"
    for row, line in lines.items():
        listed = set(re.findall(r"`([\w/]+\.py::\w+)`", line))
        assert listed == {p.test for p in reliability.marked() if p.row == row and not p.slow}, (
            f"row {row}: run make reliability"
        )
        assert re.fullmatch(r"\d+ passed", line.split("|")[-2].strip()), line


def test_the_page_has_the_record_of_many_kills() -> None:
    """What is killed 200 times or more is killed at each kind of moment."""
    assert reliability.PAGE.read_text(encoding="utf-8").endswith(reliability.kills())
    for name, found in reliability.recorded().items():
        moments = found["moments"]
        least = sum(moments.values()) // 200 * 4
        assert all(moments[moment] >= least for moment in WORKS[name].moments), (name, moments)


def test_the_page_has_each_slow_test_with_its_own_last_run() -> None:
    text = reliability.PAGE.read_text(encoding="utf-8")
    assert reliability.slow() in text, "run: pytest -m slow --reliability=docs/reliability.md FILE"
    tests = {each.test for each in reliability.marked() if each.slow}
    assert tests == set(re.findall(r"`([\w/]+\.py::\w+)`", reliability.slow()))
    known = reliability.recorded(reliability.SLOW)
    assert set(known) <= tests - {reliability.MANY_KILLS}
    for test, found in known.items():
        assert re.fullmatch(r"\d+ passed", found["result"]), test
        assert re.match(r"\d{4}-\d\d-\d\d, ", found["when"]), test


def test_a_row_of_which_nothing_ran_keeps_its_line_and_its_date() -> None:
    first, second = (
        reliability.Provoked(row, f"a/test_b.py::test_{row}", False, False) for row in (1, 2)
    )
    one = {first.test: reliability.Outcome(passed=3), second.test: reliability.Outcome(failed=1)}
    before = reliability.page([first, second], one)
    again = reliability.page([first, second], {second.test: reliability.Outcome(passed=1)}, before)
    lines = again.splitlines()
    assert [line for line in lines if "test_1`" in line] == [
        line for line in before.splitlines() if "test_1`" in line
    ]
    assert [line.split("|")[-2] for line in lines if "test_2`" in line] == [" 1 passed "]
    assert "Since then, rows 2: " in again
    moved = reliability.page([first._replace(test="a/test_c.py::test_1"), second], {}, before)
    assert "none run, 1 tests not run" in moved
