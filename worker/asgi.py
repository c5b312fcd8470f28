"""ASGI without a framework: a request to read from, a response to write to."""

import contextlib
import socket
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import parse_qs

import msgspec
import trio

from shared.records import Dialect
from worker.dialects.fault import field_in

if TYPE_CHECKING:
    from worker.serve import Connection

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]
Header = tuple[bytes, bytes]

JSON = (b"content-type", b"application/json")


class ClientConnection(Protocol):
    """What an endpoint may ask of that on which a request came: `worker.serve.Connection`, a stream of HTTP/2."""

    sending_since: float | None

    def watch(self, on_gone: Callable[[], None] | None) -> None: ...

    def start_soon(self, job: Callable[[], Awaitable[None]]) -> None: ...

    def is_abandoned(self) -> bool: ...

    def has_room(self) -> bool: ...

    def abort(self) -> None: ...


class ClientGone(Exception):
    """The client left before its request was complete; there is nobody to answer."""


class HttpError(Exception):
    """An answer that is not 2xx.  `message` is for the caller to read: what was wrong, how to fix it.

    `param` is the field that is wrong; a 400 whose message begins with one in backticks need not tell it twice.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: Iterable[Header] = (),
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param or (field_in(message) if status == 400 else None)
        self.headers = tuple(headers)


class Request:
    """One request and its response.  Belongs to the task that Hypercorn runs for it."""

    __slots__ = (
        "_send",
        "body_is_read",
        "client",
        "common_headers",
        "connection",
        "dialect",
        "headers",
        "is_draining",
        "method",
        "path",
        "receive",
        "response_status",
        "scope",
        "trace",
    )

    def __init__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        self.scope = scope
        self.receive = receive
        self._send = send
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        # A repeated header's last value wins; `header_list` is for those that may be repeated.
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.connection: ClientConnection = scope["state"]["connection"]
        self.trace = ""
        self.client: str | None = None
        """A fingerprint of the caller's key; None where none is asked for."""
        self.dialect: Dialect = "openai"
        """What errors are said in."""
        self.common_headers: list[Header] = []
        """Sent with every response: request id, CORS."""
        self.is_draining: Callable[[], bool] = lambda: False
        """Whether this worker is leaving; asked when the response's head is made, long after the request's perhaps."""
        self.response_status: int | None = None
        self.body_is_read = False
        """The request has arrived to its end."""

    @property
    def closes_connection(self) -> bool:
        """The response says `connection: close`."""
        return self.scope["http_version"] == "1.1" and self.is_draining()

    @property
    def arrived_by_tcp(self) -> bool:
        """Not by a UNIX socket, which no browser page can reach."""
        return self.scope["client"] is not None

    def header(self, name: bytes) -> str | None:
        """A request header's value; the name in lower case."""
        value = self.headers.get(name)
        return None if value is None else value.decode("latin-1").strip()

    def header_list(self, name: bytes) -> str | None:
        """A header that lists values, wherever the client put them: RFC 9110, 5.3."""
        values = [value.decode("latin-1").strip() for given, value in self.scope["headers"] if given == name]
        return ",".join(values) if values else None

    async def read_body(self, limit_bytes: int, timeout: float) -> bytes:
        """The whole body.  `HttpError` 413 above the limit, 408 when it is late, 415 if it is compressed.

        `ClientGone` on disconnect.
        """
        if self.headers.get(b"content-encoding", b"identity").lower() not in (b"identity", b""):
            raise self._encoded()
        length = self.header(b"content-length")
        if length is not None and length.isdigit() and int(length) > limit_bytes:
            raise self._too_large(limit_bytes)
        parts: list[bytes] = []
        size = 0
        with trio.move_on_after(timeout):
            while True:
                message = await self.receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone
                if part := message.get("body"):
                    parts.append(part)
                    size += len(part)
                    if size > limit_bytes:
                        raise self._too_large(limit_bytes)
                if not message.get("more_body"):
                    self.body_is_read = True
                    return parts[0] if len(parts) == 1 else b"".join(parts)
        raise HttpError(
            408, f"the request's body did not arrive within {timeout:g} s", headers=[(b"connection", b"close")]
        )

    def _encoded(self) -> HttpError:
        encoding = (self.header(b"content-encoding") or "")[:40]
        return HttpError(
            415,
            f"the request's body is encoded ({encoding}): send it as it is, not compressed",
            code="unsupported_encoding",
            headers=[(b"accept-encoding", b"identity"), (b"connection", b"close")],
        )

    @staticmethod
    def _too_large(limit_bytes: int) -> HttpError:
        return HttpError(
            413,
            f"the request's body is larger than the {limit_bytes} bytes that [server] max_body_bytes allows",
            code="request_too_large",
            headers=[(b"connection", b"close")],
        )

    async def start(self, status: int, headers: Iterable[Header]) -> None:
        """Send the response's head."""
        self.response_status = status
        head = [*headers, *self.common_headers]
        if self.closes_connection:
            head.append((b"connection", b"close"))
        await self._send({"type": "http.response.start", "status": status, "headers": head})

    async def send(self, data: bytes, *, more: bool = True) -> None:
        """Send a part of the response's body; `more=False` ends it."""
        await self._send({"type": "http.response.body", "body": data, "more_body": more})

    async def respond(self, status: int, body: bytes, headers: Iterable[Header] = (JSON,)) -> None:
        """A complete response."""
        await self.start(status, [*headers, (b"content-length", b"%d" % len(body))])
        await self.send(body, more=False)

    async def respond_json(self, value: Any) -> None:
        """200 with `value` as JSON."""
        await self.respond(200, msgspec.json.encode(value))

    def query(self, name: str) -> str | None:
        """A parameter of the query; the last one if it is repeated."""
        values = parse_qs(self.scope["query_string"].decode("latin-1"), keep_blank_values=True).get(name)
        return values[-1] if values else None

    async def discard_body(self, timeout: float = 1.0) -> None:
        """Read on for a moment after an early answer, so that closing doesn't destroy it on its way (RFC 9112, 9.6)."""
        with trio.move_on_after(timeout):
            while not self.body_is_read:
                message = await self.receive()
                self.body_is_read = message["type"] == "http.disconnect" or not message.get("more_body")


class WebSocket(Request):
    """A request to become a WebSocket (`worker.websocket`): answered as HTTP it is refused, `accept` opens it.

    Whatever is sent after it has ended goes nowhere; `receive` tells that it has, with `websocket.disconnect`.
    """

    __slots__ = ()
    connection: "Connection"

    def __init__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        super().__init__(scope, receive, send)
        self.body_is_read = True

    @property
    def closes_connection(self) -> bool:
        """One that is refused does."""
        return True

    async def accept(self, *, max_message_chars: int | None = None) -> None:
        """Open it; a client may say more at once than `worker.websocket.MAX_MESSAGE_CHARS` if that is told here."""
        self.response_status = 101
        message: Message = {"type": "websocket.accept", "headers": self.common_headers}
        if max_message_chars is not None:
            message["max_message_chars"] = max_message_chars
        await self._send(message)

    def limit_send_buffer(self, size_bytes: int) -> None:
        """Bound what the kernel keeps for a client that does not read."""
        with contextlib.suppress(OSError):  # he has left already
            self.connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size_bytes)

    async def send_frames(self, frames: bytes) -> None:
        """Send complete frames (`worker.websocket.text_frame`)."""
        await self._send({"type": "websocket.send", "frames": frames})

    async def ping(self) -> None:
        """Ask whether the client is there; it is if `websocket.pong` comes."""
        await self._send({"type": "websocket.ping"})

    async def close(self, code: int, reason: str = "") -> None:
        """Close it, with a code of RFC 6455, 7.4; `reason` has at most 123 bytes."""
        await self._send({"type": "websocket.close", "code": code, "reason": reason})
