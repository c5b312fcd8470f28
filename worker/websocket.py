"""The server's side of a WebSocket (RFC 6455) on a connection of Hypercorn's, for an ASGI application.

It stands in for Hypercorn's own, which compresses for each client anew what goes to all of them, keeps a message that
is too large, ends garbage without a word, and never tells an application that the client left during the handshake.
wsproto does the framing.

    state      what comes                       what is done                          then
    handshake  the application accepts          101                                   open
    handshake  the application answers as HTTP  that, and the connection closes       ended
    handshake  bytes of the client              it must wait for the answer           ended
    open       a message                        given to the application              open
    open       ping                             pong                                  open
    open       the client closes                the same code back                    ended
    open       garbage, or too large a message  a close with the code that says so    closing
    open       the application closes, or ends  a close                               closing
    closing    the client closes                                                      ended
    any        the connection is gone                                                 ended

The application gets `websocket.disconnect` when it is no longer open; what it sends later is passed over.  When it has
returned the connection is closed, in `closing` once the client had `CLOSE_TIMEOUT` to say that it has heard.

Beyond ASGI's messages there are `websocket.ping` to send, and `websocket.pong`, which comes; `websocket.accept` may
have `max_message_chars`, `websocket.send` takes `frames`, complete ones; and a refusal is sent as to an HTTP request.
"""

import contextlib
import struct
from collections.abc import Awaitable, Callable
from enum import Enum
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import h11
import trio
from hypercorn.protocol.events import Body, Data, EndBody, Event, Request, Response, StreamClosed
from hypercorn.protocol.ws_stream import Handshake
from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, Pong, TextMessage
from wsproto.frame_protocol import CloseReason

from worker.asgi import Message

if TYPE_CHECKING:
    from hypercorn.typing import AppWrapper, TaskGroup

STREAM_ID = 1
MAX_MESSAGE_CHARS = 64 * 1024
"""Clients say little.  Bytes, where a message is binary."""
MAX_MESSAGES = 16
"""How many of them may wait for the application; the client's next ones then wait in its socket."""
CLOSE_TIMEOUT = 1.0
FRAMES_AT_ONCE = 50
"""After so many the worker's other clients have their turn.  One read may hold ten thousand, and neither a ping nor a
part of a message has to wait for anything."""


class State(Enum):
    """See the module."""

    HANDSHAKE = "handshake"
    OPEN = "open"
    CLOSING = "closing"
    ENDED = "ended"


class WebSocketStream:
    """See the module; Hypercorn's `H11Protocol` calls `handle`, `send` leads back to it."""

    def __init__(
        self,
        handshake: Handshake,
        app: "AppWrapper",
        task_group: "TaskGroup",
        client: Any,
        server: Any,
        send: Callable[[Event], Awaitable[None]],
    ) -> None:
        handshake.extensions = None  # no compression: events are encoded once for all listeners
        self._handshake = handshake
        self._app = app
        self._task_group = task_group
        self._addresses = {"client": client, "server": server}
        self._to_protocol = send
        self._state = State.HANDSHAKE
        self._ended = trio.Event()
        self._deaf = False
        """What comes is passed over."""
        self._code = CloseReason.ABNORMAL_CLOSURE.value
        """What the application is told of its end."""
        self._parts: list[Any] = []
        self._size = 0
        self._max_size = MAX_MESSAGE_CHARS
        self._ws = Connection(ConnectionType.SERVER)
        self._to_app, self._inbox = trio.open_memory_channel[Message](MAX_MESSAGES)

    async def handle(self, event: Event) -> None:
        """What comes from the client, by way of Hypercorn."""
        if isinstance(event, Request):
            self._task_group.spawn(self._run, self._scope(event))
        elif isinstance(event, Data):
            await self._receive_data(event.data)
        elif isinstance(event, StreamClosed):
            self._end(CloseReason.ABNORMAL_CLOSURE)

    def _scope(self, request: Request) -> dict[str, Any]:
        path, _, query_string = request.raw_path.partition(b"?")
        return {
            "type": "websocket",
            "asgi": {"spec_version": "2.3", "version": "3.0"},
            "scheme": "ws",
            "method": request.method,
            "http_version": request.http_version,
            "path": unquote(path.decode("ascii")),
            "raw_path": path,
            "query_string": query_string,
            "root_path": "",
            "headers": request.headers,
            "state": request.state.copy(),
            **self._addresses,
        }

    # The application

    async def _run(self, scope: dict[str, Any]) -> None:
        await self._app(scope, self._receive, self._send, trio.to_thread.run_sync, trio.from_thread.run)  # type: ignore[arg-type]
        self._inbox.close()
        if self._state is State.OPEN:
            await self._close(CloseReason.INTERNAL_ERROR, "")
        if self._state is State.CLOSING:
            with trio.move_on_after(CLOSE_TIMEOUT):
                await self._ended.wait()
        await self._to_protocol(StreamClosed(stream_id=STREAM_ID))

    async def _receive(self) -> Message:
        try:
            return await self._inbox.receive()
        except trio.EndOfChannel:
            return {"type": "websocket.disconnect", "code": self._code}

    async def _send(self, message: Message) -> None:
        match self._state, message["type"]:
            case State.HANDSHAKE, "websocket.accept":
                self._state = State.OPEN
                self._max_size = message.get("max_message_chars", MAX_MESSAGE_CHARS)
                status, headers, _ = self._handshake.accept(None, message["headers"])
                await self._to_protocol(Response(STREAM_ID, headers, status))
            case State.HANDSHAKE, "http.response.start":
                await self._to_protocol(Response(STREAM_ID, message["headers"], message["status"]))
            case State.HANDSHAKE, "http.response.body":
                if message["body"]:
                    await self._to_protocol(Body(STREAM_ID, message["body"]))
                if not message["more_body"]:
                    self._state = State.ENDED
                    await self._to_protocol(EndBody(STREAM_ID))
            case State.OPEN, "websocket.send":
                await self._write(message["frames"])
            case State.OPEN, "websocket.ping":
                await self._write(self._ws.send(Ping()))
            case State.OPEN, "websocket.close":
                await self._close(message["code"], message["reason"])
            case _:
                pass

    async def _write(self, data: bytes) -> None:
        await self._to_protocol(Data(STREAM_ID, data))

    async def _close(self, code: int, reason: str) -> None:
        self._state = State.CLOSING
        self._code = code
        self._to_app.close()
        await self._write(bytes(self._ws.send(CloseConnection(code, reason))))

    def _end(self, code: int) -> None:
        if self._state in (State.HANDSHAKE, State.OPEN):
            self._code = code
        self._state = State.ENDED
        self._to_app.close()
        self._ended.set()

    # The client

    async def _receive_data(self, data: bytes) -> None:
        if self._state is State.HANDSHAKE:
            await self._to_protocol(StreamClosed(stream_id=STREAM_ID))
            return
        if self._deaf or self._state is State.ENDED:
            return
        self._ws.receive_data(data)
        for number, event in enumerate(self._ws.events(), 1):
            if number % FRAMES_AT_ONCE == 0:
                await trio.lowlevel.checkpoint()
            match event:
                case CloseConnection():
                    await self._take_close(event)
                case _ if self._state is not State.OPEN:
                    pass
                case TextMessage() | BytesMessage():
                    await self._take_part(event)
                case Ping():
                    await self._write(bytes(self._ws.send(event.response())))
                case Pong():
                    await self._put({"type": "websocket.pong"})

    async def _take_part(self, part: TextMessage | BytesMessage) -> None:
        if part.data:  # a client can send empty ones for ever
            self._parts.append(part.data)
        self._size += len(part.data)
        if self._size > self._max_size:
            self._parts.clear()
            await self._close(CloseReason.MESSAGE_TOO_BIG, "")
        elif part.message_finished:
            is_text = isinstance(part, TextMessage)
            data = ("" if is_text else b"").join(self._parts)
            self._parts.clear()
            self._size = 0
            await self._put({"type": "websocket.receive", "text" if is_text else "bytes": data})

    async def _take_close(self, event: CloseConnection) -> None:
        match self._ws.state:
            case ConnectionState.REMOTE_CLOSING:
                answer = bytes(self._ws.send(event.response()))
                self._end(CloseReason.NO_STATUS_RCVD if event.code is None else event.code)
                await self._write(answer)
            case ConnectionState.CLOSED:
                self._end(CloseReason.NORMAL_CLOSURE)
            case _:  # what wsproto says of garbage, after which it understands nothing more
                self._deaf = True
                if self._state is State.OPEN:
                    await self._close(event.code, "")

    async def _put(self, message: Message) -> None:
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await self._to_app.send(message)


def handshake_of(request: h11.Request, headers: list[tuple[bytes, bytes]]) -> Handshake | None:
    """The handshake that a request is, if it is one (RFC 6455, 4.2.1); any other wish to upgrade may be ignored."""
    upgrade = next((value for name, value in headers if name == b"upgrade"), None)
    if upgrade is None or upgrade.strip().lower() != b"websocket" or request.method != b"GET":
        return None
    try:
        handshake = Handshake(headers, request.http_version.decode())
    except UnicodeDecodeError:  # in one of the lists, which Hypercorn takes for ASCII
        return None
    return handshake if handshake.is_valid() and handshake.key is not None else None


def text_frame(payload: bytes) -> bytes:
    """A text message of the server's (RFC 6455, 5.2), in one frame."""
    length = len(payload)
    if length < 126:
        return b"\x81%c" % length + payload
    if length < 65536:
        return struct.pack("!BBH", 0x81, 126, length) + payload
    return struct.pack("!BBQ", 0x81, 127, length) + payload
