"""An audit as a person makes it: filled in, launched, left, found again, taken away, checked."""

import io
import json
import zipfile
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.audit.cases import write_sets
from tests.browser.conftest import OpenApp, settled
from tests.browser.test_journey import WORKER_LIMIT_MS, Screenshot, in_address
from tests.support.models import tiny_olmoe
from trace_engine.audit.verify import verify_audit
from trace_engine.runs.places import subfolder

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]
LEFT_OUT = (
    "Where forget and retain text are routed",
    "What hangs on these experts",
    "Relearning on a slice of the forget set",
    "Training on retained text alone",
)
"""The slow ones."""


def fill(page: Page, label: str, value: str) -> None:
    """Type a text; the page has taken it once its file says so."""
    field = page.get_by_label(label, exact=True)
    field.fill(value)
    field.press("Enter")
    settled(page)


def taken(page: Page, label: str) -> bytes:
    """What a download button gives."""
    with page.expect_download() as download:
        page.get_by_role("button", name=label).click()
    return Path(download.value.path()).read_bytes()


@pytest.mark.slow
def test_an_audit_from_the_form_to_a_checked_report(
    open_app: OpenApp, app_home: Path, tmp_path: Path, screenshot: Screenshot
) -> None:
    paths = write_sets(tmp_path)
    page = open_app("audit")
    fill(page, "Name of the audit", "Journey <b>")
    fill(page, "Audited model", str(tiny_olmoe(seed=0)))
    fill(page, "Reference (optional)", str(tiny_olmoe(seed=1)))
    fill(page, "Forget set", paths["forget"])
    fill(page, "Retain set", paths["retain"])
    fill(page, "Questions", paths["questions"])
    for part in LEFT_OUT:
        chosen = page.locator(".st-key-audit_parts").get_by_role("button", name=part)
        chosen.click()
        settled(page)
    page.get_by_role("button", name="Audit", exact=True).click()
    page.wait_for_url(lambda address: "audit=" in address)
    audit = in_address(page, "audit")
    assert audit is not None
    page.context.close()  # the browser is closed; the audit is not

    page = open_app("audit", audit=audit)
    # Nothing is clicked or loaded again: the end comes by itself.
    expect(page.get_by_text("Undecided", exact=True)).to_be_visible(timeout=WORKER_LIMIT_MS)
    expect(
        page.get_by_text("what hangs on these experts: left out by the settings")
    ).to_be_visible()
    expect(page.get_by_test_id("stException")).to_have_count(0)
    settled(page)
    screenshot(page, "audit")

    folder = subfolder("audits", app_home) / audit / "report"
    html = taken(page, "report.html")
    assert html == (folder / "report.html").read_bytes()
    assert b"Journey &lt;b&gt;" in html
    report = json.loads(taken(page, "report.json"))
    assert report == json.loads((folder / "report.json").read_text("utf-8"))
    with zipfile.ZipFile(io.BytesIO(taken(page, "tables and answers (CSV)"))) as archive:
        assert {"tables/attacks.csv", "answers/questions.csv"} <= set(archive.namelist())

    # Another person has what the page gives away, and nothing else.
    with zipfile.ZipFile(io.BytesIO(taken(page, "everything (ZIP)"))) as archive:
        archive.extractall(tmp_path)
    found = verify_audit(tmp_path / "audit-report", base=app_home, sample=5)
    assert found.exit_code == 0, [check for check in found.checks if check.state != "agrees"]
    # The person keeps the hash that the page shows.
    expect(page.get_by_text(found.manifest_sha256)).to_be_visible()


@pytest.mark.slow
def test_the_report_needs_nothing_but_itself(
    open_app: OpenApp, app_home: Path, tmp_path: Path
) -> None:
    """Opened from a disk, in a browser: no request, no script, no overflow at either width."""
    from tests.audit.cases import small
    from trace_engine.audit.run import run_audit

    config = small(tmp_path / "sets")
    folder = run_audit(config, tmp_path / "report", base=app_home).folder
    page = open_app()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    for width in (1280, 400):
        page.set_viewport_size({"width": width, "height": 900})
        page.goto((folder / "report.html").as_uri())
        overflow = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
        assert overflow <= 0, f"at {width} px the page is {overflow} px too wide"
    page.emulate_media(media="print")
    page.set_viewport_size({"width": 680, "height": 900})  # A4 less its margins, at 96 dpi
    assert page.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0
    assert all(url.startswith("file:") for url in asked)
