"""HTTP on our sockets: one `Connection` for each client, and the `Server` that accepts and drains them.

Hypercorn's connection class is the base.  It is replaced in the three points where a gateway needs more than it gives:

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
import ssl
import struct
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, cast

import h11
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config as HypercornConfig
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.trio.task_group import TaskGroup
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ASGIFramework, ConnectionState
from hypercorn.utils import parse_socket_addr

from shared import config
from shared.logs import get_logger
from worker.asgi import App
from worker.http1 import Http1
from worker.http2 import Http2
from worker.tls import PIECE_BYTES, NotTls, Offer, TlsStream, refuse_clear, why_failed

RECEIVE_BYTES = 65536
# Descriptors kept free for upstream connections, pipes and files.
RESERVED_FDS = 256
# A stream notices a client that doesn't read by itself, and says so in its record; the server comes later.
SESSION_FIRST = 1.0
LINGER = 1.0
READS_AT_ONCE = 16
_RESET = struct.pack("ii", 1, 0)


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
        self._reads = 0
        """How many have been made without a pause."""
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
            await self._serve(client, local)
        except OSError:
            pass  # the peer vanished between accept and the first look at it
        except Exception:
            get_logger().exception("connection_crashed")
        finally:
            self.server.connections.discard(self)
            with trio.CancelScope(shield=True):  # `_close` waits for nothing: it is two system calls
                await self._close()

    async def _serve(self, client: Any, local: Any, *, tls: bool = False) -> None:
        async with TaskGroup() as task_group:
            self._task_group = task_group
            state = ConnectionState({"connection": self})
            arguments = (self.app, self.config, self.context, task_group, state, tls, client, local)
            self.protocol = Http1(*arguments, self.protocol_send)  # type: ignore[assignment]
            await self._read_data()

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
        await self._send_slowly(data)

    async def _send_slowly(self, data: bytes) -> None:
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
                data = await self._receive()
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

    async def _receive(self) -> bytes:
        """The next bytes, b"" at the end; handled in the step of the scheduler in which they were read.

        trio's own goes around once more when it had nothing to wait for.  Meanwhile a request is neither in the socket
        nor in the protocol, and `close_idle` would take its connection for an idle one: a stream begins and is cut.
        """
        self._reads += 1
        if self._reads > READS_AT_ONCE:  # who sends without a pause must not keep the others waiting
            self._reads = 0
            await trio.lowlevel.checkpoint()
        while (fd := self.socket.fileno()) >= 0:
            try:
                return os.read(fd, RECEIVE_BYTES)
            except BlockingIOError:
                self._reads = 0
                await trio.lowlevel.wait_readable(fd)
            except OSError as error:
                raise trio.BrokenResourceError from error
        raise trio.ClosedResourceError

    async def linger(self) -> None:
        """Say that nothing more comes, and read on for a moment; for the task that reads.

        Closing a socket with unread bytes resets the connection, and an answer that is under way may be lost with it
        (RFC 9112, 9.6).
        """
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)
        with trio.move_on_after(LINGER), contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while await self._receive():
                pass

    def is_abandoned(self) -> bool:
        """Whether the client has left while nobody was reading: Hypercorn stops reading behind a pipelined request."""
        return not self._reading and bool(self._poll(select.POLLRDHUP))

    def has_input(self) -> bool:
        """Whether bytes wait to be understood; closing it now would lose a request that is on its way."""
        return bool(self._poll(select.POLLIN) & select.POLLIN) or self._has_unread()

    def _has_unread(self) -> bool:
        """The same of bytes that were read while the request before them was being answered, or are half a head."""
        connection = getattr(getattr(self, "protocol", None), "connection", None)
        return isinstance(connection, h11.Connection) and bool(connection.trailing_data[0])

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

    def cut_stuck(self, since: float) -> None:
        """Reset it if a send has waited for the client to read since that time or longer."""
        if self.sending_since is not None and self.sending_since < since:
            self.abort()

    def abort(self) -> None:
        """Reset the connection at once: a send that waits for the client to read is released."""
        with contextlib.suppress(OSError):
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.socket.close()


class TlsConnection(Connection):
    """The same over TLS, where also HTTP/2 may be spoken."""

    def __init__(self, server: "Server", stream: trio.SocketStream, context: ssl.SSLContext) -> None:
        super().__init__(server, stream)
        self._tls = TlsStream(stream.socket, context)
        self.stream = self._tls  # type: ignore[assignment]
        self._http2: Http2 | None = None

    async def _serve(self, client: Any, local: Any, *, tls: bool = True) -> None:
        """The handshake is part of the time in which the connection is idle: `close_overdue` bounds it."""
        try:
            protocol = await self._tls.handshake()
        except NotTls:
            await refuse_clear(self.socket)
        except (ssl.SSLError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            get_logger().debug("handshake_failed", client=client and client[0], problem=why_failed(error))
        else:
            if protocol == "h2":
                self._http2 = Http2(self.server, self, self._tls, client, local)
                await self._http2.run()
            else:
                await super()._serve(client, local, tls=tls)

    async def _send_all(self, data: bytes) -> None:
        if len(data) <= PIECE_BYTES and not self.send_lock.locked():
            if self._tls.put(data):
                return
            data = b""  # it is in there
        await self._send_slowly(data)

    async def _receive(self) -> bytes:
        return await self._tls.receive_some(RECEIVE_BYTES)

    def has_input(self) -> bool:
        return self._tls.has_partial or super().has_input()

    def has_room(self) -> bool:
        return not self._tls.unsent_bytes and super().has_room()

    def close_idle(self) -> None:
        if self._http2 is not None:
            self._http2.go_away()
        self.finish()

    def cut_stuck(self, since: float) -> None:
        super().cut_stuck(since)
        if self._http2 is not None:
            self._http2.cut_stuck(since)

    def finish(self) -> None:
        """Close, after a note that nothing follows where the client still takes it."""
        self._tls.end()
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)
        self.socket.close()

    async def _close(self) -> None:
        self.finish()


class Server:
    """Accepts on inherited listening sockets until told to stop; knows its open connections."""

    def __init__(
        self,
        app: App,
        settings: config.Server,
        listeners: Sequence[socket.socket],
        keys: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.offer = Offer(settings, keys)
        self.leaving_since: float | None = None
        """trio time since when other workers accept instead."""
        self.asgi = app
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
        if self.offer.context is None or stream.socket.family == socket.AF_UNIX:
            await Connection(self, stream).run()
        else:
            await TlsConnection(self, stream, self.offer.context).run()

    def _make_room(self) -> None:
        """Give up the connection that has been idle for longest, as nginx does when it runs out of them."""
        idle = [c for c in self.connections if c.idle_since is not None]
        if idle:
            min(idle, key=lambda c: c.idle_since or 0.0).close_idle()

    def stop_accepting(self) -> None:
        """Leave the listening sockets to the other workers; connections go on."""
        self.leaving_since = trio.current_time()
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
            else:
                connection.cut_stuck(now - self._send_timeout)

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
