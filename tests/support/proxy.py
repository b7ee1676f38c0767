"""A reverse proxy as a team's server has in front: one address outside, the app behind it.

Bytes go through as they are, as they do for a WebSocket after its upgrade; what is under another
path than the app's gets 404. Accepted trade-off: a connection is one request or one WebSocket.
"""

import asyncio
import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread

from tests.support.server import free_port

_GONE = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Proxy:
    """Passes on what is asked for under `prefix`."""

    def __init__(self, port: int, behind: int, prefix: str) -> None:
        self.port, self.behind, self.prefix = port, behind, f"/{prefix}"
        self.upgrades = 0
        """WebSockets that went through."""
        self.elsewhere: list[str] = []
        """Paths that were asked for outside of the prefix."""
        self._end: asyncio.Event
        self._loop: asyncio.AbstractEventLoop

    async def serve(self, ready: Event) -> None:
        self._end, self._loop = asyncio.Event(), asyncio.get_running_loop()
        async with await asyncio.start_server(self._pass, "127.0.0.1", self.port):
            ready.set()
            await self._end.wait()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._end.set)

    async def _pass(self, inward: asyncio.StreamReader, outward: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            head = await inward.readuntil(b"\r\n\r\n")
            path = head.split(b" ", 2)[1].decode()
            if not path.startswith(self.prefix):
                self.elsewhere.append(path)
                outward.write(_GONE)
            else:
                upgrade = b"upgrade: websocket" in head.lower()
                self.upgrades += upgrade
                if not upgrade:
                    lines = [
                        x for x in head.split(b"\r\n") if not x.lower().startswith(b"connection:")
                    ]
                    head = b"\r\n".join([lines[0], b"Connection: close", *lines[1:]])
                reader, writer = await asyncio.open_connection("127.0.0.1", self.behind)
                writer.write(head)
                await asyncio.gather(_pump(inward, writer), _pump(reader, outward))
        outward.close()


async def _pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await source.read(65536):
            target.write(data)
            await target.drain()
    target.close()


@contextmanager
def proxy(behind: int, prefix: str, port: int | None = None) -> Iterator[Proxy]:
    """A proxy on a free local port in front of the port `behind`."""
    found, ready = Proxy(port or free_port(), behind, prefix), Event()
    thread = Thread(target=lambda: asyncio.run(found.serve(ready)), daemon=True)
    thread.start()
    ready.wait(10)
    try:
        yield found
    finally:
        found.stop()
        thread.join(10)
