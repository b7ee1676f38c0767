"""What the server's environment holds goes nowhere: not to a page that breaks, not into a run, not
into an audit's report."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from app.navigation import GROUPS
from tests.audit.cases import small
from tests.support.server import ROOT, server
from tests.support.sessions import Session
from trace_engine.audit.run import run_audit
from trace_engine.health import probe

SECRETS = {
    "HF_TOKEN": "hf_canaryoftheenvironment",
    "WANDB_API_KEY": "wandbcanaryoftheenvironment",
    "AWS_SECRET_ACCESS_KEY": "awscanaryoftheenvironment",
}
CANARY = b"canaryoftheenvironment"
PAGES = [name for entries in GROUPS.values() for name, _, _ in entries]
BURSTING = f"""
import os, sys
sys.path.insert(0, {str(ROOT)!r})
from app import navigation, teaching

def burst(*_):
    opened = os.path.join(os.environ["TRACE_HOME"], "a-model-of-mine")
    raise OSError(f"{{opened}} with {{os.environ['HF_TOKEN']}}")

teaching.panel = burst
navigation.path_of = lambda page: os.path.join({str(ROOT)!r}, "pages", f"{{page}}.py")
navigation.run()
"""
"""The app with a fault in each page, whose message holds what must not leave the server."""


@pytest.mark.browser
def test_a_page_that_breaks_shows_no_path_and_no_environment(tmp_path: Path) -> None:
    script = tmp_path / "entry.py"
    script.write_text(BURSTING, encoding="utf-8")

    async def visit(address: str) -> None:
        for page in PAGES:
            name = "" if page == "start" else page
            async with Session.open(address, name, keep=True) as session:
                heard = b"".join(session.kept or ())
                assert len(session.faults) == 1, (page, session.faults)
                assert CANARY not in heard, page
                assert b"a-model-of-mine" not in heard, page
                assert str(tmp_path).encode() not in heard.replace(str(script).encode(), b""), page

    with server(tmp_path, script=script, environment=SECRETS) as served:
        # In a thread of its own: a browser of the tests leaves an event loop in this one.
        with ThreadPoolExecutor(1) as thread:
            thread.submit(asyncio.run, visit(served.address)).result()
        # The one who runs the server does learn what it was.
        assert CANARY in served.log.read_bytes()


def test_no_secret_is_in_a_run_or_in_a_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    probe.self_test(tmp_path)
    run_audit(small(tmp_path / "audited"), tmp_path / "report", base=tmp_path / "home")
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"events.jsonl", "facts.json", "config.yaml", "report.html", "manifest.json"} <= {
        path.name for path in files
    }
    assert [path for path in files if CANARY in path.read_bytes()] == []
