"""The bundled audit: whole, unchanged, checked again as far as its models are there, and shown."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from tests.app import conftest as app_fixtures
from trace_engine.audit import background
from trace_engine.audit.manifest import files_of
from trace_engine.audit.report_file import read_report
from trace_engine.audit.settings import read_audit
from trace_engine.audit.verify import verify_audit
from trace_engine.bundled import AUDIT, is_bundled, resolve_report
from trace_engine.cli import main
from trace_engine.errors import RunError

open_page = app_fixtures.open_page
trace_home = app_fixtures.trace_home
saved_profile = app_fixtures.saved_profile
FOLDER = resolve_report(AUDIT)


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    return read_report(FOLDER)


def test_it_is_whole_and_small(report: dict[str, Any]) -> None:
    left = {name for name, part in report["parts"].items() if not part["done"]}
    assert left == {"tofu"}, "only what the pack has no material for"
    assert report["settings"]["causal"]["draws"] == 20
    assert sum((FOLDER / name).stat().st_size for name in files_of(FOLDER)) < 4_000_000


def test_it_names_nothing_of_the_machine_that_made_it() -> None:
    config = read_audit(FOLDER / "audit.yaml")
    sources = [model.source for model in config.models().values()]
    sources += [config.forget.source, config.retain.source, str(config.questions), *config.runs]
    assert all(is_bundled(source) or "/" not in source for source in sources), sources
    places = (b"/home/", b"/root", b"/tmp/", b"/work/", b"/Users/", str(Path.home()).encode())
    for name in files_of(FOLDER):
        found = (FOLDER / name).read_bytes()
        assert not [place for place in places if place in found], name


def test_all_that_follows_from_its_files_agrees() -> None:
    found = verify_audit(AUDIT, recompute=False)
    assert found.exit_code == 3
    assert [c.what for c in found.checks if c.state != "agrees"] == ["figures recomputed"]


@pytest.mark.slow
def test_the_models_of_the_pack_answer_again_as_they_did() -> None:
    found = verify_audit(AUDIT, sample=4, seed=1)
    assert not found.differs, [c for c in found.checks if c.state == "differs"]
    # The audited model is no part of the pack.
    (left,) = [c for c in found.checks if c.state == "not checked"]
    assert left.what == "figures of the audited model"
    again = {c.what for c in found.checks if c.state == "agrees"}
    assert {"4 questions asked again, before", "4 questions asked again, reference"} <= again
    assert "4 forget questions asked again, weights rounded to few bits" in again


def test_the_command_takes_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", AUDIT, "--no-recompute"]) == 3
    assert background.bundled_audit().manifest_sha256 in capsys.readouterr().out


@pytest.mark.usefixtures("trace_home")
def test_nobody_stops_or_resumes_it() -> None:
    assert background.audit_state(background.BUNDLED).state == "done"
    assert background.list_audits() == []
    for act in (background.stop_audit, background.resume_audit):
        with pytest.raises(RunError, match="no audit 'bundled'"):
            act(background.BUNDLED)


@pytest.mark.usefixtures("trace_home")
def test_the_page_shows_it_at_a_press(
    open_page: Callable[..., AppTest], report: dict[str, Any]
) -> None:
    app = open_page("audit")
    assert report["finding"]["sentence"] not in [text.value for text in app.text]
    app.button(key="audit_example").click().run()
    assert not app.exception
    assert report["finding"]["sentence"] in [text.value for text in app.text]
    assert any(f"trace-moe verify {AUDIT}" in code.value for code in app.code)
    assert not [button for button in app.button if button.key in ("audit_example", "audit_resume")]
