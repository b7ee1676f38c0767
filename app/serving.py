"""The server around the pages: the names that it answers to, and what it neither tells nor asks.

`streamlit_app.py` hands this to Streamlit, which asks it before anything else, from the first
request on. A page of another site whose name is made to point at this machine ("DNS rebinding") is
of one origin with the server in the browser's eyes, and Streamlit lets in whose Origin equals its
Host; only the name gives it away. A literal IP address cannot be made to point elsewhere.
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

from starlette.datastructures import Headers
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
_NAME = r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*"
_HOST = re.compile(rf"(?:({_NAME})\.?|\[([0-9A-Fa-f:.]+)\])(?::[0-9]{{1,5}})?")


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


def answers_to(host: str) -> bool:
    """Whether a request with this Host header is for this server."""
    match = _HOST.fullmatch(host)
    if match is None:
        return False
    name, bracketed = match.groups()
    if bracketed is not None:
        return _is_address(IPv6Address, bracketed)
    name = name.lower()
    if name == "localhost" or name.endswith(".localhost") or _is_address(IPv4Address, name):
        return True
    try:
        return name in hosts() | _public_names()
    except InputError:  # nobody is let in; the page says why to who comes by an own name
        return False


def _is_address(kind: type[IPv4Address | IPv6Address], text: str) -> bool:
    try:
        kind(text)
    except ValueError:
        return False
    return True


def _public_names() -> set[str]:
    """What Streamlit's own settings call this server."""
    said = [config.get_option("server.address"), config.get_option("browser.serverAddress")]
    said += config.get_option("server.corsAllowedOrigins")
    return {(get_hostname(address.strip()) or "").lower() for address in said if address} - {""}


class OwnNames:
    """Answers only where the one Host header is a name of this server."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            asked = Headers(scope=scope).getlist("host")
            if len(asked) != 1 or not answers_to(asked[0]):
                refusal: ASGIApp = PlainTextResponse(REFUSED, status_code=403)
                if scope["type"] == "websocket":
                    refusal = WebSocketClose(code=1008)
                await refusal(scope, receive, send)
                return
        await self._app(scope, receive, send)


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
