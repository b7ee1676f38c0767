"""What SECURITY.md says is stopped, where no other test says so: where the server listens, links in
what is exported, manifests that vouch for other files."""

import ast
import asyncio
import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import psutil
import pytest

from tests.app.stored import eval_row, write_run
from tests.support.profiles import synthetic_profile
from tests.support.server import ROOT, serve
from tests.support.sessions import Session
from trace_engine.disk import sha256_file
from trace_engine.errors import InputError, RunError
from trace_engine.export import export_run
from trace_engine.routing import Profile
from trace_engine.runs.checkpoints import list_checkpoints, save_checkpoint

EVIL = "http://evil.example"
LOOPBACK = {"127.0.0.1", "::1"}


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The app as shipped, on a free port."""
    with serve(tmp_path_factory.mktemp("served")) as found:
        yield found


def status(address: str, method: str, path: str, **headers: str) -> int:
    """The HTTP status that a request is answered with."""
    connection = HTTPConnection(urlsplit(address).netloc, timeout=20)
    try:
        connection.request(
            method, path, headers={k.replace("_", "-"): v for k, v in headers.items()}
        )
        return connection.getresponse().status
    finally:
        connection.close()


@pytest.mark.browser
def test_the_shipped_settings_listen_on_this_machine_only(address: str) -> None:
    listening = {
        connection.laddr.ip
        for connection in psutil.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
        and connection.laddr.port == urlsplit(address).port
    }
    assert listening
    assert listening <= LOOPBACK


@pytest.mark.fault_row(27)
@pytest.mark.browser
def test_another_site_can_neither_open_a_session_nor_upload(address: str) -> None:
    socket = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec_WebSocket_Version": "13",
        "Sec_WebSocket_Key": "dGhlIHNhbXBsZSBub25jZQ==",
    }
    assert status(address, "GET", "/_stcore/stream", Origin=address, **socket) == 101
    assert status(address, "GET", "/_stcore/stream", Origin=EVIL, **socket) == 403
    assert status(address, "PUT", "/_stcore/upload_file/a/b", Origin=EVIL) == 403


@pytest.mark.fault_row(27)
@pytest.mark.browser
def test_an_upload_needs_the_sessions_token_from_wherever_it_comes(address: str) -> None:
    """The token is what stops another site: it can neither read the cookie nor set the header.
    Whoever has both is let in, whatever Origin says; no browser sends one site's cookie's value
    for another."""
    with ThreadPoolExecutor(1) as thread:
        told = thread.submit(asyncio.run, _uploads(address)).result()
    assert told == {
        "with the token": 204,
        "without the header": 403,
        "without the cookie": 403,
        "with a header of one's own making": 403,
        "from another site, without the header": 403,
        "from another site, with cookie and header": 204,
        "to no session, with the token": 400,
    }


async def _uploads(address: str) -> dict[str, int]:
    token = _token(address)
    cookie, header = {"Cookie": f"_streamlit_xsrf={token}"}, {"X_Xsrftoken": token}
    async with Session.open(address, "data_model", origin=address) as session:

        def put(known: str, **headers: str) -> int:
            return _put(address, f"/_stcore/upload_file/{known}/f", **headers)

        here, evil = {"Origin": address}, {"Origin": EVIL}
        tried = {
            "with the token": (session.id, here | cookie | header),
            "without the header": (session.id, here | cookie),
            "without the cookie": (session.id, here | header),
            "with a header of one's own making": (session.id, here | cookie | {"X_Xsrftoken": "1"}),
            "from another site, without the header": (session.id, evil | cookie),
            "from another site, with cookie and header": (session.id, evil | cookie | header),
            "to no session, with the token": ("none", here | cookie | header),
        }
        return {
            what: await asyncio.to_thread(put, known, **headers)
            for what, (known, headers) in tried.items()
        }


def _token(address: str) -> str:
    """What the server gives every visitor as a cookie."""
    connection = HTTPConnection(urlsplit(address).netloc, timeout=20)
    connection.request("GET", "/_stcore/health")
    given = connection.getresponse().headers.get_all("Set-Cookie", [])
    connection.close()
    (cookie,) = [value for value in given if value.startswith("_streamlit_xsrf=")]
    return cookie.split(";")[0].partition("=")[2]


def _put(address: str, path: str, **headers: str) -> int:
    """The status of the upload of a small set."""
    head = b'--x\r\nContent-Disposition: form-data; name="f"; filename="f.jsonl"\r\n\r\n'
    connection = HTTPConnection(urlsplit(address).netloc, timeout=20)
    try:
        given = {"Content-Type": "multipart/form-data; boundary=x"}
        given |= {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request("PUT", path, head + b'{"text": "one"}\n\r\n--x--\r\n', given)
        return connection.getresponse().status
    finally:
        connection.close()


@pytest.mark.parametrize(
    "path",
    [
        "/../pyproject.toml",
        "/app/static/../../pyproject.toml",
        "/app/static/../pyproject.toml",
        "/static/../../../../../../../../../../etc/passwd",
        "/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
        "//etc/passwd",
        "/media/%2fetc%2fpasswd",
    ],
)
@pytest.mark.browser
def test_an_address_serves_no_file_of_the_disk(address: str, path: str) -> None:
    connection = HTTPConnection(urlsplit(address).netloc, timeout=20)
    connection.request("GET", path)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    assert b"root:" in Path("/etc/passwd").read_bytes()
    # An address that is none of the server's brings the app's own page.
    assert answer.status >= 400 or b"<title>Streamlit</title>" in body, body[:200]
    assert b"root:" not in body
    assert b"[build-system]" not in body


def test_what_the_threat_model_names_is_there() -> None:
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", text)
    assert len(named) > 10
    for file, test in named:
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        there = [node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
        tests = {name for name in there if name.startswith("test_")}
        assert tests, file
        assert not test or test in tests, (file, test)


class Trap:
    """Whoever unpickles it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.path), "w")


@pytest.mark.fault_row(21)
@pytest.mark.parametrize("name", ["counts.npz", "sample.npz"])
def test_a_pickle_in_a_profile_does_not_fire(tmp_path: Path, name: str) -> None:
    folder, fired = tmp_path / "profile", tmp_path / "fired"
    synthetic_profile(documents=4).save(folder)
    with np.load(folder / name) as arrays:
        kept = dict(arrays)
    first = next(iter(kept))
    kept[first] = np.array([Trap(fired)], dtype=object)
    np.savez(folder / name, **kept)  # type: ignore[arg-type]
    head = json.loads((folder / "profile.json").read_text())
    head["files"][name] = sha256_file(folder / name)
    (folder / "profile.json").write_text(json.dumps(head))
    with np.load(folder / name, allow_pickle=True) as armed:
        armed[first]
    assert fired.exists(), "the trap works"
    fired.unlink()
    with pytest.raises(InputError, match="damaged"):
        Profile.load(folder)
    assert not fired.exists()


def test_an_export_copies_no_file_that_a_link_points_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write_run(tmp_path / "home", [eval_row(0, 0.9, 0.9)])
    model = run.path / "model"
    model.mkdir(exist_ok=True)
    (model / "model.safetensors").write_bytes(b"w")
    secret = tmp_path / "secret"
    secret.write_text("hunter2")
    (model / "config.json").unlink(missing_ok=True)
    (model / "config.json").symlink_to(secret)
    with pytest.raises(RunError, match=r"model/config\.json is a symbolic link"):
        export_run(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("files", [{}, {"../../secret": "0" * 64}])
def test_a_manifest_vouches_for_its_own_files_only(tmp_path: Path, files: dict[str, str]) -> None:
    save_checkpoint(tmp_path, {}, {}, step=1, attempt=1, identity={})
    (checkpoint,) = list_checkpoints(tmp_path)
    checkpoint.verify()
    manifest = checkpoint.path / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"files": files}))
    (checkpoint,) = list_checkpoints(tmp_path)
    with pytest.raises(RunError, match="its manifest is not of it"):
        checkpoint.verify()
