"""nginx and Caddy as SECURITY.md configures them, on free ports and with a certificate of our own.

Of the documented text only ports and the certificate's place are changed; `HOST` stays the name
that the outside asks for, and is found on this machine.
"""

import asyncio
import os
import re
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any

from tests.support.server import HOST, ROOT, free_port

USER = "team"
DOCUMENTED_PORT = "8501"
DEADLINE_SECONDS = 60.0


@dataclass(frozen=True)
class Front:
    """A proxy that answers."""

    port: int
    tls: ssl.SSLContext
    log: Path

    @property
    def address(self) -> str:
        return f"https://{HOST}:{self.port}/trace"

    def ask(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> tuple[HTTPResponse, bytes]:
        """The answer to a request under `HOST`, and its body."""
        plain = socket.create_connection(("127.0.0.1", self.port), timeout=DEADLINE_SECONDS)
        connection = HTTPConnection(HOST, self.port)
        connection.sock = self.tls.wrap_socket(plain, server_hostname=HOST)
        named = {key.replace("_", "-"): value for key, value in headers.items()}
        connection.request(method, path, body, named)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer, content


def documented(language: str) -> str:
    """The one block of SECURITY.md in this language."""
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    (block,) = re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return str(block)


def _swap(text: str, old: str, new: str) -> str:
    assert text.count(old) == 1, old
    return text.replace(old, new)


def _printed(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def nginx_settings(folder: Path, port: int, behind: int, password: str = "") -> list[str]:
    """Writes what nginx is told, and gives the command."""
    server = _swap(documented("nginx"), "listen 443 ssl", f"listen 127.0.0.1:{port} ssl")
    server = _swap(server, DOCUMENTED_PORT, str(behind))
    server = _swap(server, "/etc/ssl/lab.pem", str(folder / "lab.pem"))
    server = _swap(server, "/etc/ssl/lab.key", str(folder / "lab.key"))
    if password:
        users = folder / "htpasswd"
        users.write_text(f"{USER}:{_printed('openssl', 'passwd', '-apr1', password)}\n")
        asks = _swap(documented("conf"), "/etc/nginx/trace.htpasswd", str(users))
        server = _swap(server, f"server_name {HOST};", f"server_name {HOST};\n{asks}")
    places = "".join(
        f"{kind}_temp_path {folder / kind};\n"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    # As root it works as nobody, who may not write into the folders of a test.
    user = "user root;\n" if os.geteuid() == 0 else ""
    text = (
        f"{user}daemon off;\npid {folder / 'pid'};\nerror_log stderr;\nevents {{}}\n"
        f"http {{\naccess_log off;\n{places}{server}}}\n"
    )
    (folder / "nginx.conf").write_text(text, encoding="utf-8")
    return ["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf")]


def caddy_settings(folder: Path, port: int, behind: int, password: str = "") -> list[str]:
    """Writes what Caddy is told, and gives the command."""
    site = _swap(documented("caddy"), f"127.0.0.1:{DOCUMENTED_PORT}", f"127.0.0.1:{behind}")
    # A certificate for a public name is asked for on the network; here there is one already.
    own = f"{HOST} {{\n    bind 127.0.0.1\n    tls {folder / 'lab.pem'} {folder / 'lab.key'}"
    if password:
        hashed = _printed("caddy", "hash-password", "--plaintext", password)
        own += "\n" + _swap(documented("caddyfile"), "HASH", hashed)
    site = _swap(site, f"{HOST} {{", own)
    text = f"{{\nadmin off\nhttps_port {port}\nauto_https disable_redirects\n}}\n{site}"
    (folder / "Caddyfile").write_text(text, encoding="utf-8")
    return ["caddy", "run", "--adapter", "caddyfile", "--config", str(folder / "Caddyfile")]


FRONTS = {"nginx": nginx_settings, "caddy": caddy_settings}


def _certificate(folder: Path) -> ssl.SSLContext:
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-keyout", "lab.key", "-out", "lab.pem", "-subj", f"/CN={HOST}"]
    command += ["-addext", f"subjectAltName=DNS:{HOST}"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return ssl.create_default_context(cafile=str(folder / "lab.pem"))


def run_apart(work: Coroutine[Any, Any, Any]) -> Any:
    """In a thread of its own: a browser's tests before may have left this one's loop running."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()


def missing(name: str) -> list[str]:
    """What this machine lacks for a front of this name."""
    return [program for program in (name, "openssl") if shutil.which(program) is None]


@contextmanager
def front(name: str, folder: Path, behind: int, password: str = "") -> Iterator[Front]:
    """The named proxy before the app on the port `behind`; with a password, it asks for it."""
    tls, port, log = _certificate(folder), free_port(), folder / "front.log"
    command = FRONTS[name](folder, port, behind, password)
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(folder)},
        )
    try:
        _wait_until_open(process, port, log)
        yield Front(port, tls, log)
    finally:
        process.terminate()
        process.wait(timeout=20)


def _wait_until_open(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    end = time.monotonic() + DEADLINE_SECONDS
    while time.monotonic() < end and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=2).close()
        except OSError:
            time.sleep(0.05)  # between two polls, not a guess at how long the start takes
        else:
            return
    raise RuntimeError(f"The proxy did not start:\n{log.read_text(errors='replace')[-2000:]}")
