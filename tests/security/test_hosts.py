"""A page of another site whose name is made to point at this machine gets nothing of the server,
from the first request on; the server's own names get in."""

import os
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from streamlit.web.server.app_discovery import discover_asgi_app
from websockets.exceptions import InvalidStatus

from app import house, serving
from tests.support.fronts import run_apart
from tests.support.server import ROOT, Server, server
from tests.support.sessions import Session
from tests.test_container import image_variables, start_command
from trace_engine.errors import InputError

EVIL = "evil.example"
NAMED = "trace.example.org"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The app as shipped, told of one more name; nobody has asked it anything but its health."""
    with server(
        tmp_path_factory.mktemp("served"), environment={"TRACE_HOSTS": f"{NAMED}, Lab.Example.org"}
    ) as found:
        yield found


def ask(served: Server, method: str, path: str, host: str | None) -> tuple[int, bytes, Any]:
    """Status, body and headers of what the server answers to one who calls it `host`."""
    connection = HTTPConnection("127.0.0.1", urlsplit(served.address).port or 0, timeout=20)
    try:
        connection.putrequest(method, path, skip_host=True)
        for value in [] if host is None else host.split("|"):
            connection.putheader("Host", value)
        connection.putheader("Content-Length", "0")
        connection.endheaders()
        answer = connection.getresponse()
        return answer.status, answer.read(), answer.headers
    finally:
        connection.close()


async def _visit(served: Server, name: str, page: str = "data_model") -> tuple[str, list[str]]:
    """A tab of a browser for which `name` points at this machine."""
    port = urlsplit(served.address).port
    called = f"http://{name}:{port}"
    there: dict[str, Any] = {"origin": called, "host": "127.0.0.1", "port": port}
    async with Session.open(called, page, **there) as session:
        return session.id, session.faults


# The first test of the file, so that the first visitor of a fresh server is the other site.
@pytest.mark.browser
def test_the_first_visitor_by_another_name_gets_no_session(served: Server) -> None:
    with pytest.raises(InvalidStatus) as refused:
        run_apart(_visit(served, EVIL))
    assert refused.value.response.status_code == 403
    # Nor one who sends no Origin, as programs do.
    with pytest.raises(InvalidStatus) as refused:
        run_apart(_connect(served, EVIL))
    assert refused.value.response.status_code == 403


async def _connect(served: Server, name: str, **more: Any) -> None:
    port = urlsplit(served.address).port
    async with Session.open(f"http://{name}:{port}", host="127.0.0.1", port=port, **more):
        pass


@pytest.mark.browser
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", "/data_model"),
        ("GET", "/_stcore/health"),
        ("GET", "/_stcore/host-config"),
        ("GET", "/media/0.csv"),
        ("PUT", "/_stcore/upload_file/a/b"),
        ("DELETE", "/_stcore/upload_file/a/b"),
        ("GET", "/auth/login"),
        ("GET", "/oauth2callback"),
        ("OPTIONS", "/"),
    ],
)
def test_no_door_opens_to_another_name(served: Server, method: str, path: str) -> None:
    status, body, headers = ask(served, method, path, f"{EVIL}:8501")
    assert status == 403
    assert headers.get_all("Set-Cookie") is None
    said = body.decode()
    assert "TRACE_HOSTS" in said
    # Which names are allowed is nobody else's to know.
    assert NAMED not in said
    assert EVIL not in said


@pytest.mark.browser
@pytest.mark.parametrize(
    "host", [None, "", f"localhost|{EVIL}", f"{EVIL}|localhost", f"localhost@{EVIL}", "localhost/x"]
)
def test_an_unclear_name_is_another_name(served: Server, host: str | None) -> None:
    assert ask(served, "GET", "/", host)[0] in (400, 403)


@pytest.mark.browser
@pytest.mark.parametrize(
    "name", ["localhost", "127.0.0.1", "[::1]", "192.168.7.7", NAMED, "LAB.example.org"]
)
def test_a_name_of_the_server_gets_the_page_and_a_session(served: Server, name: str) -> None:
    status, body, _ = ask(served, "GET", "/", f"{name}:8501")
    assert (status, b"<title>Streamlit</title>" in body) == (200, True)
    identity, faults = run_apart(_visit(served, name.lower()))
    assert identity
    assert faults == []


LISTENING = """
import os, socket, sys

def heard(event, given):
    if event == "socket.getaddrinfo":
        to = given[0]
    elif event == "socket.connect" and given[0].type == socket.SOCK_STREAM:
        to = given[1][0]
    else:
        return
    with open(os.environ["HEARD"], "a") as file:
        file.write(f"{to}\\n")

sys.addaudithook(heard)
socket.getaddrinfo("localhost", 80)  # so that the file is there
"""
"""Python's start file of a process that notes whom it looks up and connects to."""


@pytest.mark.browser
@pytest.mark.parametrize("contained", [False, True], ids=["as shipped", "in a container"])
def test_an_origin_that_is_not_the_servers_makes_it_ask_nobody_outside(
    tmp_path: Path, contained: bool
) -> None:
    (tmp_path / "sitecustomize.py").write_text(LISTENING, encoding="utf-8")
    heard = tmp_path / "heard"
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    trusted = "https://other.example.org"
    variables, options = {"PYTHONPATH": path, "HEARD": str(heard)}, []
    if contained:
        variables |= {k: v for k, v in image_variables().items() if k != "TRACE_HOME"}
        options = start_command()[3:]
        assert "0.0.0.0" in options
        # It listens everywhere in this test too, but for no longer than the test.
    options += ["--server.corsAllowedOrigins", trusted]
    with server(tmp_path, environment=variables, options=options) as found:
        with pytest.raises(InvalidStatus) as refused:
            run_apart(_connect(found, "localhost", origin="http://evil.example"))
        assert refused.value.response.status_code == 403
        run_apart(_connect(found, "localhost", origin=trusted))
    assert heard.exists(), "the start file listens"
    own = {"localhost", "127.0.0.1", "::1", "0.0.0.0", "None"}
    assert set(heard.read_text().split()) <= own


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Streamlit's settings as these tests set them."""
    told: dict[str, Any] = {"server.address": None, "browser.serverAddress": "localhost"}
    told |= {"server.corsAllowedOrigins": []}
    monkeypatch.setattr(serving.config, "get_option", told.__getitem__)
    monkeypatch.delenv("TRACE_HOSTS", raising=False)
    return told


@pytest.mark.parametrize(
    ("host", "answered"),
    [
        ("localhost", True),
        ("LOCALHOST:8501", True),
        ("localhost.", True),
        ("app.localhost:1", True),
        ("127.0.0.1:8501", True),
        ("10.1.2.3", True),
        ("0.0.0.0", True),
        ("[::1]:8501", True),
        ("[fe80::1]", True),
        (EVIL, False),
        ("localhost.evil.example", False),
        ("evil-localhost", False),
        ("127.0.0.1.evil.example", False),
        ("127.0.0.1.nip.io:8501", False),
        ("300.0.0.1", False),
        ("[evil]", False),
        ("[127.0.0.1]", False),
        ("::1", False),
        ("localhost:evil", False),
        ("localhost:1\n", False),
        ("user@localhost", False),
        ("lócalhost", False),
        (".", False),
        ("", False),
    ],
)
def test_loopback_names_and_addresses_are_the_servers(
    settings: dict[str, Any], host: str, answered: bool
) -> None:
    assert serving.answers_to(host) is answered


def test_streamlits_own_settings_name_the_server(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings["server.address"] = "Box.lan"
    settings["browser.serverAddress"] = "lab.example.org"
    settings["server.corsAllowedOrigins"] = ["https://other.example.org:8443", "*", ""]
    monkeypatch.setenv("TRACE_HOSTS", "more.example.org")
    for name in ("box.lan", "lab.example.org", "other.example.org", "more.example.org"):
        assert serving.answers_to(f"{name}:8501"), name
    for name in (EVIL, "example.org", "x.lab.example.org"):
        assert not serving.answers_to(name), name


@pytest.mark.parametrize(
    "value", ["https://lab.example.org", "lab.example.org:443", "a,,b", "*", "lab .org", "läb.org"]
)
def test_names_that_cannot_be_read_let_nobody_in(
    settings: dict[str, Any], value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings["browser.serverAddress"] = "lab.example.org"
    monkeypatch.setenv("TRACE_HOSTS", value)
    assert not serving.answers_to("lab.example.org")
    assert serving.answers_to("localhost"), "where the page says why"
    with pytest.raises(InputError, match="TRACE_HOSTS") as told:
        house.rules()
    assert value not in str(told.value)


def test_streamlit_finds_the_names_in_the_entry() -> None:
    """It looks for them in the text: what it does not find, it runs without."""
    assert discover_asgi_app(ROOT / "streamlit_app.py").import_string == "streamlit_app:app"
