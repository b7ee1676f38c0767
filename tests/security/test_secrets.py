"""What the server's environment holds goes nowhere: not to a page that breaks, not into a run, not
into an audit's report."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

from app.navigation import GROUPS
from tests.audit.cases import small
from tests.support.server import ROOT, server
from tests.support.sessions import Session
from trace_engine.audit.run import run_audit
from trace_engine.export import export_run
from trace_engine.health import probe
from trace_engine.runs import RunDirectory, jobs, list_runs, open_run, worker
from trace_engine.runs.places import new_run_id
from trace_engine.runs.stopping import StopFlag

SECRETS = {
    "HF_TOKEN": "hf_QwErTyUiOpcanaryoftheenvironment01",  # as long as a real one
    "WANDB_API_KEY": "0123456789abcdefcanaryoftheenvironment01",
    "AWS_SECRET_ACCESS_KEY": "awscanaryoftheenvironment",
}
CANARY = b"canaryoftheenvironment"
PAGES = [name for entries in GROUPS.values() for name, _, _ in entries]
BURSTING = f"""
import os, sys
sys.path.insert(0, {str(ROOT)!r})

def burst(*_):
    opened = os.path.join(os.environ["TRACE_HOME"], "a-model-of-mine")
    raise OSError(f"{{opened}} with {{os.environ['HF_TOKEN']}}")

if __name__ == "__main__":
    from app import navigation, teaching

    teaching.panel = burst
    navigation.path_of = lambda page: os.path.join({str(ROOT)!r}, "pages", f"{{page}}.py")
    navigation.run()
else:
    from starlette.middleware import Middleware
    from streamlit.starlette import App
    from app import serving

    app = App(__file__, middleware=[Middleware(serving.NoPath, __file__)])
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
                messages = [ForwardMsg.FromString(data) for data in session.kept or ()]
                assert len(session.faults) == 1, (page, session.faults)
                heard = b"".join(session.kept or ())
                assert CANARY not in heard, page
                assert b"a-model-of-mine" not in heard, page
                drawn = b"".join(
                    message.delta.SerializeToString()
                    for message in messages
                    if message.WhichOneof("type") == "delta"
                )
                assert b"encountered an error" in drawn, page
                for path in (tmp_path, ROOT):
                    assert str(path).encode() not in heard, page

    with server(tmp_path, script=script, environment=SECRETS) as served:
        # In a thread of its own: a browser of the tests leaves an event loop in this one.
        with ThreadPoolExecutor(1) as thread:
            thread.submit(asyncio.run, visit(served.address)).result()
        # The one who runs the server does learn what it was.
        assert CANARY in served.log.read_bytes()


@pytest.mark.browser
def test_who_is_not_logged_in_is_not_told_where_the_app_lies(tmp_path: Path) -> None:
    async def visit(address: str) -> list[bytes]:
        async with Session.open(address, "data_model", keep=True) as session:
            await session.run()
            return session.kept or []

    with server(tmp_path, environment={"TRACE_LOGIN": "1"}) as served, ThreadPoolExecutor(1) as one:
        heard = one.submit(asyncio.run, visit(served.address)).result()
    assert b"This server asks who you are." in b"".join(heard)
    messages = [ForwardMsg.FromString(data) for data in heard]
    told = [m.new_session for m in messages if m.WhichOneof("type") == "new_session"]
    assert {session.main_script_path for session in told} == {"streamlit_app.py"}
    assert [data for data in heard if str(ROOT).encode() in data] == []


def test_no_secret_is_in_a_run_or_in_a_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    probe.self_test(tmp_path)
    (done,) = list_runs(tmp_path / "home")
    export_run(open_run(done.id, tmp_path / "home"), tmp_path / "exported")
    broken = RunDirectory(tmp_path / "home" / "runs" / new_run_id())

    def burst(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(jobs, "perform", burst)
    with broken.create(probe.settings(tmp_path)):
        assert worker.work(broken, StopFlag(), base=tmp_path / "home").state == "failed"
    assert "Traceback" in (broken.path / "log.txt").read_text(encoding="utf-8")
    run_audit(small(tmp_path / "audited"), tmp_path / "report", base=tmp_path / "home")
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"events.jsonl", "facts.json", "log.txt", "report.html", "README.md"} <= {
        path.name for path in files
    }
    secrets = [CANARY, *(value.encode() for value in SECRETS.values())]
    assert [p for p in files if any(secret in p.read_bytes() for secret in secrets)] == []
