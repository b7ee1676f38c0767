"""The page of the machine: what is at work, what waits, the room, and nothing else for visitors."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from app.navigation import GROUPS
from tests.app.stored import write_run
from tests.app.test_house import no_rules

__all__ = ["no_rules"]
OpenPage = Callable[..., AppTest]


def figures(page: AppTest) -> dict[str, str]:
    assert not page.exception
    return {metric.label: metric.value for metric in page.metric}


def facts(page: AppTest) -> dict[str, str]:
    """What the page says that it runs on, by name."""
    told = [re.fullmatch(r":material/\w+: \*\*(.+):\*\* (.+)", m.value) for m in page.markdown]
    return {found[1]: found[2] for found in told if found}


def test_it_is_the_last_in_the_list() -> None:
    assert [name for entries in GROUPS.values() for name, _, _ in entries][-1] == "status"


def test_an_idle_machine(
    trace_home: Path, no_rules: pytest.MonkeyPatch, open_page: OpenPage
) -> None:
    write_run(trace_home, [], "failed", "It did not work.")
    no_rules.setenv("TRACE_WORKERS", "2")
    page = open_page("status")
    told = figures(page)
    assert (told["At work"], told["Waiting"]) == ("0", "0")
    assert all(" of " in told[name] for name in ("Disk free", "Memory free"))
    assert any("Nothing is at work" in caption.value for caption in page.caption)
    assert any("1 failed" in text.value for text in page.text)
    (workers,) = (element.value for element in page.dataframe)
    assert workers.iloc[0].tolist() == ["unlearning", 0, 2]
    assert {"Python", "Packages", "Data folder", "Memory"} <= set(facts(page))
    assert trace_home.name in facts(page)["Data folder"]


def test_what_computes_and_what_waits(
    trace_home: Path, no_rules: pytest.MonkeyPatch, open_page: OpenPage
) -> None:
    running, waiting = write_run(trace_home, [], "running"), write_run(trace_home, [], "queued")
    with running.lock(), waiting.lock():
        page = open_page("status")
        assert (figures(page)["At work"], figures(page)["Waiting"]) == ("1", "1")
        lines = page.dataframe[1].value
        assert list(lines["id"]) == [running.id, waiting.id]
        unlearn = open_page("unlearn")
        assert not unlearn.exception
        (link,) = [
            node.proto for node in unlearn.get("page_link") if "This machine" in node.proto.label
        ]
        assert link.label == "This machine: 2 at work or waiting"


def test_workers_that_cannot_be_read_are_a_sentence_without_the_value(
    trace_home: Path, no_rules: pytest.MonkeyPatch, open_page: OpenPage
) -> None:
    no_rules.setenv("TRACE_WORKERS", "hf_secret")
    page = open_page("status")
    assert not page.exception
    assert any("WORKERS must be a positive whole number" in e.value for e in page.error)
    assert "hf_secret" not in "".join(e.value for e in page.error)
    # The rest of the page is there all the same.
    assert {"Python", "Packages", "Processors", "Data folder"} <= set(facts(page))


@pytest.mark.parametrize("rule", ["READ_ONLY", "LOGIN"])
def test_a_visitor_reads_neither_folders_nor_the_environment(
    trace_home: Path, no_rules: pytest.MonkeyPatch, open_page: OpenPage, rule: str
) -> None:
    no_rules.setenv(f"TRACE_{rule}", "1")
    no_rules.setenv("HF_HOME", "/somewhere/of-mine")
    if rule == "LOGIN":
        no_rules.setattr(
            "app.house.st.user", {"is_logged_in": True, "iss": "i", "sub": "s"}, raising=False
        )
    page = open_page("status")
    assert "Disk free" in figures(page)
    assert list(facts(page)) == ["Python", "Packages", "Processors"]
    sent = "".join(str(getattr(node, "proto", "")) for node in page._tree)
    sent += "".join(element.value.to_csv() for element in page.dataframe)
    for secret in (str(trace_home), "/somewhere", str(Path.home()) + "/"):
        assert secret not in sent


def test_who_is_not_logged_in_sees_nothing_of_it(
    trace_home: Path, no_rules: pytest.MonkeyPatch, open_page: OpenPage
) -> None:
    no_rules.setenv("TRACE_LOGIN", "1")
    page = open_page("status")
    assert not page.metric
    assert not page.dataframe
    assert page.button(key="log_in")
