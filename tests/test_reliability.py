"""Every fault that must be survived has a test, and their page is that of the tests there are."""

import re
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from tests.kills.cases import WORKS
from tests.support import reliability
from tests.support.reliability import UNKNOWN

COMMIT = re.compile(rf"[0-9a-f]{{7,40}}(, with changes)?|{UNKNOWN}")


def test_every_row_is_provoked() -> None:
    rows = {each.row for each in reliability.marked()}
    assert rows == set(reliability.ROWS) == set(range(1, 30))


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
    assert set(reliability.recorded()) == set(WORKS)
    for name, batches in reliability.recorded().items():
        moments = sum((Counter(batch["moments"]) for batch in batches), Counter[str]())
        known = [each for each in WORKS[name].moments if each in moments]
        assert all(moments[moment] >= moments.total() // 200 * 4 for moment in known), (
            name,
            moments,
        )
        for batch in batches:
            assert set(batch["moments"]) >= set(WORKS[name].moments) or batch["commit"] == UNKNOWN
            assert COMMIT.fullmatch(batch["commit"]), batch


def test_batches_of_kills_keep_their_own_day_and_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reliability, "RECORD", tmp_path / "kills.json")
    days = iter(f"day {n}, clean" for n in range(5))
    monkeypatch.setattr(reliability, "_machine", lambda: next(days))
    monkeypatch.setattr(reliability, "_commit", lambda: "abc1234")
    for seed, hit in ((1, 3), (2, 4), (2, 5), (1, 7)):
        writer = reliability.Writer(tmp_path / "page.md")
        writer._killed = {"run": {"work": "run", "moments": {"steps": hit}, "seed": seed}}
        monkeypatch.setattr(reliability, "page", lambda *_: "")
        writer.pytest_sessionfinish()
        lines = [line for line in reliability.kills().splitlines() if line.startswith("| run ")]
        if hit == 5:
            assert lines == [
                "| run | 3 | steps 3 | day 0, clean | abc1234 |",
                "| run | 5 | steps 5 | day 2, clean | abc1234 |",
            ]
    assert lines == ["| run | 7 | steps 7 | day 3, clean | abc1234 |"]  # seed 1 begins anew


def test_a_commit_says_whether_anything_but_the_page_was_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*words: str) -> None:
        who = ["-c", "user.name=a", "-c", "user.email=a@b.invalid"]
        subprocess.run(["git", "-C", str(tmp_path), *who, *words], check=True, capture_output=True)

    for name in ("ROOT", "PAGE", "RECORD", "SLOW"):
        monkeypatch.setattr(reliability, name, tmp_path / ("" if name == "ROOT" else name))
    git("init")
    for name in ("code", "PAGE"):
        (tmp_path / name).write_text("1")
    git("add", ".")
    git("commit", "-m", "one")
    clean = reliability._commit()
    assert COMMIT.fullmatch(clean)
    assert "changes" not in clean
    (tmp_path / "PAGE").write_text("2")
    (tmp_path / "SLOW").write_text("2")
    assert reliability._commit() == clean
    (tmp_path / "code").write_text("2")
    assert reliability._commit() == f"{clean}, with changes"
    monkeypatch.setattr(reliability, "ROOT", tmp_path.parent)
    monkeypatch.setattr(reliability, "PAGE", tmp_path.parent / "PAGE")
    assert COMMIT.fullmatch(reliability._commit())


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
        assert COMMIT.fullmatch(found["commit"]), test


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
