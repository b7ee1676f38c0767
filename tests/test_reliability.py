"""Every fault that must be survived has a test, and their page is that of the tests there are."""

import re

from tests.support import reliability


def test_every_row_is_provoked() -> None:
    rows = {each.row for each in reliability.marked()}
    assert rows == set(reliability.ROWS) == set(range(1, 28))


def test_what_is_simulated_is_only_what_a_test_machine_cannot_have() -> None:
    real = {each.row for each in reliability.marked() if not each.simulated}
    assert set(reliability.ROWS) - real == {6, 13}


def test_the_page_lists_these_tests_and_all_passed() -> None:
    text = reliability.PAGE.read_text(encoding="utf-8")
    lines = {int(m[1]): m[0] for m in re.finditer(r"^\| (\d+) \|.*$", text, re.MULTILINE)}
    assert set(lines) == set(reliability.ROWS), "run: make reliability"
    for row, line in lines.items():
        listed = set(re.findall(r"`([\w/]+\.py::\w+)`", line))
        assert listed == {p.test for p in reliability.marked() if p.row == row}, (
            f"row {row}: run make reliability"
        )
        assert re.fullmatch(r"\d+ passed", line.split("|")[-2].strip()), line
