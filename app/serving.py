"""The server around the pages: the names that it answers to, whose pages may use it or show it in a
frame, and what it neither tells nor asks.

`streamlit_app.py` hands this to Streamlit, which asks it before anything else, from the first
request on. A page of another site whose name is made to point at this machine ("DNS rebinding") is
of one origin with the server in the browser's eyes, and Streamlit lets in whose Origin equals its
Host; only the name gives it away. A literal IP address cannot be made to point elsewhere. Of a page
of this machine Streamlit does not look at the port, which tells one server here from another.
"""

import importlib
import os
import pkgutil
import re
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketClose
from streamlit import cli_util, config, net_util
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from streamlit.starlette import App
from streamlit.url_util import get_hostname
from streamlit.web.server import server_util

from trace_engine.errors import InputError

VARIABLE = "TRACE_HOSTS"
REFUSED = (
    "TRACE does not answer to the name in this address. Use localhost or the machine's IP address; "
    f"whoever runs it can allow a name with {VARIABLE} or browser.serverAddress (SECURITY.md, “For "
    "a team”).\n"
)
REFUSED_ORIGIN = (
    "TRACE takes nothing from a page of another port or address. Whoever runs it can list the "
    "page's origin in server.corsAllowedOrigins (SECURITY.md, “For a team”).\n"
)
_NAME = r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*"
_HOST = re.compile(rf"(?:({_NAME})\.?|\[([0-9A-Fa-f:.]+)\])(?::([0-9]{{1,5}}))?")
_Name = str | IPv4Address | IPv6Address
_PORTS = {"http": 80, "https": 443}


def hosts() -> frozenset[str]:
    """`TRACE_HOSTS`: names that the server answers to besides its own. Raises InputError for what
    is no list of names."""
    value = os.environ.get(VARIABLE, "").strip()
    names = [name.strip() for name in value.split(",")] if value else []
    if not all(re.fullmatch(_NAME, name) for name in names):
        raise InputError(
            f"{VARIABLE} must be names with commas between them, without scheme, port or path, "
            "and is not."
        )
    return frozenset(name.lower() for name in names)


def _parts(host: str) -> tuple[_Name, int | None] | None:
    """Name or address, and port, of what a Host header says; None where it cannot be read."""
    match = _HOST.fullmatch(host)
    if match is None:
        return None
    name, bracketed, port = match.groups()
    said: _Name
    if bracketed is not None:
        try:
            said = IPv6Address(bracketed)
        except ValueError:
            return None
    else:
        try:
            said = IPv4Address(name)
        except ValueError:
            said = name.lower()
    return said, None if port is None else int(port)


def _is_literal(name: _Name) -> bool:
    """Whether nobody can make this name point elsewhere."""
    if isinstance(name, str):
        return name == "localhost" or name.endswith(".localhost")
    return True


def _is_this_machine(name: _Name) -> bool:
    if isinstance(name, str):
        return _is_literal(name)
    inner = name.ipv4_mapped if isinstance(name, IPv6Address) else None
    return (inner or name).is_loopback or (inner or name).is_unspecified


def answers_to(host: str) -> bool:
    """Whether a request with this Host header is for this server."""
    parts = _parts(host)
    if parts is None:
        return False
    name, _ = parts
    if _is_literal(name):
        return True
    try:
        return name in hosts() | _public_names()
    except InputError:  # nobody is let in; the page says why to who comes by an own name
        return False


def may_come_from(origins: list[str], host: str) -> bool:
    """Whether a page with these Origin headers may ask `host` for a session or send it something,
    as far as addresses go: one must be of the host and port that it asks, or be listed. Names are
    Streamlit's to judge, and so is `null`; a program that is no browser says none."""
    if not origins or not config.get_option("server.enableCORS"):
        return True
    if len(origins) > 1:
        return False
    if origins[0] == "null":
        return True
    scheme, _, rest = origins[0].partition("://")
    there, here = _parts(rest), _parts(host)
    if there is None or here is None:
        return False
    name, port = there
    if not _is_literal(name):
        return True
    usual = _PORTS.get(scheme)
    if usual is None:
        return False
    port = port or usual
    return (name, port) == (here[0], here[1] or usual) or _is_listed(scheme, name, port)


def _is_listed(scheme: str, name: _Name, port: int) -> bool:
    """Whether Streamlit's settings name this address: without scheme and port it means all of them,
    but for the public address, which says "localhost" where nobody has thought of other ports."""
    public = config.get_option("browser.serverAddress")
    if public and not _is_this_machine(name) and get_hostname(public.strip()) == str(name):
        return True
    for entry in config.get_option("server.corsAllowedOrigins"):
        before, mark, after = entry.strip().partition("://")
        listed = _parts(after if mark else before)
        if listed is None or listed[0] != name or (mark and before != scheme):
            continue
        if port == (listed[1] or (_PORTS[scheme] if mark else port)):
            return True
    return False


def _public_names() -> set[str]:
    """What Streamlit's own settings call this server."""
    said = [config.get_option("server.address"), config.get_option("browser.serverAddress")]
    said += config.get_option("server.corsAllowedOrigins")
    return {(get_hostname(address.strip()) or "").lower() for address in said if address} - {""}


class NotFramed:
    """Says on every answer that no other site may show it in a frame, where a click would be the
    visitor's own."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def said(event: Message) -> None:
            if event["type"] == "http.response.start":
                headers = MutableHeaders(scope=event)
                headers.append("Content-Security-Policy", "frame-ancestors 'self'")
                headers["X-Frame-Options"] = "SAMEORIGIN"
            await send(event)

        await self._app(scope, receive, said if scope["type"] == "http" else send)


class OwnNames:
    """Answers only where the one Host header is a name of this server, and opens a session or takes
    something only where the Origin may ask for it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            headers = Headers(scope=scope)
            asked, said = headers.getlist("host"), ""
            if len(asked) != 1 or not answers_to(asked[0]):
                said = REFUSED
            elif scope.get("method") not in ("GET", "HEAD") and not may_come_from(
                headers.getlist("origin"), asked[0]
            ):
                said = REFUSED_ORIGIN
            if said:
                refusal: ASGIApp = PlainTextResponse(said, status_code=403)
                if scope["type"] == "websocket":
                    refusal = WebSocketClose(code=1008)
                await refusal(scope, receive, send)
                return
        await self._app(scope, receive, send)


class NoMetrics:
    """Has no metrics: Streamlit tells them anybody, with the names of the app's functions."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._app
        if scope["type"] == "http" and scope["path"].rstrip("/").endswith("/_stcore/metrics"):
            app = PlainTextResponse("Not Found", status_code=404)
        await app(scope, receive, send)


class NoPath:
    """Tells a tab the name of the app's file, where Streamlit tells it the whole path. A tab makes
    nothing of it but a hash."""

    def __init__(self, app: ASGIApp, script: str) -> None:
        self._app, self._name = app, Path(script).name
        self._mark = self._name.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def shortened(event: Message) -> None:
            data = event.get("bytes")
            if data and self._mark in data:  # rare: once a run of a page
                event["bytes"] = self._without_folder(data)
            await send(event)

        await self._app(scope, receive, shortened if scope["type"] == "websocket" else send)

    def _without_folder(self, data: bytes) -> bytes:
        message = ForwardMsg.FromString(data)
        if message.WhichOneof("type") != "new_session":
            return data
        message.new_session.main_script_path = self._name
        shortened: bytes = message.SerializeToString()
        return shortened


@asynccontextmanager
async def opened(_: App) -> AsyncIterator[None]:
    """While the server runs. It never asks the internet for this machine's outside address, as
    Streamlit does at every origin that is not its own; and it opens the browser at the start as
    Streamlit does for a script, unless it is told not to (`server.headless`). What pages import is
    imported meanwhile, so that the first visitor does not wait for it."""
    net_util.get_external_ip = lambda: None
    threading.Thread(target=import_pages, name="imports", daemon=True).start()
    if not config.get_option("server.headless"):
        address = config.get_option("server.address") or "localhost"
        if config.is_manually_set("browser.serverAddress"):
            address = config.get_option("browser.serverAddress")
        cli_util.open_browser(server_util.get_url(server_util.get_display_address(address)))
    yield


def import_pages() -> None:
    """Import all that pages share. A page that needs a module waits for its import, as ever."""
    for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
        importlib.import_module(f"{__package__}.{module.name}")
