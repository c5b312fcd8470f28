"""Hypercorn's HTTP on our sockets: one `Connection` for each client, and the `Server` that accepts and drains them.

Hypercorn's protocol code for HTTP/1.1 is used as it is; WebSockets are `worker.websocket`'s.  Its connection class is
replaced in the three points where a gateway needs more than it gives:

* a send is shielded without a deadline, so a client that stops reading could hold a worker for ever: here a send
  notes when it began, and `abort` releases it;
* each keep-alive period starts and cancels a task: here `idle_since` is looked at from one clock;
* each send costs a trip through the scheduler even when the socket has room: here the socket is tried first.
"""

import contextlib
import logging
import math
import os
import resource
import select
import socket
import struct
import uuid
from collections.abc import Awaitable, Callable, Sequence
from typing import cast

import h11
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config as HypercornConfig
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.events import Request
from hypercorn.protocol.h11 import STREAM_ID, H11Protocol, H11WSConnection
from hypercorn.protocol.http_stream import HTTPStream
from hypercorn.trio.task_group import TaskGroup
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ASGIFramework, ConnectionState, H11SendableEvent
from hypercorn.utils import parse_socket_addr

from shared import config
from shared.logs import get_logger
from worker.asgi import App
from worker.dialects.openai.errors import error_body
from worker.websocket import WebSocketStream, handshake_of

RECEIVE_BYTES = 65536
# Descriptors kept free for upstream connections, pipes and files.
RESERVED_FDS = 256
# A stream notices a client that doesn't read by itself, and says so in its record; the server comes later.
SESSION_FIRST = 1.0
_RESET = struct.pack("ii", 1, 0)


class _H11(H11Protocol):
    """Sends a response's head together with the first bytes of its body, and tells a bad request what is wrong."""

    _head = b""

    async def _check_protocol(self, event: h11.Request) -> None:
        """No way to cleartext HTTP/2: there a send waits for the peer's flow window, out of reach of `abort`."""

    async def _create_stream(self, request: h11.Request) -> None:
        """Hypercorn's own looks for its WebSockets in every request's headers, one by one."""
        headers = list(request.headers)
        handshake = handshake_of(request, headers)
        client, server, send = self.client, self.server, self.stream_send
        stream: HTTPStream | WebSocketStream
        if handshake is None:
            stream = HTTPStream(
                self.app, self.config, self.context, self.task_group, self.ssl, client, server, send, STREAM_ID
            )
        else:
            stream = WebSocketStream(handshake, self.app, self.task_group, client, server, send)
            self.connection = H11WSConnection(cast("h11.Connection", self.connection))
        self.stream = stream  # type: ignore[assignment]
        await stream.handle(
            Request(
                stream_id=STREAM_ID,
                headers=headers,
                http_version=request.http_version.decode(),
                method=request.method.decode("ascii").upper(),
                raw_path=request.target,
                state=self.connection_state,
            )
        )
        self.keep_alive_requests += 1

    async def _send_h11_event(self, event: H11SendableEvent) -> None:
        try:
            data = self.connection.send(event)
        except h11.LocalProtocolError:
            if self.connection.their_state != h11.ERROR:
                raise
            return
        if isinstance(event, h11.Response):
            self._head = data  # at least the end of the message follows at once
            return
        if self._head:
            data, self._head = self._head + data, b""
        if data:
            await self.send(RawData(data=data))

    async def _send_error_response(self, status_code: int) -> None:
        reason = "its head is too large" if status_code == 431 else "it is not valid HTTP/1.1"
        body = error_body(status_code, f"the request was refused: {reason}")
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"connection", b"close"),
            (b"x-request-id", f"req_{uuid.uuid4().hex}".encode()),
            *self.config.response_headers("h11"),
        ]
        await self._send_h11_event(h11.Response(status_code=status_code, headers=headers))
        await self._send_h11_event(h11.Data(data=body))
        await self._send_h11_event(h11.EndOfMessage())


class Connection(TCPServer):
    """One client connection.  `run` owns it; `abort` and `close_idle` may be called from any task."""

    def __init__(self, server: "Server", stream: trio.SocketStream) -> None:
        super().__init__(server.app, server.hypercorn, server.context, {}, stream)  # type: ignore[arg-type]
        self.server = server
        self.socket = stream.socket
        self.idle_since: float | None = trio.current_time()
        """trio time since when no request is in progress; None while one is."""
        self.sending_since: float | None = None
        """trio time since when a send has waited for the client to read; None if none does."""
        self._reading = False
        self._gone = False
        self._on_gone: Callable[[], None] | None = None

    def watch(self, on_gone: Callable[[], None] | None) -> None:
        """Have `on_gone` called as soon as the client has left, at once if it has; None ends the watch.

        It saves each request a nursery and a task that waits for ASGI's `http.disconnect`.
        """
        self._on_gone = on_gone
        if on_gone is not None and self._gone:
            on_gone()

    def start_soon(self, job: Callable[[], Awaitable[None]]) -> None:
        """Run a short job beside the request that is in progress; the connection owns it."""
        self._task_group.spawn(job)

    async def run(self) -> None:
        """Serve the connection to its end; never raises for what a client did."""
        self.server.connections.add(self)
        try:
            client = parse_socket_addr(self.socket.family, self.socket.getpeername())
            local = parse_socket_addr(self.socket.family, self.socket.getsockname())
            async with TaskGroup() as task_group:
                self._task_group = task_group
                state = ConnectionState({"connection": self})
                arguments = (self.app, self.config, self.context, task_group, state, False, client, local)
                self.protocol = _H11(*arguments, self.protocol_send)  # type: ignore[assignment]
                await self._read_data()
        except OSError:
            pass  # the peer vanished between accept and the first look at it
        except Exception:
            get_logger().exception("connection_crashed")
        finally:
            self.server.connections.discard(self)
            with trio.CancelScope(shield=True):  # `_close` waits for nothing: it is two system calls
                await self._close()

    async def protocol_send(self, event: Event) -> None:
        """Hypercorn's way out.  A send can't be cancelled, as h11 has already counted its bytes; `abort` ends it."""
        if isinstance(event, RawData):
            await self._send_all(event.data)
        elif isinstance(event, Closed):
            await self._close()
            await self.protocol.handle(Closed())
        elif isinstance(event, Updated):
            self.idle_since = trio.current_time() if event.idle else None

    async def _send_all(self, data: bytes) -> None:
        if not self.send_lock.locked():
            try:
                sent = os.write(self.socket.fileno(), data)
            except OSError:
                sent = 0  # full, broken or closed: `send_all` tells which
            if sent == len(data):
                return
            data = data[sent:]
        with trio.CancelScope(shield=True):
            async with self.send_lock:
                self.sending_since = trio.current_time()
                try:
                    await self.stream.send_all(data)
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    await self.protocol.handle(Closed())
                finally:
                    self.sending_since = None

    async def _read_data(self) -> None:
        while True:
            self._reading = True
            try:
                data = await self.stream.receive_some(RECEIVE_BYTES)
            except (trio.ClosedResourceError, trio.BrokenResourceError):
                break
            finally:
                self._reading = False
            if not data:
                break
            await self.protocol.handle(RawData(bytes(data)))
        self._gone = True
        if self._on_gone is not None:
            self._on_gone()
        await self.protocol.handle(RawData(b""))
        await self.protocol.handle(Closed())

    def is_abandoned(self) -> bool:
        """Whether the client has left while nobody was reading: Hypercorn stops reading behind a pipelined request."""
        return not self._reading and bool(self._poll(select.POLLRDHUP))

    def has_input(self) -> bool:
        """Whether bytes wait in the socket; closing it now would lose a request that is on its way."""
        return bool(self._poll(select.POLLIN) & select.POLLIN)

    def has_room(self) -> bool:
        """Whether the socket takes more bytes now; False where the client does not read."""
        return bool(self._poll(select.POLLOUT) & select.POLLOUT)

    def _poll(self, events: int) -> int:
        fd = self.socket.fileno()
        if fd < 0:
            return 0
        poll = select.poll()
        poll.register(fd, events)
        return next((found for _, found in poll.poll(0)), 0)

    def close_idle(self) -> None:
        """Close between requests: the reader sees it and `run` ends."""
        self.socket.close()

    def abort(self) -> None:
        """Reset the connection at once: a send that waits for the client to read is released."""
        with contextlib.suppress(OSError):
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.socket.close()


class Server:
    """Accepts on inherited listening sockets until told to stop; knows its open connections."""

    def __init__(self, app: App, settings: config.Server, listeners: Sequence[socket.socket]) -> None:
        self.app = ASGIWrapper(cast("ASGIFramework", app))
        self.context = WorkerContext(None)
        self.connections: set[Connection] = set()
        self.hypercorn = HypercornConfig()
        self.hypercorn.h11_max_incomplete_size = settings.max_header_bytes
        self.hypercorn.include_server_header = False
        self.hypercorn.errorlog = logging.getLogger("hypercorn.error")
        self.hypercorn.keep_alive_max_requests = 100_000
        self._keep_alive_timeout = settings.keep_alive_timeout
        self._send_timeout = settings.send_timeout + SESSION_FIRST
        self._listeners = [trio.SocketListener(trio.socket.from_stdlib_socket(sock)) for sock in listeners]
        self._accepting = trio.CancelScope()
        self._max_connections = max(64, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - RESERVED_FDS)

    async def serve(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Accept until `stop_accepting`; returns when the last connection has ended."""
        async with trio.open_nursery() as nursery:
            with self._accepting:
                await trio.serve_listeners(
                    self._serve_connection, self._listeners, handler_nursery=nursery, task_status=_Started(task_status)
                )
            for listener in self._listeners:
                await listener.aclose()

    async def _serve_connection(self, stream: trio.SocketStream) -> None:
        if len(self.connections) >= self._max_connections:
            self._make_room()
        await Connection(self, stream).run()

    def _make_room(self) -> None:
        """Give up the connection that has been idle for longest, as nginx does when it runs out of them."""
        idle = [c for c in self.connections if c.idle_since is not None]
        if idle:
            min(idle, key=lambda c: c.idle_since or 0.0).close_idle()

    def stop_accepting(self) -> None:
        """Leave the listening sockets to the other workers; connections go on."""
        self._accepting.cancel()

    def close_idle(self, since: float = math.inf) -> None:
        """Close the connections that have been between requests since that time or longer, unless one is on its way."""
        for connection in list(self.connections):
            if connection.idle_since is not None and connection.idle_since <= since and not connection.has_input():
                connection.close_idle()

    def close_overdue(self) -> None:
        """Apply the keep-alive timeout, which bounds a slow request head too, and the send timeout.

        Called from the worker's clock.  Streams look after their own sends, with a record; here it is about the
        clients that ask for small things and read none of them.
        """
        now = trio.current_time()
        for connection in list(self.connections):
            if connection.idle_since is not None and now - connection.idle_since > self._keep_alive_timeout:
                connection.close_idle()
            elif connection.sending_since is not None and now - connection.sending_since > self._send_timeout:
                connection.abort()

    def abort_all(self) -> None:
        """Reset what is left."""
        for connection in list(self.connections):
            connection.abort()


class _Started:
    """Passes on that accepting has begun, without the list of listeners."""

    def __init__(self, task_status: trio.TaskStatus[None]) -> None:
        self._task_status = task_status

    def started(self, _listeners: object = None) -> None:
        self._task_status.started(None)
