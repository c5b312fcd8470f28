"""httpx's own transport, for upstreams behind a proxy, made to close at once as ours does.

`shared.proxies` names the proxy.  CONNECT tunnels, proxy authentication and SOCKS are httpcore's trade;
its pool is slow with hundreds of connections, which few proxies ever see.

httpcore closes asynchronously, we must not wait.  So `close_nowait` closes the socket beneath it, which httpcore
exposes as the `network_stream` extension, and what httpcore still believes is put right before the next request.
"""

import contextlib
import socket
import ssl
import weakref
from collections.abc import AsyncIterator
from typing import Any

import httpx

from worker.upstream.base import UpstreamTransport, response
from worker.upstream.wire import default_ssl_context

MAX_IDLE = 20
IDLE_EXPIRY = 30.0


class StockTransport(UpstreamTransport):
    """`httpx.AsyncHTTPTransport` through `proxy`, without a bound on its connections."""

    def __init__(self, proxy: str, *, ssl_context: ssl.SSLContext | None = None) -> None:
        self._proxy = proxy
        self._ssl_context = ssl_context
        self._inner: httpx.AsyncHTTPTransport | None = None
        self._retired = False
        # trio sockets, known by what httpcore tells about each response; typed Any as httpcore's extensions are.
        self._sockets: weakref.WeakSet[Any] = weakref.WeakSet()
        self.busy: set[Any] = set()
        self.abandoned: list[_StockBody] = []

    @property
    def open(self) -> int:
        return sum(sock.fileno() != -1 for sock in self._sockets)

    @property
    def idle(self) -> int:
        return 0 if self._retired else sum(sock.fileno() != -1 for sock in self._sockets if sock not in self.busy)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """As httpx does it; a proxy URL that is no use raises `httpx.ProxyError`."""
        await self._unwind()
        if self._inner is None:
            self._inner = self._make_inner()
        inner = await self._inner.handle_async_request(request)
        sock = inner.extensions["network_stream"].get_extra_info("socket")
        self._sockets.add(sock)
        self.busy.add(sock)
        return response(inner.status_code, inner.headers.raw, _StockBody(self, inner, sock))

    def _make_inner(self) -> httpx.AsyncHTTPTransport:
        limits = httpx.Limits(
            max_connections=None,
            max_keepalive_connections=0 if self._retired else MAX_IDLE,
            keepalive_expiry=IDLE_EXPIRY,
        )
        try:
            return httpx.AsyncHTTPTransport(
                verify=self._ssl_context or default_ssl_context(), proxy=self._proxy, limits=limits, trust_env=False
            )
        except (ImportError, ValueError, httpx.InvalidURL) as error:  # SOCKS without socksio, an unknown scheme
            raise httpx.ProxyError(f"the proxy in the environment can't be used: {error}") from error

    def released(self, sock: Any) -> None:
        """The response on `sock` has been read to its end."""
        self.busy.discard(sock)
        if self._retired:
            self._close_idle()

    def retire(self) -> None:
        self._retired = True
        self._close_idle()
        self._inner = None  # the next request, if one comes, makes another without keep-alive

    def _close_idle(self) -> None:
        for sock in [sock for sock in self._sockets if sock.fileno() != -1 and sock not in self.busy]:
            if self.busy:
                # httpcore looks at its idle connections when a response ends, and chokes on a closed one; one that
                # is shut down it takes for closed by the peer, and closes.
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
            else:
                sock.close()

    async def aclose(self) -> None:
        self.retire()
        for sock in list(self.busy):
            sock.close()
        self.busy.clear()
        self._close_idle()
        await self._unwind()

    async def _unwind(self) -> None:
        """Let httpcore learn of the responses that were abandoned since."""
        ready = [body for body in self.abandoned if not body.reading]
        for body in ready:
            self.abandoned.remove(body)
        for body in ready:
            await body.unwind()


class _StockBody:
    """The body of a response of httpx's."""

    def __init__(self, transport: StockTransport, inner: httpx.Response, sock: Any) -> None:
        assert isinstance(inner.stream, httpx.AsyncByteStream)
        self._transport = transport
        self._stream = inner.stream
        self._chunks: AsyncIterator[bytes] = inner.stream.__aiter__()
        self._sock = sock
        self.reading = False
        """Whether a task is inside httpcore's generators, which nobody else may enter then."""
        self._ended = False
        self._cut = False

    async def receive(self) -> bytes:
        if self._cut:
            raise httpx.ReadError("the connection was closed on our side")
        if self._ended:
            return b""
        self.reading = True
        try:
            return await self._next()
        except BaseException:
            self.close_nowait()
            raise
        finally:
            self.reading = False

    async def _next(self) -> bytes:
        while True:
            try:
                data = await anext(self._chunks)
            except StopAsyncIteration:
                await self._stream.aclose()
                self._ended = True
                self._transport.released(self._sock)
                return b""
            if data:
                return data

    def close_nowait(self) -> None:
        if self._ended or self._cut:
            return
        self._cut = True
        self._sock.close()
        self._transport.busy.discard(self._sock)
        self._transport.abandoned.append(self)

    async def unwind(self) -> None:
        """Run httpcore's generators to their end, which a closed socket brings about, and free its pool's slot.

        A generator that is dropped half-way would be finished by the garbage collector, with a warning.
        """
        with contextlib.suppress(httpx.HTTPError, StopAsyncIteration):
            while True:
                await anext(self._chunks)
        await self._stream.aclose()
