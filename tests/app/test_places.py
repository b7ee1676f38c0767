"""Where things lie on the server is for who runs it: visitors read names, on every page."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from app import house
from app.navigation import GROUPS
from tests.app.conftest import ROOT
from tests.app.stored import eval_row, train_row, write_run
from tests.app.test_house import no_rules
from trace_engine.runs.places import subfolder

__all__ = ["no_rules"]
OpenPage = Callable[..., AppTest]
PAGES = [name for entries in GROUPS.values() for name, _, _ in entries]
AUDIT = "20260101-000000-aaaaaa"


@pytest.fixture
def address(trace_home: Path) -> dict[str, str]:
    """A home with a run of a stored set, its export, a profile that failed and an audit."""
    sets = {side: {"source": str(subfolder("sets") / f"{side}.jsonl")} for side in ("forget",)}
    run = write_run(trace_home, [eval_row(0, 0.9, 0.8), train_row(10), eval_row(20, 0.3, 0.7)])
    config = run.path / "config.yaml"
    text = config.read_text(encoding="utf-8")
    config.write_text(text.replace("demo:forget", sets["forget"]["source"]), encoding="utf-8")
    (run.path / "model").mkdir()
    export = subfolder("exports") / f"{run.id}-merged"
    export.mkdir()
    (export / "README.md").write_text("A card.", encoding="utf-8")
    failed = write_run(trace_home, [], "failed", f"{trace_home}/sets/gone.jsonl: not there.")
    folder = subfolder("audits") / AUDIT
    shutil.copytree(ROOT / "tests/formats/v1/audit", folder / "report")
    shutil.copy(folder / "report" / "audit.yaml", folder / "audit.yaml")
    (folder / "status.json").write_text('{"state": "done", "manifest_sha256": "f"}')
    return {"run": run.id, "job": failed.id, "audit": AUDIT}


def read_off(page: AppTest) -> str:
    """All that the browser was sent, and the address."""
    assert not page.exception
    elements = [str(getattr(node, "proto", "")) for node in page._tree]
    return "\n".join([*elements, *(str(value) for value in page.query_params.values())])


def places(page: AppTest, home: Path) -> list[str]:
    text = read_off(page).replace("\\", "")  # Markdown's escapes
    return [place for place in (str(home), str(ROOT), str(Path.home())) if f"{place}/" in text]


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("rule", ["READ_ONLY", "LOGIN"])
def test_a_visitor_reads_no_folder_of_the_server(
    page: str,
    rule: str,
    address: dict[str, str],
    no_rules: pytest.MonkeyPatch,
    bundled: object,
    trace_home: Path,
    open_page: OpenPage,
) -> None:
    no_rules.setenv(f"TRACE_{rule}", "1")
    no_rules.setattr(house.st, "user", {"is_logged_in": True, "iss": "i", "sub": "anna"})
    assert places(open_page(page, **address), trace_home) == []


def test_who_runs_the_server_reads_them(
    address: dict[str, str],
    no_rules: pytest.MonkeyPatch,
    bundled: object,
    trace_home: Path,
    open_page: OpenPage,
) -> None:
    for page in ("unlearn", "audit", "compare", "data_model"):
        assert str(trace_home) in places(open_page(page, **address), trace_home), page


def test_a_visitor_takes_the_card_and_the_report_instead(
    address: dict[str, str],
    no_rules: pytest.MonkeyPatch,
    bundled: object,
    open_page: OpenPage,
) -> None:
    no_rules.setenv("TRACE_READ_ONLY", "1")
    run = open_page("unlearn", **address)
    assert f"$TRACE_HOME/exports/{address['run']}-merged" in [block.value for block in run.code]
    audit = open_page("audit", **address)
    lines = [line for block in audit.code for line in block.value.splitlines()]
    assert f"trace-moe verify $TRACE_HOME/audits/{AUDIT}/report" in lines
    for page, key in ((run, "export_card"), (audit, "audit_report.html")):
        assert any(button.proto.id.endswith(key) for button in page.get("download_button"))


def test_only_the_servers_own_folders_are_renamed(
    no_rules: pytest.MonkeyPatch, trace_home: Path
) -> None:
    told = f"{trace_home}/runs/x, {trace_home}-other/y, '{trace_home}', /data/z"
    assert house.shown(told) == told
    no_rules.setenv("TRACE_READ_ONLY", "1")
    assert house.shown(told) == (
        f"$TRACE_HOME/runs/x, {trace_home}-other/y, '$TRACE_HOME', /data/z"
    )
    no_rules.setenv("TRACE_READ_ONLY", "perhaps")
    assert str(trace_home) + "/" not in house.shown(told)
