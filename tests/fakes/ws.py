"""A client of WebSockets that sees every event of the protocol, and can say what no honest one would.

async with listen(port) as listener:
    hello = await listener.event()
    end = await listener.wait("stream_end")
"""

import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import trio
from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    CloseConnection,
    Event,
    Ping,
    RejectConnection,
    RejectData,
    Request,
    TextMessage,
)

TIMEOUT = 20.0


class RefusedError(Exception):
    """The server answered as to an HTTP request."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        super().__init__(status, body)
        self.status = status
        self.headers = headers
        self.body = body

    def json(self) -> Any:
        return json.loads(self.body)


class WebSocketClient:
    """One connection.  `event` answers pings."""

    def __init__(self, stream: trio.SocketStream, *, host: str = "localhost") -> None:
        self.stream = stream
        self.host = host
        self.pings = 0
        self.headers: dict[str, str] = {}
        """Of the answer to the handshake."""
        self.ws = WSConnection(ConnectionType.CLIENT)
        self._events: list[Event] = []
        self._ended = False

    async def open(self, target: str = "/ws", **headers: str) -> None:
        """The handshake; `RefusedError` if it fails.  `headers` are named with `_` for `-`."""
        extra = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        await self.send(Request(host=self.host, target=target, extra_headers=extra))
        first = await self.next()
        if isinstance(first, RejectConnection):
            body = b""
            while True:
                event = await self.next()
                assert isinstance(event, RejectData)
                body += event.data
                if event.body_finished:
                    break
            raise RefusedError(first.status_code, _decoded(first.headers), body)
        assert isinstance(first, AcceptConnection), first
        assert first.extensions == []
        self.headers = _decoded(first.extra_headers)

    async def send(self, event: Event) -> None:
        await self.stream.send_all(self.ws.send(event))

    async def send_raw(self, data: bytes) -> None:
        """Bytes that wsproto knows nothing of."""
        await self.stream.send_all(data)

    async def next(self) -> Event:
        """The next event of the protocol, within `TIMEOUT`.  `EOFError` when the server has closed the connection."""
        while not self._events:
            if self._ended:
                raise EOFError
            try:
                with trio.fail_after(TIMEOUT):
                    data = await self.stream.receive_some(65536)
            except trio.BrokenResourceError:
                data = b""
            if not data:
                self._ended = True
                raise EOFError
            self.ws.receive_data(bytes(data))
            self._events += self.ws.events()
        return self._events.pop(0)

    async def event(self) -> dict[str, Any]:
        """The next live event."""
        text = ""
        while True:
            event = await self.next()
            match event:
                case TextMessage(data=data):
                    text += data
                    if event.message_finished:
                        return json.loads(text)
                case Ping():
                    self.pings += 1
                    await self.send(event.response())
                case CloseConnection():
                    raise AssertionError(f"closed: {event}")

    async def wait(self, type: str, **fields: Any) -> dict[str, Any]:
        """The next live event of this type that has these values, within `TIMEOUT` whatever else comes."""
        with trio.fail_after(TIMEOUT):
            while True:
                event = await self.event()
                if event["type"] == type and all(event[name] == value for name, value in fields.items()):
                    return event
        raise AssertionError

    async def wait_close(self) -> CloseConnection:
        """The server's close, answered; whatever comes before it is passed over."""
        while True:
            event = await self.next()
            if isinstance(event, CloseConnection):
                if self.ws.state.name == "REMOTE_CLOSING":
                    with suppress(trio.BrokenResourceError):  # it waits for a moment only
                        await self.send(event.response())
                return event

    async def wait_eof(self) -> None:
        """Until the server has closed the connection."""
        try:
            while True:
                await self.next()
        except EOFError:
            pass

    def close(self) -> None:
        """Leave without a word."""
        self.stream.socket.close()


def _decoded(headers: Any) -> dict[str, str]:
    return {bytes(name).decode().lower(): bytes(value).decode() for name, value in headers}


async def connect(port: int, *, receive_buffer_bytes: int | None = None, host: str = "localhost") -> WebSocketClient:
    """A connection on which nothing has been said."""
    sock = trio.socket.socket()
    if receive_buffer_bytes is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
    try:
        await sock.connect(("127.0.0.1", port))
    except BaseException:
        sock.close()
        raise
    return WebSocketClient(trio.SocketStream(sock), host=host)


@asynccontextmanager
async def listen(
    port: int,
    target: str = "/ws",
    *,
    receive_buffer_bytes: int | None = None,
    host: str = "localhost",
    **headers: str,
) -> AsyncIterator[WebSocketClient]:
    """A client whose handshake was accepted; on leaving the body he is gone without a word."""
    client = await connect(port, receive_buffer_bytes=receive_buffer_bytes, host=host)
    try:
        await client.open(target, **headers)
        yield client
    finally:
        client.close()
