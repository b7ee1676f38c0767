"""A team's server behind nginx and behind Caddy, each as SECURITY.md writes it down, with TLS."""

import asyncio
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus

from tests.support.fronts import FRONTS, Front, documented, front, missing
from tests.support.server import HOST, Server, free_port, server
from tests.support.sessions import Session

pytestmark = pytest.mark.browser
ORIGIN = f"https://{HOST}"


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The app, told its public address as the document says."""
    options = ["--browser.serverAddress", HOST]
    assert " ".join(options) in documented("sh")
    assert "--server.baseUrlPath trace " in documented("sh")
    home = tmp_path_factory.mktemp("team")
    with server(home, port=free_port(), base_path="trace", options=options, deadline=240) as served:
        yield served


@pytest.fixture(scope="module", params=FRONTS)
def before(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Front]:
    """Skipped where a front is not installed: it belongs to whoever serves a team, not to us."""
    if lacking := missing(request.param):
        pytest.skip(f"not installed: {', '.join(lacking)}")
    app: Server = request.getfixturevalue("app")
    port = int(app.address.rsplit(":", 1)[1].split("/")[0])
    with front(request.param, tmp_path_factory.mktemp(request.param), port) as found:
        yield found


def test_the_page_is_there_and_nothing_beside_its_path(before: Front) -> None:
    for path in ("/trace/", "/trace/routing_map"):
        answer, body = before.ask("GET", path)
        assert (answer.status, b"<title>Streamlit</title>" in body) == (200, True), path
    assert before.ask("GET", "/trace/_stcore/health")[1] == b"ok"
    moved, _ = before.ask("GET", "/trace")
    assert moved.status in (301, 302)
    assert str(moved.getheader("Location")).endswith("/trace/")
    for path in ("/_stcore/health", "/", "/tracer/"):
        _, body = before.ask("GET", path)
        assert body != b"ok", path
        assert b"<title>Streamlit</title>" not in body, path


async def _visit(before: Front, origin: str) -> tuple[str, list[str]]:
    there = {"ssl": before.tls, "host": "127.0.0.1", "port": before.port, "origin": origin}
    async with Session.open(before.address, "routing_map", **there) as session:
        return session.id, session.faults


def _run(work: Coroutine[Any, Any, Any]) -> Any:
    """In a thread of its own: a browser's tests before may have left this one's loop running."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()


def test_a_session_opens_from_the_public_address_alone(before: Front) -> None:
    identity, faults = _run(_visit(before, ORIGIN))
    assert identity
    assert faults == []
    with pytest.raises(InvalidStatus) as refused:
        _run(_visit(before, "https://evil.example"))
    assert refused.value.response.status_code == 403


async def _upload(before: Front, megabytes: int, token: str) -> int:
    """The status of an upload to an open session."""
    there = {"ssl": before.tls, "host": "127.0.0.1", "port": before.port, "origin": ORIGIN}
    async with Session.open(before.address, "data_model", **there) as session:
        body = b'{"text": "one of many"}\n' * (megabytes * 10**6 // 24)
        head = b'--x\r\nContent-Disposition: form-data; name="f"; filename="f.jsonl"\r\n\r\n'
        answer, _ = await asyncio.to_thread(
            before.ask,
            "PUT",
            f"/trace/_stcore/upload_file/{session.id}/f",
            head + body + b"\r\n--x--\r\n",
            Content_Type="multipart/form-data; boundary=x",
            Origin=ORIGIN,
            Cookie=f"_streamlit_xsrf={token}",
            X_Xsrftoken=token,
        )
        return answer.status


def test_a_set_of_almost_fifty_megabytes_is_taken_and_one_without_a_token_is_not(
    before: Front,
) -> None:
    health, _ = before.ask("GET", "/trace/_stcore/health")
    (cookie,) = [
        value
        for value in health.headers.get_all("Set-Cookie", [])
        if value.startswith("_streamlit_xsrf=")
    ]
    token = cookie.split(";")[0].partition("=")[2]
    assert _run(_upload(before, 49, token)) == 204
    assert _run(_upload(before, 1, "made-up")) == 403
