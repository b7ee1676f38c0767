"""A hub on this machine: as much of its protocol as `huggingface_hub` asks for, from folders.

Real requests over a real socket, so that what the client makes of statuses, headers and ranges is
tested too. Models have the revisions `main` and one commit; `tiny/gated` is gated; everything else
is unknown.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar
from urllib.parse import unquote, urlsplit

COMMIT = "c0ffee" + "0" * 34
GATED = "tiny/gated"


class _Hub(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    folders: ClassVar[Mapping[str, Path]]
    asked: ClassVar[list[tuple[str, str, str]]]
    """Method, path and range of every request."""

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on the test's output."""

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path).strip("/")
        self.asked.append((self.command, path, self.headers.get("Range", "")))
        parts = path.removeprefix("api/models/").split("/")
        name, rest = "/".join(parts[:2]), parts[2:]
        if name == GATED:
            return self._refuse(403, "GatedRepo", "Access to this model is restricted.")
        folder = self.folders.get(name)
        if folder is None:
            return self._refuse(404, "RepoNotFound", "Repository not found")
        revision = rest[1] if len(rest) > 1 else "main"
        if revision not in ("main", COMMIT):
            return self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        files = [self._listed(file) for file in sorted(folder.iterdir())]
        if rest[:1] == ["tree"]:
            tree = [file | {"type": "file", "path": file["rfilename"], "oid": file["blobId"]}
                    for file in files]  # fmt: skip
            return self._send(200, json.dumps(tree).encode(), {"Content-Type": "application/json"})
        if path.startswith("api/"):
            about = {"id": name, "sha": COMMIT, "private": False, "gated": False,
                     "disabled": False, "downloads": 0, "likes": 0, "tags": [],
                     "siblings": files}  # fmt: skip
            return self._send(200, json.dumps(about).encode(), {"Content-Type": "application/json"})
        file = folder / "/".join(rest[2:])
        if rest[0] != "resolve" or not file.is_file():
            return self._refuse(404, "EntryNotFound", "Entry not found")
        return self._file(file)

    def _listed(self, file: Path) -> dict[str, Any]:
        size, sha = file.stat().st_size, hashlib.sha256(file.read_bytes()).hexdigest()
        found: dict[str, Any] = {"rfilename": file.name, "size": size, "blobId": sha[:40]}
        if file.suffix == ".safetensors":
            found["lfs"] = {"sha256": sha, "oid": sha, "size": size, "pointerSize": 130}
        return found

    def _file(self, file: Path) -> None:
        content = file.read_bytes()
        tag = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": COMMIT}
        wanted = self.headers.get("Range", "").removeprefix("bytes=")
        if not wanted:
            return self._send(200, content, tag)
        first, _, last = wanted.partition("-")
        end = min(int(last), len(content) - 1) if last else len(content) - 1
        part = content[int(first) : end + 1]
        where = {"Content-Range": f"bytes {int(first)}-{end}/{len(content)}"}
        return self._send(206, part, tag | where)

    def _refuse(self, status: int, code: str, message: str) -> None:
        self._send(status, b"{}", {"X-Error-Code": code, "X-Error-Message": message})

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)


@contextmanager
def hub(folders: Mapping[str, Path]) -> Iterator[tuple[str, list[tuple[str, str, str]]]]:
    """Address of a hub with these models, and what it has been asked: method, path, range."""
    asked: list[tuple[str, str, str]] = []
    handler = type("Hub", (_Hub,), {"folders": folders, "asked": asked})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
