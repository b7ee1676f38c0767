"""Pages of other ports of this machine get no session and cannot upload; no answer of the server
may be framed by another site; and it tells nobody its metrics."""

from collections.abc import Iterator
from http.client import HTTPConnection, HTTPMessage
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from app import serving
from tests.support.server import Server, server

NAMED = "trace.example.org"
ELSEWHERE = "https://other.example.org:8443"
LISTED_PORT = "http://localhost:3000"
SOCKET = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The app for people who log in, told of two more origins and one more name."""
    home: Path = tmp_path_factory.mktemp("served")
    options = ["--server.corsAllowedOrigins", ELSEWHERE]
    options += ["--server.corsAllowedOrigins", LISTED_PORT]
    told = {"TRACE_HOSTS": NAMED, "TRACE_LOGIN": "1"}
    with server(home, options=options, environment=told) as found:
        yield found


def ask(served: Server, method: str, path: str, **headers: str) -> tuple[int, bytes, HTTPMessage]:
    """Status, body and headers of an answer."""
    connection = HTTPConnection("127.0.0.1", urlsplit(served.address).port or 0, timeout=20)
    try:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        body = b"" if answer.status == 101 else answer.read()
        return answer.status, body, answer.headers
    finally:
        connection.close()


def at(served: Server, name: str) -> str:
    return f"{name}:{urlsplit(served.address).port}"


@pytest.mark.browser
@pytest.mark.parametrize(
    "origin",
    [
        "http://localhost:9999",
        "http://127.0.0.1:9999",
        "http://[::1]:9999",
        "http://0.0.0.0:9999",
        "https://localhost",
        "http://localhost",
        "http://app.localhost:9999",
        "localhost:9999",
        "http://localhost:9999/page",
        "capacitor://localhost",
        "http://localhost:3001",
        "null",
        "",
    ],
)
def test_a_page_of_another_port_gets_no_session(served: Server, origin: str) -> None:
    told = {"Host": at(served, "localhost"), "Origin": origin}
    assert ask(served, "GET", "/_stcore/stream", **told, **SOCKET)[0] == 403


@pytest.mark.browser
@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "[::1]", "192.168.7.7", NAMED])
def test_a_page_of_the_server_gets_a_session(served: Server, name: str) -> None:
    called = at(served, name)
    told = {"Host": called, "Origin": f"http://{called}"}
    assert ask(served, "GET", "/_stcore/stream", **told, **SOCKET)[0] == 101
    # Behind a port that is passed on to it (a tunnel, a container): what matters is what is asked.
    told = {"Host": f"{name}:9000", "Origin": f"http://{name}:9000"}
    assert ask(served, "GET", "/_stcore/stream", **told, **SOCKET)[0] == 101
    # Behind TLS, which leaves the default port out.
    told = {"Host": name, "Origin": f"https://{name}"}
    assert ask(served, "GET", "/_stcore/stream", **told, **SOCKET)[0] == 101
    # A program says no origin.
    assert ask(served, "GET", "/_stcore/stream", Host=called, **SOCKET)[0] == 101


@pytest.mark.browser
@pytest.mark.parametrize("origin", [ELSEWHERE, LISTED_PORT])
def test_a_listed_origin_gets_a_session(served: Server, origin: str) -> None:
    told = {"Host": at(served, "localhost"), "Origin": origin}
    assert ask(served, "GET", "/_stcore/stream", **told, **SOCKET)[0] == 101


@pytest.mark.browser
@pytest.mark.parametrize("method", ["PUT", "POST", "DELETE", "OPTIONS"])
def test_a_page_of_another_port_cannot_upload(served: Server, method: str) -> None:
    host = at(served, "localhost")
    _, _, told = ask(served, "GET", "/_stcore/health", Host=host)
    token = str(told["Set-Cookie"]).split(";")[0].partition("=")[2]
    known = {"Host": host, "Cookie": f"_streamlit_xsrf={token}", "X-Xsrftoken": token}

    def status(**origin: str) -> int:
        return ask(served, method, "/_stcore/upload_file/a/b", **known, **origin)[0]

    # Let in is who learns that there is no such session, file or method.
    let_in = {"PUT": 400, "POST": 405, "DELETE": 204, "OPTIONS": 204}[method]
    assert status(Origin="http://localhost:9999") == 403
    assert status(Origin="http://127.0.0.1:9999") == 403
    assert status(Origin=f"http://{host}") == let_in
    assert status(Origin=LISTED_PORT) == let_in
    assert status() == let_in


@pytest.mark.browser
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("HEAD", "/"),
        ("GET", "/unlearn"),
        ("GET", "/_stcore/health"),
        ("GET", "/_stcore/host-config"),
        ("GET", "/_stcore/metrics"),
        ("GET", "/media/0.csv"),
        ("GET", "/component/none/index.html"),
        ("GET", "/static/none.js"),
        ("PUT", "/_stcore/upload_file/a/b"),
        ("OPTIONS", "/_stcore/upload_file/a/b"),
        ("GET", "/auth/login"),
        ("GET", "//two"),
    ],
)
def test_no_answer_may_be_framed_by_another_site(served: Server, method: str, path: str) -> None:
    for name in ("localhost", "evil.example"):
        _, _, headers = ask(served, method, path, Host=at(served, name))
        assert headers.get_all("Content-Security-Policy") == ["frame-ancestors 'self'"]
        assert headers.get_all("X-Frame-Options") == ["SAMEORIGIN"]


@pytest.mark.browser
@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "POST"])
@pytest.mark.parametrize(
    "path",
    [
        "/_stcore/metrics",
        "/_stcore/metrics?families=active_sessions",
        "/_stcore/metrics/",
        "/_stcore/%6detrics",
    ],
)
def test_metrics_are_nobodys(served: Server, method: str, path: str) -> None:
    for kind in ("*/*", "application/x-protobuf"):
        status, body, _ = ask(served, method, path, Accept=kind)
        assert status == 404
        assert b"cache" not in body
        assert b"session" not in body


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Streamlit's settings as these tests set them."""
    told: dict[str, Any] = {"browser.serverAddress": "localhost", "server.enableCORS": True}
    told |= {"server.corsAllowedOrigins": []}
    monkeypatch.setattr(serving.config, "get_option", told.__getitem__)
    return told


@pytest.mark.parametrize(
    ("origin", "host", "passed"),
    [
        ("http://localhost:8501", "localhost:8501", True),
        ("http://localhost:8501", "LOCALHOST:8501", True),
        ("http://localhost", "localhost:80", True),
        ("http://localhost:80", "localhost", True),
        ("https://localhost", "localhost:443", True),
        ("https://10.0.0.5", "10.0.0.5", True),
        ("http://[::1]:8501", "[0:0::1]:8501", True),
        ("https://localhost", "localhost:80", False),
        ("http://localhost", "localhost:443", False),
        ("http://localhost:8501", "127.0.0.1:8501", False),
        ("http://localhost:8501", "app.localhost:8501", False),
        ("http://10.0.0.5:8501", "10.0.0.6:8501", False),
        ("http://10.0.0.5:8502", "10.0.0.5:8501", False),
        ("http://[::ffff:127.0.0.1]:1", "127.0.0.1:8501", False),
        ("ftp://localhost", "localhost", False),
        ("http://user@localhost:9999", "localhost:8501", False),
        ("http://[localhost]:8501", "localhost:8501", False),
        # Names are Streamlit's to judge.
        ("https://lab.example.org", "127.0.0.1:8501", True),
        ("https://lab.example.org:8443", "lab.example.org", True),
        ("null", "localhost:8501", True),
    ],
)
def test_an_address_comes_from_the_host_that_is_asked(
    settings: dict[str, Any], origin: str, host: str, passed: bool
) -> None:
    assert serving.may_come_from([origin], host) is passed


def test_who_says_no_origin_or_two(settings: dict[str, Any]) -> None:
    assert serving.may_come_from([], "localhost:8501")
    assert not serving.may_come_from(["http://localhost:8501"] * 2, "localhost:8501")


@pytest.mark.parametrize(
    ("listed", "passed", "refused"),
    [
        ("http://localhost:3000", ["http://localhost:3000"], ["https://localhost:3000"]),
        ("http://localhost", ["http://localhost"], ["http://localhost:3000", "https://localhost"]),
        (
            "localhost:3000",
            ["http://localhost:3000", "https://localhost:3000"],
            ["http://localhost"],
        ),
        (" 10.0.0.5 ", ["http://10.0.0.5", "https://10.0.0.5:8443"], ["http://localhost:3000"]),
        ("https://10.0.0.5:8443", ["https://10.0.0.5:8443"], ["https://10.0.0.5"]),
        ("*", [], ["http://localhost:3000"]),
        ("", [], ["http://localhost:3000"]),
    ],
)
def test_a_listed_address_means_the_port_that_it_says(
    settings: dict[str, Any], listed: str, passed: list[str], refused: list[str]
) -> None:
    settings["server.corsAllowedOrigins"] = ["https://first.example.org", listed]
    for origin in passed:
        assert serving.may_come_from([origin], "127.0.0.1:8501"), origin
    for origin in refused:
        assert not serving.may_come_from([origin], "127.0.0.1:8501"), origin


def test_the_public_address_may_be_an_ip_address_but_not_this_machine(
    settings: dict[str, Any],
) -> None:
    settings["browser.serverAddress"] = "10.0.0.5"
    assert serving.may_come_from(["https://10.0.0.5:8443"], "10.0.0.5")
    assert not serving.may_come_from(["https://10.0.0.6:8443"], "10.0.0.5")
    for own in ("localhost", "127.0.0.1", "0.0.0.0"):  # as the image says
        settings["browser.serverAddress"] = own
        assert not serving.may_come_from([f"http://{own}:9999"], f"{own}:8501")


def test_with_streamlits_check_off_every_origin_is_let_in(settings: dict[str, Any]) -> None:
    settings["server.enableCORS"] = False
    assert serving.may_come_from(["http://localhost:9999"], "localhost:8501")
