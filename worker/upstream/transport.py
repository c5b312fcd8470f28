"""httpx's transport interface over our own connections.

It exists because httpcore's pool grows superlinearly with its connections: 18 ms a request with 400 idle ones, where
this one stays under 0.1 ms, and because a gateway has to close a socket at the instant its client leaves.
"""

import ssl
from typing import Any

import httpx
import trio

from worker.upstream.base import UpstreamTransport, response
from worker.upstream.connection import Connection
from worker.upstream.http1 import request_head
from worker.upstream.pool import IdlePool, Origin
from worker.upstream.wire import connect

DEFAULT_READ_SIZE = 64 * 1024
MAX_IDLE = 512
# Under the keep-alive timeout of the servers in use (nginx 75 s, load balancers 60 s).
IDLE_EXPIRY = 30.0
PORTS = {"http": 80, "https": 443}


class Transport(UpstreamTransport):
    """HTTP/1.1 with keep-alive, and as many connections as there are requests.

    Of `request.extensions["timeout"]` only `connect` is kept: silence after that is the caller's to bound.
    """

    def __init__(
        self,
        *,
        read_size: int = DEFAULT_READ_SIZE,
        ssl_context: ssl.SSLContext | None = None,
        max_idle: int = MAX_IDLE,
        idle_expiry: float = IDLE_EXPIRY,
    ) -> None:
        self._read_size = read_size
        self._ssl_context = ssl_context
        self._pool: IdlePool[Connection] = IdlePool(max_idle=max_idle, idle_expiry=idle_expiry)
        self._connections: set[Connection] = set()
        self._retired = False
        self._closed = False

    @property
    def open(self) -> int:
        return len(self._connections)

    @property
    def idle(self) -> int:
        return len(self._pool)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send `request` and return when the response's head is there; it carries a `BODY`.

        A connection that was idle may have been closed by the upstream at the moment it is used again.  When it dies
        without a single byte of a response, the request is sent once more, on a fresh connection.
        """
        origin = _origin(request.url)
        data = request_head(request) + await request.aread()
        connection = self._idle_connection(origin)
        if connection is not None:
            try:
                return await self._exchange(connection, data)
            except (httpx.NetworkError, httpx.RemoteProtocolError):
                if connection.reader.heard or self._closed:
                    raise
        connection = await self._connect(origin, request.extensions.get("timeout", {}))
        return await self._exchange(connection, data)

    async def _exchange(self, connection: Connection, data: bytes) -> httpx.Response:
        try:
            ahead = await connection.ask(data)
        except BaseException:
            self.discard(connection)
            raise
        body = _Body(self, connection, ahead)
        reader = connection.reader
        return response(reader.status, reader.headers, body)

    def _idle_connection(self, origin: Origin) -> Connection | None:
        for expired in self._pool.expire(now=trio.current_time()):
            self.discard(expired)
        while (connection := self._pool.take(origin)) is not None:
            if connection.next():
                return connection
            self.discard(connection)
        return None

    async def _connect(self, origin: Origin, timeout: dict[str, Any]) -> Connection:
        seconds = timeout.get("connect")
        try:
            with trio.fail_after(float("inf") if seconds is None else seconds):
                wire = await connect(origin, self._ssl_context)
        except trio.TooSlowError as error:
            raise httpx.ConnectTimeout(f"connecting took longer than {seconds:g} s") from error
        connection = Connection(wire, origin, read_size=self._read_size)
        self._connections.add(connection)
        return connection

    def release(self, connection: Connection) -> None:
        """`connection` has delivered its response: keep it for the next request, if it can carry one."""
        if self._retired or not connection.reader.reusable:
            self.discard(connection)
            return
        for dropped in self._pool.put(connection.origin, connection, now=trio.current_time()):
            self.discard(dropped)

    def discard(self, connection: Connection) -> None:
        """Close `connection` and forget it; idempotent."""
        connection.close()
        self._connections.discard(connection)

    def retire(self) -> None:
        self._retired = True
        for connection in self._pool.clear():
            self.discard(connection)

    async def aclose(self) -> None:
        self._closed = True
        self.retire()
        for connection in list(self._connections):
            self.discard(connection)


class _Body:
    """The body on one connection, which it holds until the response is complete or abandoned."""

    __slots__ = ("_ahead", "_connection", "_cut", "_transport")

    def __init__(self, transport: Transport, connection: Connection, ahead: bytes) -> None:
        self._transport = transport
        self._connection: Connection | None = connection
        self._ahead = ahead
        self._cut = False
        if connection.reader.complete:
            self._finish()

    async def receive(self) -> bytes:
        if self._ahead:
            data, self._ahead = self._ahead, b""
            return data
        connection = self._connection
        if connection is None:
            if self._cut:
                raise httpx.ReadError("the connection was closed on our side")
            return b""
        try:
            data = await connection.receive()
        except BaseException:
            self.close_nowait()
            raise
        if connection.reader.complete:
            self._finish()
        return data

    def _finish(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._transport.release(connection)

    def close_nowait(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._cut = True
            self._ahead = b""
            self._transport.discard(connection)


def _origin(url: httpx.URL) -> Origin:
    scheme = url.scheme
    if scheme not in PORTS or not url.raw_host:
        raise httpx.UnsupportedProtocol(f"the base_url must begin with http:// or https:// and name a host, not {url}")
    return Origin(scheme, url.raw_host.decode("ascii"), url.port or PORTS[scheme])
