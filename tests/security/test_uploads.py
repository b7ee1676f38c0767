"""Uploads that the rules of the house refuse: the server takes none of them into memory."""

import asyncio
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.support.fronts import run_apart
from tests.support.server import Server, server
from tests.support.sessions import Session

pytestmark = pytest.mark.browser


def ask(address: str, method: str, path: str, body: bytes = b"", **headers: str) -> HTTPConnection:
    connection = HTTPConnection(urlsplit(address).netloc, timeout=60)
    connection.request(method, path, body, {k.replace("_", "-"): v for k, v in headers.items()})
    return connection


def token_of(address: str) -> str:
    connection = ask(address, "GET", "/_stcore/health")
    cookies = connection.getresponse().headers.get_all("Set-Cookie", [])
    connection.close()
    (found,) = [each for each in cookies if each.startswith("_streamlit_xsrf=")]
    return found.split(";")[0].partition("=")[2]


async def upload(served: Server, size: int) -> int:
    """The status of an upload of so many bytes to a session that is there, with its token."""
    token = token_of(served.address)
    async with Session.open(served.address) as session:
        head = b'--x\r\nContent-Disposition: form-data; name="f"; filename="f.txt"\r\n\r\n'

        def put() -> int:
            connection = ask(
                served.address,
                "PUT",
                f"/_stcore/upload_file/{session.id}/f",
                head + b"a" * size + b"\r\n--x--\r\n",
                Content_Type="multipart/form-data; boundary=x",
                Cookie=f"_streamlit_xsrf={token}",
                X_Xsrftoken=token,
            )
            status = connection.getresponse().status
            connection.close()
            return status

        return await asyncio.to_thread(put)


@pytest.mark.parametrize(
    ("rules", "statuses"),
    [
        ({}, {10: 204, 2 * 10**6: 204}),
        ({"TRACE_MOST_UPLOAD_MB": "1"}, {10: 204, 2 * 10**6: 413}),
        ({"TRACE_READ_ONLY": "1"}, {10: 413}),
        ({"TRACE_READ_ONLY": "perhaps"}, {10: 413}),
    ],
    ids=["none", "a size", "read-only", "unreadable"],
)
def test_the_server_takes_no_more_than_the_rules(
    tmp_path: Path, rules: dict[str, str], statuses: dict[int, int]
) -> None:
    with server(tmp_path, environment=rules, deadline=240) as served:
        found = {size: run_apart(upload(served, size)) for size in statuses}
    assert found == statuses
