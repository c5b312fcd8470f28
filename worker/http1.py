"""HTTP/1.1 on a client's connection: Hypercorn's protocol code, with our WebSockets, errors and fewer writes."""

import uuid
from typing import cast

import h11
from hypercorn.events import Closed, RawData
from hypercorn.protocol.events import Request
from hypercorn.protocol.h11 import STREAM_ID, H11Protocol, H11WSConnection
from hypercorn.protocol.http_stream import HTTPStream
from hypercorn.typing import H11SendableEvent

from worker.dialects.openai.errors import error_body
from worker.websocket import WebSocketStream, handshake_of

# h11 looks at the size of a head only where it is not complete yet.
MAX_HEADERS = 1000
_FRAMINGS = {b"content-length", b"transfer-encoding"}
Headers = list[tuple[bytes, bytes]]


def is_framed_twice(headers: Headers) -> bool:
    """Whether a body has two ends: a proxy in front may see another one than we do (RFC 9112, 6.1 and 11.2)."""
    return dict(headers).keys() >= _FRAMINGS


def origin_form(target: bytes, headers: Headers) -> tuple[bytes, Headers]:
    """A target that names scheme and host, and its headers, as if it didn't (RFC 9112, 3.2.2).

    The host in it stands for the `host` header.  Any other target stays as it is.
    """
    scheme, _, rest = target.partition(b"://")
    if scheme.lower() not in (b"http", b"https"):
        return target, headers
    end = min((at for at in (rest.find(b"/"), rest.find(b"?")) if at >= 0), default=len(rest))
    path = rest[end:] if rest[end : end + 1] == b"/" else b"/" + rest[end:]
    return path, [(b"host", rest[:end]), *(header for header in headers if header[0] != b"host")]


class Http1(H11Protocol):
    """Sends a response's head together with the first bytes of its body, and tells a bad request what is wrong."""

    _head = b""

    async def _check_protocol(self, event: h11.Request) -> None:
        """No way to cleartext HTTP/2: there a send waits for the peer's flow window, out of reach of `abort`."""

    async def _create_stream(self, request: h11.Request) -> None:
        """Hypercorn's own looks for its WebSockets in every request's headers, one by one."""
        headers = list(request.headers)
        target = request.target
        if target[:1] != b"/":
            target, headers = origin_form(target, headers)
        if len(headers) > MAX_HEADERS or is_framed_twice(headers):
            await self._send_error_response(431 if len(headers) > MAX_HEADERS else 400)
            await self.send(Closed())
            return
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
                raw_path=target,
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
        await self.connection_state["connection"].linger()
