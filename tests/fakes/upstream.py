"""An upstream for tests: a raw HTTP/1.1 server on loopback, in the same trio run, whose every byte the test decides.

    async with serve_upstream() as upstream:
        upstream.script(head(200, chunked=True), chunk(b"data: one\n\n"), some_event, RESET)
        ... let the code under test POST to upstream.base_url ...
        request = await upstream.wait_request()        # the first; wait_request(2) the second, and so on
        await request.closed.wait()                    # the peer has closed the request's connection

`script` queues the answer to one request; requests are answered in the order of their arrival, and one for which
nothing is queued gets `upstream.default` (a small JSON completion).  A script is made of steps:

    bytes           sent in one write
    trio.Event      waited for, or for the end of the connection
    HANG            nothing more is sent; the connection stays open until the peer closes it
    FIN             the connection is closed (pending bytes arrive first)
    RESET           the connection is reset (RST)
    async function  called with (request, connection): `await connection.send(b"…")`, or whatever else

A script without HANG, FIN or RESET leaves the connection open for the next request.  `head`, `chunk`, `LAST_CHUNK`,
`whole`, `json_response`, `sse_response` and `openai_stream` make the bytes of usual answers.
"""

import json
import socket
import struct
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import Enum
from ssl import SSLContext
from typing import Any

import trio

TIMEOUT = 10.0


class End(Enum):
    HANG = "hang"
    FIN = "fin"
    RESET = "reset"


HANG, FIN, RESET = End.HANG, End.FIN, End.RESET


@dataclass(eq=False)
class Request:
    """One request as it arrived.  `headers` have lower-case names; `connection` counts the connections from 0."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    connection: int
    raw_head: bytes
    closed: trio.Event
    """Set when the connection that carried this request has ended: the peer closed or reset it, or a step did."""

    @property
    def json(self) -> Any:
        return json.loads(self.body)


Handler = Callable[[Request, "Connection"], Awaitable[object]]
Step = bytes | trio.Event | End | Handler
LAST_CHUNK = b"0\r\n\r\n"


def head(
    status: int = 200, headers: dict[str, str] | None = None, *, chunked: bool = False, reason: str = "X"
) -> bytes:
    """A status line and headers."""
    lines = [f"HTTP/1.1 {status} {reason}", *(f"{name}: {value}" for name, value in (headers or {}).items())]
    if chunked:
        lines.append("transfer-encoding: chunked")
    return "\r\n".join([*lines, "", ""]).encode()


def chunk(data: bytes | str) -> bytes:
    """`data` as one chunk of a chunked body."""
    data = data.encode() if isinstance(data, str) else data
    return b"%x\r\n%s\r\n" % (len(data), data)


def whole(status: int, body: bytes, headers: dict[str, str] | None = None) -> bytes:
    """A whole response with `content-length`."""
    return head(status, {"content-length": str(len(body)), **(headers or {})}) + body


def json_response(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> bytes:
    """A whole JSON response."""
    return whole(status, json.dumps(value).encode(), {"content-type": "application/json", **(headers or {})})


def sse_response(events: Iterable[bytes | str]) -> list[bytes]:
    """The steps of a whole SSE response: its head, one chunk for each of `events` (as they are), the last chunk."""
    start = head(200, {"content-type": "text/event-stream"}, chunked=True)
    return [start, *(chunk(event) for event in events), LAST_CHUNK]


def openai_chunk(delta: dict[str, Any], finish_reason: str | None = None, **more: Any) -> str:
    """One `chat.completion.chunk` as an SSE event."""
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    common = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "fake"}
    return f"data: {json.dumps({**common, 'choices': [choice], **more})}\n\n"


def openai_stream(*words: str, usage: tuple[int, int] | None = None) -> list[bytes]:
    """The steps of an OpenAI stream that says `words`; `usage` (prompt, completion) adds the extra usage chunk."""
    events = [openai_chunk({"role": "assistant", "content": ""})]
    events += [openai_chunk({"content": word}) for word in words]
    events.append(openai_chunk({}, "stop"))
    if usage is not None:
        prompt, completion = usage
        counts = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
        common = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "fake"}
        events.append(f"data: {json.dumps({**common, 'choices': [], 'usage': counts})}\n\n")
    return sse_response([*events, "data: [DONE]\n\n"])


COMPLETION = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "fake",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "hello"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 5, "completion_tokens": 1, "total_tokens": 6},
}


@dataclass(eq=False)
class FakeUpstream:
    """See the module.  `open` counts the connections that stand, `connections` those that were ever made."""

    port: int
    scheme: str = "http"
    default: list[Step] = field(default_factory=lambda: [json_response(COMPLETION)])
    requests: list[Request] = field(default_factory=list)
    connections: int = 0
    open: int = 0
    _scripts: deque[list[Step]] = field(default_factory=deque)
    _changed: trio.Condition = field(default_factory=trio.Condition)

    @property
    def origin(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    @property
    def base_url(self) -> str:
        return f"{self.origin}/v1"

    def script(self, *steps: Step) -> None:
        """Queue the answer to one request."""
        self._scripts.append(list(steps))

    async def wait_request(self, number: int = 1) -> Request:
        """The `number`-th request, once it has arrived whole."""
        await self._wait(lambda: len(self.requests) >= number)
        return self.requests[number - 1]

    async def wait_open(self, count: int) -> None:
        """Wait until exactly `count` connections stand."""
        await self._wait(lambda: self.open == count)

    async def _wait(self, condition: Callable[[], bool]) -> None:
        with trio.fail_after(TIMEOUT):
            async with self._changed:
                while not condition():
                    await self._changed.wait()

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _serve(self, stream: trio.abc.Stream, sock: trio.socket.SocketType) -> None:
        number, self.connections = self.connections, self.connections + 1
        self.open += 1
        connection = Connection(stream, sock, number)
        try:
            await self._notify()
            while (request := await connection.next_request()) is not None:
                self.requests.append(request)
                steps = self._scripts.popleft() if self._scripts else self.default
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(connection.watch)
                    await self._notify()
                    await connection.play(request, steps)
                    nursery.cancel_scope.cancel()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            connection.closed.set()
            self.open -= 1
            sock.close()
            with trio.CancelScope(shield=True):
                await self._notify()


class Connection:
    """The server's side of one connection."""

    def __init__(self, stream: trio.abc.Stream, sock: trio.socket.SocketType, number: int) -> None:
        self.stream = stream
        self.socket = sock
        self.number = number
        self.closed = trio.Event()
        self._buffer = b""

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    def reset(self) -> None:
        """Close with RST."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    async def next_request(self) -> Request | None:
        while b"\r\n\r\n" not in self._buffer:
            if not await self._read():
                return None
        raw_head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        first, *lines = raw_head.decode("latin-1").split("\r\n")
        method, path, _ = first.split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        length = int(headers.get("content-length", "0"))
        while len(self._buffer) < length:
            if not await self._read():
                return None
        body, self._buffer = self._buffer[:length], self._buffer[length:]
        return Request(method, path, headers, body, self.number, raw_head, self.closed)

    async def _read(self) -> bool:
        try:
            data = await self.stream.receive_some(65536)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            data = b""
        if not data:
            self.closed.set()
        self._buffer += data
        return bool(data)

    async def watch(self) -> None:
        """Set `closed` when the peer closes while a script plays."""
        try:
            if await self.socket.recv(1, socket.MSG_PEEK):
                return  # more bytes: they are the next request's
        except (OSError, trio.ClosedResourceError):
            pass
        self.closed.set()

    async def play(self, request: Request, steps: list[Step]) -> None:
        try:
            for step in steps:
                await self._play_one(request, step)
        except (trio.BrokenResourceError, trio.ClosedResourceError):  # the peer has gone, or a step closed
            self.closed.set()

    async def _cancel_when_closed(self, scope: trio.CancelScope) -> None:
        await self.closed.wait()
        scope.cancel()

    async def _play_one(self, request: Request, step: Step) -> None:
        if isinstance(step, bytes):
            await self.send(step)
        elif isinstance(step, trio.Event):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._cancel_when_closed, nursery.cancel_scope)
                await step.wait()
                nursery.cancel_scope.cancel()
        elif step is HANG:
            await self.closed.wait()
        elif step is FIN:
            self.socket.close()
        elif step is RESET:
            self.reset()
        else:
            assert callable(step)
            await step(request, self)


@asynccontextmanager
async def serve_upstream(ssl_context: SSLContext | None = None, *, port: int = 0) -> AsyncIterator[FakeUpstream]:
    """A `FakeUpstream` on a port of 127.0.0.1 (a free one by default); on leaving, all its connections are closed."""
    async with trio.open_nursery() as nursery:
        [listener] = await trio.open_tcp_listeners(port, host="127.0.0.1")
        address = listener.socket.getsockname()
        upstream = FakeUpstream(port=address[1], scheme="https" if ssl_context else "http")

        async def serve(stream: trio.SocketStream) -> None:
            if ssl_context is None:
                await upstream._serve(stream, stream.socket)
            else:
                tls = trio.SSLStream(stream, ssl_context, server_side=True, https_compatible=True)
                await upstream._serve(tls, stream.socket)

        nursery.start_soon(trio.serve_listeners, serve, [listener])
        yield upstream
        nursery.cancel_scope.cancel()
