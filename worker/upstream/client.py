"""One provider, as the rest of the worker sees it: a request body goes in, a response comes out piece by piece.

httpx's exceptions become `shared.errors.UpstreamError`s here, with httpx's class name as the operators' `error_type`.
"""

import ssl
from collections.abc import Mapping
from typing import cast

import httpx

from shared import VERSION
from shared.config import Provider
from shared.errors import UpstreamBroken, UpstreamConnectError, UpstreamError, UpstreamTimeout
from shared.proxies import proxy_for
from shared.records import Dialect
from worker.upstream.base import BODY, ResponseBody, UpstreamTransport
from worker.upstream.echo import EchoTransport
from worker.upstream.stock import StockTransport
from worker.upstream.transport import Transport

PATHS: dict[Dialect, str] = {"openai": "/chat/completions", "anthropic": "/messages"}
ANTHROPIC_VERSION = "2023-06-01"
MIN_KEY_CHARS = 8
"""A shorter one is no secret, and may stand in any text."""

_NO_CONNECTION = (httpx.ConnectError, httpx.ProxyError, httpx.UnsupportedProtocol, httpx.LocalProtocolError)


class UpstreamResponse:
    """A response whose head has arrived.  Whoever holds it reads the body to its end or calls `close_nowait()`."""

    __slots__ = ("_body", "_host", "_key", "headers", "status")

    def __init__(self, response: httpx.Response, host: str, key: str | None) -> None:
        self.status: int = response.status_code
        self.headers: httpx.Headers = response.headers
        self._body = cast("ResponseBody", response.extensions[BODY])
        self._host = host
        self._key = key.encode("latin-1") if key is not None and len(key) >= MIN_KEY_CHARS else None

    async def receive(self) -> bytes:
        """The next body bytes, de-chunked, as one read of the socket gave them; b"" at the clean end of the body.

        The connection is back in the pool as soon as the body's last byte has been seen.  Raises `UpstreamBroken`
        when the response is cut (end of file or reset inside it, broken chunk framing) or was closed by
        `close_nowait()`.  Left by any exception, cancellation included, the connection is closed already.
        Bytes that came with the head are returned without a checkpoint.
        """
        try:
            return await self._body.receive()
        except httpx.HTTPError as error:
            raise _mapped(error, self._host) from error

    async def read(self, limit_bytes: int) -> bytes:
        """The rest of the body, whole and without our key; `UpstreamBroken` when it is longer than `limit_bytes`."""
        parts: list[bytes] = []
        length = 0
        while data := await self.receive():
            length += len(data)
            if length > limit_bytes:
                self.close_nowait()
                raise UpstreamBroken(f"upstream {self._host}: the response is larger than {limit_bytes} bytes")
            parts.append(data)
        return self.without_key(b"".join(parts))

    def without_key(self, said: bytes) -> bytes:
        """An error as others may see it: some upstreams repeat the key that they did not like."""
        return said if self._key is None else said.replace(self._key, b"[redacted]")

    def close_nowait(self) -> None:
        """Close the socket, synchronously, unless the body was read to its end; idempotent.

        Another task may be waiting in `receive()`, which then raises `UpstreamBroken`.
        """
        self._body.close_nowait()


class UpstreamClient:
    """One provider in one process, with its own connection pool.

    `key` is sent as the dialect wants it; None sends none.  At most `read_size` bytes are taken per read.  `path` is
    added to the base_url in the place of the dialect's.
    """

    def __init__(
        self,
        provider: Provider,
        key: str | None,
        *,
        read_size: int,
        ssl_context: ssl.SSLContext | None = None,
        path: str | None = None,
    ) -> None:
        self.provider = provider
        base, _, query = provider.base_url.partition("?")
        path = path or PATHS[provider.dialect]
        self._url = httpx.URL(base.rstrip("/") + path + (f"?{query}" if query else ""))
        self._host = self._url.host or provider.name
        self._key = key
        self._head = self._merged({})
        self._extensions = {"timeout": httpx.Timeout(None, connect=provider.connect_timeout).as_dict()}
        self._transport = self._make_transport(read_size, ssl_context)

    def _make_transport(self, read_size: int, ssl_context: ssl.SSLContext | None) -> UpstreamTransport:
        if self.provider.kind == "echo":
            return EchoTransport()
        if (proxy := proxy_for(self._url)) is not None:
            return StockTransport(proxy, ssl_context=ssl_context)
        return Transport(read_size=read_size, ssl_context=ssl_context)

    async def open(self, body: bytes, *, headers: Mapping[str, str] = {}, query: str = "") -> UpstreamResponse:
        """POST `body` (JSON) and return when the head of the response is there, whatever its status.

        `headers` are added to the client's own; the provider's configured ones win over both.  `query` comes behind
        the query of the provider's `base_url`, if that has one.  Redirects are reported, not followed.

        Raises `UpstreamConnectError`, `UpstreamTimeout` (`ConnectTimeout`: there is no other deadline here, silence
        is the caller's to bound by a cancel scope) and `UpstreamBroken`.  Cancelled in any phase, the socket is closed
        before `trio.Cancelled` leaves.
        """
        head = self._merged(headers) if headers else self._head
        # The transport is called without an `httpx.AsyncClient` around it: building the request and sending it
        # through the client costs 110 µs (merging of headers, cookies, redirects, auth, hooks, logging), this 7 µs,
        # and of all that a gateway wants nothing.
        request = httpx.Request(
            "POST",
            self._url if not query else _with_query(self._url, query),
            headers=[*head, (b"content-length", b"%d" % len(body))],
            stream=httpx.ByteStream(body),
            extensions=self._extensions,
        )
        try:
            response = await self._transport.handle_async_request(request)
        except httpx.HTTPError as error:
            raise _mapped(error, self._host) from error
        return UpstreamResponse(response, self._host, self._key)

    def _merged(self, headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
        """The head of a request, later ones winning: our defaults, the caller's, what must be, the provider's own."""
        merged = {"accept": "application/json, text/event-stream", "user-agent": f"kimi-proxy/{VERSION}"}
        anthropic = self.provider.dialect == "anthropic"
        if anthropic:
            merged["anthropic-version"] = ANTHROPIC_VERSION
        merged.update((name.lower(), value) for name, value in headers.items())
        merged |= {"content-type": "application/json", "accept-encoding": "identity"}
        if self._key is not None:
            merged |= {"x-api-key": self._key} if anthropic else {"authorization": f"Bearer {self._key}"}
        merged.update((name.lower(), value) for name, value in self.provider.headers.items())
        merged.setdefault("host", self._url.netloc.decode("ascii"))
        return [
            (name.encode("latin-1", "replace"), value.encode("latin-1", "replace")) for name, value in merged.items()
        ]

    @property
    def open_connections(self) -> int:
        """Connections that are open, idle ones included."""
        return self._transport.open

    @property
    def idle_connections(self) -> int:
        """Connections that wait in the pool."""
        return self._transport.idle

    def retire(self) -> None:
        """Close the idle connections now and the others at the end of their responses; what streams, streams on."""
        self._transport.retire()

    async def aclose(self) -> None:
        """Close every connection, also those in use: their `receive()` raises `UpstreamBroken`."""
        await self._transport.aclose()


def _with_query(url: httpx.URL, query: str) -> httpx.URL:
    own = url.query + b"&" if url.query else b""
    return url.copy_with(query=own + query.encode("ascii", "replace"))


def _mapped(error: httpx.HTTPError, host: str) -> UpstreamError:
    """`error` as one of ours.  httpx's messages may hold an address, but never a header."""
    kind: type[UpstreamError] = UpstreamBroken
    if isinstance(error, httpx.TimeoutException):
        kind = UpstreamTimeout
    elif isinstance(error, _NO_CONNECTION):
        kind = UpstreamConnectError
    name = type(error).__name__
    return kind(f"upstream {host}: {error or name}", name)
