"""What a server may be told: look only, who is let in, how much at once; no page goes round it."""

import ast
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from streamlit.testing.v1 import AppTest

from app import doors, forms, house
from tests.app.conftest import ROOT
from tests.app.stored import write_run
from trace_engine.causal.settings import CausalConfig
from trace_engine.cli.configuring import bundled_audit
from trace_engine.config import ModelConfig, UnlearnConfig
from trace_engine.disk import write_json
from trace_engine.errors import InputError, RunError, TraceError
from trace_engine.runs import launcher, open_run
from trace_engine.sets import Document, DocumentSet

OpenPage = Callable[..., AppTest]
CHANGES = {
    *("launch", "resume", "stop", "delete", "store_set", "start_export"),
    *("launch_sweep", "resume_sweep", "stop_sweep", "delete_sweep"),
    *("start_evidence", "stop_evidence"),
    *("launch_audit", "resume_audit", "stop_audit"),
}
SETTINGS = {"model": {"source": "m"}, "forget": {"source": "f"}, "retain": {"source": "r"}}


def config(**changes: object) -> UnlearnConfig:
    return UnlearnConfig.model_validate(SETTINGS | changes)


@pytest.fixture
def no_rules(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("READ_ONLY", "LOGIN", "MOST_ACTIVE", "MOST_STEPS", "MOST_UPLOAD_MB", "HOSTS"):
        monkeypatch.delenv(f"TRACE_{name}", raising=False)
    return monkeypatch


def engine_changes(path: Path) -> set[str]:
    """Names of the engine's doors that a page's file imports, or calls on `runs` or `sweeps`."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("trace_engine"):
            found |= {alias.name for alias in node.names} & CHANGES
        elif (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id in ("runs", "sweeps", "evidence", "audits")
        ):
            found |= {node.attr} & CHANGES
    return found


def test_every_page_goes_through_the_doors() -> None:
    files = [*(ROOT / "app").glob("*.py"), *(ROOT / "pages").glob("*.py")]
    around = {path.name: engine_changes(path) for path in files}
    own = around.pop("doors.py")
    assert own == CHANGES
    assert {name for name, found in around.items() if found} == set()


def test_without_rules_everything_is_allowed(
    no_rules: pytest.MonkeyPatch, trace_home: Path
) -> None:
    assert house.rules() == house.Rules()
    house.may_start(config(max_steps=10_000))
    house.may_take(10**9)


def test_read_only_closes_every_door(no_rules: pytest.MonkeyPatch, trace_home: Path) -> None:
    no_rules.setenv("TRACE_READ_ONLY", "1")
    run = SimpleNamespace(id="r")
    documents = DocumentSet.of("own", "own", [Document("1", "text", None)])
    calls: dict[str, Callable[[], object]] = {
        "launch": lambda: doors.launch(config()),
        "resume": lambda: doors.resume("r"),
        "stop": lambda: doors.stop("r"),
        "delete": lambda: doors.delete("r"),
        "store_set": lambda: doors.store_set(documents),
        "launch_sweep": lambda: doors.launch_sweep(config(), [], "", token="t"),
        "resume_sweep": lambda: doors.resume_sweep("s"),
        "stop_sweep": lambda: doors.stop_sweep("s"),
        "delete_sweep": lambda: doors.delete_sweep("s"),
        "start_export": lambda: doors.start_export(run, "model"),  # type: ignore[arg-type]
        "start_evidence": lambda: doors.start_evidence(CausalConfig()),
        "stop_evidence": lambda: doors.stop_evidence(CausalConfig()),
        "launch_audit": lambda: doors.launch_audit(bundled_audit()),
        "resume_audit": lambda: doors.resume_audit("a"),
        "stop_audit": lambda: doors.stop_audit("a"),
        "inspect": lambda: doors.inspect(ModelConfig()),
    }
    assert set(calls) == {
        name
        for name, door in vars(doors).items()
        if inspect.isfunction(door) and door.__module__ == doors.__name__ and name[0] != "_"
    }
    for call in calls.values():
        with pytest.raises(TraceError, match="for looking"):
            call()
    assert not list(trace_home.glob("runs/*"))
    assert not list(trace_home.glob("sets/*"))


def test_a_read_only_page_offers_bundled_things_and_says_why(
    no_rules: pytest.MonkeyPatch, bundled: object, open_page: OpenPage
) -> None:
    no_rules.setenv("TRACE_READ_ONLY", "1")
    page = open_page("data_model", forget_kind="Upload", model_kind="Folder")
    assert not page.exception
    assert page.button(key="launch").disabled
    assert any("for looking" in text.value for text in page.markdown)
    for key in ("forget_kind", "retain_kind", "model_kind"):
        assert len(page.button_group(key=key).options) == 1
    assert not page.text_input
    assert forms.launch_troubles(config(), None) == [house.READ_ONLY]


def test_a_read_only_audit_page_says_why_it_starts_none(
    no_rules: pytest.MonkeyPatch, bundled: object, open_page: OpenPage
) -> None:
    assert not open_page("audit").button(key="audit_launch").disabled
    no_rules.setenv("TRACE_READ_ONLY", "1")
    page = open_page("audit")
    assert not page.exception
    assert page.button(key="audit_launch").disabled
    assert any("for looking" in warning.value for warning in page.warning)


@pytest.mark.parametrize("shared", [False, True])
def test_only_the_machines_owner_sees_a_workers_log(
    shared: bool, no_rules: pytest.MonkeyPatch, trace_home: Path, open_page: OpenPage
) -> None:
    run = write_run(trace_home, [], "failed", "It did not work.")
    run.log('File "/home/somebody/engine.py", line 3')
    if shared:
        no_rules.setenv("TRACE_READ_ONLY", "1")
    page = open_page("unlearn", run=run.id)
    assert not page.exception
    assert any("/home/somebody" in block.value for block in page.code) is not shared


def test_a_notice_lists_no_folder(no_rules: pytest.MonkeyPatch, trace_home: Path) -> None:
    def page() -> None:
        import streamlit as st

        from app import address

        address.bound("where", "here", ["here", "/home/somebody/model"])
        for text in address.take_notices():
            st.text(text)

    app = AppTest.from_function(page)
    app.query_params["where"] = "guess"
    app.run()
    assert not app.exception
    [told] = [text.value for text in app.text]
    assert told.endswith("It can be: here.")


def test_limits_name_the_number(no_rules: pytest.MonkeyPatch, trace_home: Path) -> None:
    no_rules.setenv("TRACE_MOST_STEPS", "50")
    house.may_start(config(max_steps=50))
    with pytest.raises(RunError, match="50 steps on this server, and this one asks for 51"):
        doors.launch(config(max_steps=51))
    with pytest.raises(RunError, match="asks for 500"):
        doors.launch_sweep(config(max_steps=5), [{"max_steps": [5, 500]}], "", token="t")
    no_rules.setenv("TRACE_MOST_UPLOAD_MB", "1")
    house.may_take(2**20)
    with pytest.raises(InputError, match=r"1 MB on this server, and this one has 1\.0 MB"):
        house.may_take(2**20 + 1)


def test_only_so_many_runs_at_once(no_rules: pytest.MonkeyPatch, trace_home: Path) -> None:
    no_rules.setenv("TRACE_MOST_ACTIVE", "1")
    done = write_run(trace_home, [], state="done")
    assert done.status().state == "done"
    house.may_start(config())
    active = write_run(trace_home, [], state="running")
    with active.lock():
        assert active.status().active
        with pytest.raises(RunError, match="1 job waits or computes"):
            house.may_start(config())


def test_with_a_login_each_person_has_so_many(
    no_rules: pytest.MonkeyPatch, trace_home: Path
) -> None:
    no_rules.setenv("TRACE_LOGIN", "1")
    no_rules.setenv("TRACE_MOST_ACTIVE", "1")

    def come(name: str) -> str | None:
        no_rules.setattr(house.st, "user", {"is_logged_in": True, "iss": "https://i", "sub": name})
        return house.person()

    anna, ben = come("anna"), come("ben")
    assert anna != ben
    assert "anna" not in str(anna)
    active = write_run(trace_home, [], state="running")
    write_json(active.path / "launch.json", {"owner": anna})
    with active.lock():
        house.may_start(config())
        assert come("anna") == anna
        with pytest.raises(RunError, match="1 job of yours waits or computes"):
            house.may_start(config())
        no_rules.setenv("TRACE_LOGIN", "0")
        with pytest.raises(RunError, match="1 job waits or computes, as many as this server"):
            house.may_start(config())


def test_what_a_person_launches_carries_their_label(
    no_rules: pytest.MonkeyPatch, trace_home: Path, tmp_path: Path
) -> None:
    no_rules.setenv("TRACE_LOGIN", "1")
    no_rules.setattr(house.st, "user", {"is_logged_in": True, "iss": "i", "sub": "anna"})
    no_rules.setattr(launcher, "WORKER", [sys.executable, "-c", ""])
    texts = {side: tmp_path / f"{side}.txt" for side in ("forget", "retain")}
    for side, path in texts.items():
        path.write_text(f"{side} text", encoding="utf-8")
    asked = {side: {"source": str(path)} for side, path in texts.items()}
    run = doors.launch(config(**asked))
    assert house.person() is not None
    assert open_run(run).owner() == house.person()


@pytest.mark.parametrize(
    ("name", "value"),
    [("READ_ONLY", "maybe"), ("LOGIN", "2"), ("MOST_STEPS", "-3"), ("MOST_ACTIVE", "0"),
     ("MOST_UPLOAD_MB", "five"), ("MOST_STEPS", "1e3"), ("READ_ONLY", "hf_secret"),
     ("HOSTS", "https://lab.example.org")],
)  # fmt: skip
def test_a_rule_that_cannot_be_read_lets_nobody_in(
    no_rules: pytest.MonkeyPatch, bundled: object, open_page: OpenPage, name: str, value: str
) -> None:
    no_rules.setenv(f"TRACE_{name}", value)
    with pytest.raises(InputError, match=f"TRACE_{name} must be"):
        house.rules()
    page = open_page("start")
    assert len(page.error) == 1
    assert "must be" in page.error[0].value
    # Nobody is let in yet, and what the environment holds is nobody's business.
    shown = page.error[0].value.replace("\\", "").split()
    assert not {value, repr(value), f"{value!r}."} & set(shown)
    assert not page.title


def test_who_is_not_logged_in_sees_only_the_login(
    no_rules: pytest.MonkeyPatch, bundled: object, open_page: OpenPage
) -> None:
    no_rules.setenv("TRACE_LOGIN", "1")
    page = open_page("start")
    assert not page.exception
    assert [button.key for button in page.button] == ["log_in"]
    assert not page.metric
    # Nothing is set up on this machine, and that is a sentence.
    page.button(key="log_in").click().run()
    assert not page.exception
    assert [error.value for error in page.error] == [house.NO_LOGIN]
