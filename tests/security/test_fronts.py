"""A team's server behind nginx and behind Caddy, each as SECURITY.md writes it down, with TLS."""

import asyncio
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus

from tests.support.fronts import FRONTS, USER, Front, documented, front, missing, run_apart
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
    with front(request.param, tmp_path_factory.mktemp(request.param), _port(app)) as found:
        yield found


def _port(app: Server) -> int:
    return int(app.address.rsplit(":", 1)[1].split("/")[0])


def test_the_page_is_there_and_nothing_beside_its_path(before: Front) -> None:
    for path in ("/trace/", "/trace/routing_map"):
        answer, body = before.ask("GET", path)
        assert (answer.status, b"<title>Streamlit</title>" in body) == (200, True), path
    assert before.ask("GET", "/trace/_stcore/health")[1] == b"ok"
    assert before.ask("GET", "/trace/_stcore/metrics")[0].status == 404
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


def test_a_session_opens_from_the_public_address_alone(before: Front) -> None:
    identity, faults = run_apart(_visit(before, ORIGIN))
    assert identity
    assert faults == []
    with pytest.raises(InvalidStatus) as refused:
        run_apart(_visit(before, "https://evil.example"))
    assert refused.value.response.status_code == 403


async def _upload(
    before: Front, megabytes: int, token: str, more: dict[str, str] | None = None
) -> int:
    """The status of an upload to an open session; `more` headers go with both."""
    there: dict[str, Any] = {"ssl": before.tls, "host": "127.0.0.1", "port": before.port}
    there |= {"origin": ORIGIN, "additional_headers": more}
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
            **(more or {}),
        )
        return answer.status


def _token(before: Front, **headers: str) -> str:
    health, _ = before.ask("GET", "/trace/_stcore/health", **headers)
    (cookie,) = [
        value
        for value in health.headers.get_all("Set-Cookie", [])
        if value.startswith("_streamlit_xsrf=")
    ]
    return cookie.split(";")[0].partition("=")[2]


def test_a_set_of_almost_fifty_megabytes_is_taken_and_one_without_a_token_is_not(
    before: Front,
) -> None:
    token = _token(before)
    assert run_apart(_upload(before, 49, token)) == 204
    assert run_apart(_upload(before, 1, "made-up")) == 403


@pytest.mark.parametrize("name", FRONTS)
def test_with_a_password_nothing_is_reached_without_it(
    app: Server, name: str, tmp_path: Path
) -> None:
    if lacking := missing(name):
        pytest.skip(f"not installed: {', '.join(lacking)}")
    known = {"Authorization": f"Basic {b64encode(f'{USER}:open'.encode()).decode()}"}
    with front(name, tmp_path, _port(app), password="open") as before:
        token = _token(before, **known)
        for method, path in (
            ("GET", "/trace/"),
            ("GET", "/trace/_stcore/health"),
            ("PUT", "/trace/_stcore/upload_file/a/b"),
        ):
            answer, _ = before.ask(method, path, Cookie=f"_streamlit_xsrf={token}")
            assert answer.status == 401, path
        with pytest.raises(InvalidStatus) as refused:
            run_apart(_visit(before, ORIGIN))
        assert refused.value.response.status_code == 401
        assert before.ask("GET", "/trace/", **known)[0].status == 200
        assert run_apart(_upload(before, 1, token, known)) == 204
