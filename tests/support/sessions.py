"""Sessions of the app without a browser: clients that speak Streamlit's protocol on a WebSocket.

They do what a tab does: connect, run the page, change a widget, follow a fragment's clock, and come
back under their old id. Accepted trade-off: nothing is drawn, so a browser's own work is not seen;
messages are Streamlit's own types, so another version may need another client.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, Self
from urllib.parse import urlparse

from streamlit.proto.Alert_pb2 import Alert
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from websockets.asyncio.client import ClientConnection, connect

PATIENCE_SECONDS = 600.0


class Session:
    """One tab on one page."""

    def __init__(self, socket: ClientConnection, page: str, query: str) -> None:
        self._socket = socket
        self._query, self._page, self._hash = query, page, ""
        self._widgets: dict[str, float] = {}
        self._finished: asyncio.Queue[int] = asyncio.Queue()
        self._clocks: dict[str, asyncio.Task[None]] = {}
        self._reader: asyncio.Task[None]
        self.id = ""
        self.faults: list[str] = []
        """Exceptions and error boxes that the page showed, each as the words it held."""
        self.kept: list[bytes] | None = None
        self.received = 0
        """Bytes."""
        self.ticks = 0
        """Runs that a fragment's clock asked for, and that have ended."""
        self._numbers: dict[str, str] = {}

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        address: str,
        page: str = "",
        query: str = "",
        *,
        known: str = "",
        keep: bool = False,
        **connection: Any,
    ) -> AsyncIterator[Self]:
        """Connect to the app at `address`, as session `known` if it is still there, and run the
        page once; `keep` all that the server says. `connection`: what else `connect` of
        websockets is to know."""
        host = urlparse(address)
        protocols: Any = ["streamlit", "none", *([known] if known else [])]
        async with connect(
            f"ws{'s' * (host.scheme == 'https')}://{host.netloc}{host.path.rstrip('/')}"
            "/_stcore/stream",
            subprotocols=protocols,
            max_size=None,
            ping_interval=None,
            open_timeout=PATIENCE_SECONDS,
            **connection,
        ) as socket:
            session = cls(socket, page, query)
            session.kept = [] if keep else None
            session._reader = asyncio.create_task(session._read())
            try:
                await session.run()
                yield session
            finally:
                for task in (session._reader, *session._clocks.values()):
                    task.cancel()
                    with suppress(asyncio.CancelledError):
                        await task

    async def run(self, fragment: str = "") -> float:
        """Run the page, or one of its fragments; seconds until it has finished."""
        message = BackMsg()
        state = message.rerun_script
        state.query_string, state.page_script_hash = self._query, self._hash
        state.fragment_id, state.is_auto_rerun = fragment, bool(fragment)
        if not self._hash:
            state.page_name = self._page
        if not fragment:
            self._stop_clocks()
        for key, value in self._widgets.items():
            state.widget_states.widgets.add(id=key, double_value=value)
        begun = time.perf_counter()
        await self._socket.send(message.SerializeToString())
        if not fragment:
            finished = asyncio.create_task(self._finished.get())
            await asyncio.wait(
                {finished, self._reader},
                timeout=PATIENCE_SECONDS,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if not finished.done():
                finished.cancel()
                if self._reader.done():
                    self._reader.result()
                raise TimeoutError(f"{self._page} was not finished: {self.faults}")
        return time.perf_counter() - begun

    async def enter(self, label: str, value: float) -> float:
        """Put a number into the field `label`; seconds until the page has finished."""
        self._widgets[self._numbers[label]] = value
        return await self.run()

    async def _read(self) -> None:
        async for data in self._socket:
            assert isinstance(data, bytes)
            self.received += len(data)
            if self.kept is not None:
                self.kept.append(data)
            message = ForwardMsg.FromString(data)
            kind = message.WhichOneof("type")
            if kind == "new_session":
                self.id = message.new_session.initialize.session_id or self.id
            elif kind == "navigation":
                self._hash = message.navigation.page_script_hash
            elif kind == "page_info_changed":
                self._query = message.page_info_changed.query_string
            elif kind == "delta":
                self._note(message)
            elif kind == "auto_rerun":
                clock = self._tick(message.auto_rerun.fragment_id, message.auto_rerun.interval)
                self._clocks[message.auto_rerun.fragment_id] = asyncio.create_task(clock)
            elif kind == "stop_auto_rerun":
                self._stop_clocks(*message.stop_auto_rerun.fragment_ids)
            elif kind == "script_finished":
                if message.script_finished == ForwardMsg.FINISHED_FRAGMENT_RUN_SUCCESSFULLY:
                    self.ticks += 1
                elif message.script_finished != ForwardMsg.FINISHED_EARLY_FOR_RERUN:
                    self._finished.put_nowait(message.script_finished)
            elif kind == "session_event":
                self.faults.append(str(message.session_event))

    def _note(self, message: ForwardMsg) -> None:
        element = message.delta.new_element
        kind = element.WhichOneof("type")
        if kind == "exception":
            self.faults.append(f"{element.exception.type}: {element.exception.message}")
        elif kind == "alert" and element.alert.format == Alert.ERROR:
            self.faults.append(element.alert.body)
        elif kind == "number_input":
            self._numbers[element.number_input.label] = element.number_input.id

    async def _tick(self, fragment: str, interval: float) -> None:
        while True:
            await asyncio.sleep(interval)
            await self.run(fragment)

    def _stop_clocks(self, *fragments: str) -> None:
        for fragment in fragments or tuple(self._clocks):
            clock = self._clocks.pop(fragment, None)
            if clock is not None:
                clock.cancel()
