"""One request on an HTTP/2 connection: ASGI for its application, and what `request.connection` is to its endpoint.

open ──┬─ the client resets it, or leaves ─▶ closed, and whoever watches is told
       ├─ the application aborts, or returns too early ─▶ reset, closed
       └─ the response's end ─▶ ended; a request that goes on is reset without an error
"""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import trio
from h2.errors import ErrorCodes
from h2.exceptions import ProtocolError

from worker.asgi import Header, Message
from worker.dialects.openai.errors import error_body

if TYPE_CHECKING:
    from worker.http2 import Http2

STREAM_WINDOW = 256 * 1024
"""What a client may send of a request's body before it is read."""
PROGRESS_BYTES = 16384
"""A client that takes so much is reading."""
TURN_BYTES = 64 * 1024
"""After so much it is another stream's turn."""
# Of HTTP/1.1 alone (RFC 9113, 8.2.2).
_OF_CONNECTION = frozenset({b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"})


class Stream:
    """See the module."""

    def __init__(self, http2: "Http2", id: int, method: str) -> None:
        self.id = id
        self.is_closed = False
        self.sending_since: float | None = None
        """trio time since when a send has waited for the client to read; None if none does."""
        self._http2 = http2
        self._is_head = method == "HEAD"
        self._head: tuple[int, list[Header]] | None = None
        self._has_started = False
        self._has_body = True
        self._has_ended = False
        self._on_gone: Callable[[], None] | None = None
        self._sending = trio.Lock()
        self._woken = trio.Event()
        self._parts: list[bytes] = []
        self._held = 0
        """What of the client's window is used up by what nobody has read."""
        self._read = 0
        """What has been read, and the client was not told yet."""
        self._request_has_ended = False
        self._request_was_read = False
        self._arrived = trio.Event()

    # What endpoints ask of a connection

    def watch(self, on_gone: Callable[[], None] | None) -> None:
        """As `Connection.watch`: of a client that leaves, and of one that resets this stream."""
        self._on_gone = on_gone
        if on_gone is not None and self.is_closed:
            on_gone()

    def start_soon(self, job: Callable[[], Awaitable[None]]) -> None:
        """Run a short job beside the request; the connection owns it."""
        self._http2.start_soon(job)

    def is_abandoned(self) -> bool:
        """Never without `watch` being told, as the connection is read all the time."""
        return False

    def has_room(self) -> bool:
        """Whether the client takes more bytes now."""
        return self.is_closed or self._has_ended or self._http2.room(self.id) > 0

    def abort(self) -> None:
        """Reset the stream at once; a send that waits for the client to read is released."""
        self._reset(ErrorCodes.INTERNAL_ERROR)

    def _reset(self, code: ErrorCodes) -> None:
        if not self.is_closed:
            self._http2.reset(self.id, code)
            self.lose()

    # What the connection tells

    def lose(self) -> None:
        """The stream is gone."""
        if not self.is_closed:
            self.is_closed = True
            self.wake()
            self._arrived.set()
            if self._on_gone is not None:
                self._on_gone()

    def wake(self) -> None:
        """There may be room now."""
        self._woken.set()

    def receive_data(self, data: bytes, window_bytes: int) -> None:
        """A piece of the request's body, and what it takes of the client's window."""
        self._parts.append(data)
        self._held += window_bytes
        self._arrived.set()

    def receive_end(self) -> None:
        """The end of the request."""
        self._request_has_ended = True
        self._arrived.set()

    # ASGI

    async def receive(self) -> Message:
        """The request's body, as much of it as there is; then wait for the stream's end."""
        while not (self.is_closed or self._has_ended):
            if self._parts or (self._request_has_ended and not self._request_was_read):
                body = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
                self._parts.clear()
                self._tell_read()
                self._request_was_read = self._request_has_ended
                return {"type": "http.request", "body": body, "more_body": not self._request_has_ended}
            self._arrived = trio.Event()
            await self._arrived.wait()
        return {"type": "http.disconnect"}

    def _tell_read(self) -> None:
        self._read += self._held
        self._held = 0
        if self._read >= STREAM_WINDOW // 2 and not self._request_has_ended:
            self._http2.consume(self.id, self._read)
            self._read = 0

    async def send(self, message: Message) -> None:
        """The response.  What is sent to a stream that is gone goes nowhere.

        A send can't be cancelled, as half an event would be left; `abort` ends it.
        """
        if self.is_closed or self._has_ended:
            return
        if message["type"] == "http.response.start":
            status = message["status"]
            headers = [(name.lower(), value) for name, value in message["headers"]]
            self._head = status, [header for header in headers if header[0] not in _OF_CONNECTION]
            self._has_started = True
            self._has_body = not (self._is_head or status in (204, 304))
            return
        data = message.get("body", b"") if self._has_body else b""
        ends = not message.get("more_body", False)
        try:
            if self._head is not None:
                (status, headers), self._head = self._head, None
                self._http2.send_head(self.id, status, headers, end=ends and not data)
                if not data:
                    self._http2.flush()
                    self._end(ends)
                    return
            if not self._sending.locked() and len(data) <= self._http2.room(self.id):
                if data or ends:
                    self._http2.send_data(self.id, data, end=ends)
                    self._http2.flush()
            else:
                await self._send_slowly(data, ends)
            self._end(ends)
        except ProtocolError:  # the client has ended the connection, or h2 has
            self.lose()

    async def _send_slowly(self, data: bytes, ends: bool) -> None:
        """Piece by piece, as there is room."""
        with trio.CancelScope(shield=True):  # `abort` releases it
            async with self._sending:
                self.sending_since = trio.current_time()
                try:
                    at = taken = turn = 0
                    while not self.is_closed:
                        room = self._http2.room(self.id)
                        if at < len(data) and not room:
                            self._woken = trio.Event()
                            await self._woken.wait()
                            continue
                        piece = data[at : at + room]
                        at += len(piece)
                        if piece or ends:
                            self._http2.send_data(self.id, piece, end=ends and at == len(data))
                            self._http2.flush()
                        if at == len(data):
                            return
                        taken += len(piece)
                        turn += len(piece)
                        if taken >= PROGRESS_BYTES:
                            self.sending_since, taken = trio.current_time(), 0
                        if turn >= TURN_BYTES:
                            turn = 0
                            await trio.lowlevel.checkpoint()
                finally:
                    self.sending_since = None

    def _end(self, ends: bool) -> None:
        if ends and not self.is_closed:
            self._has_ended = True
            self._arrived.set()
            self._http2.forget(self.id)
            if not self._request_has_ended:
                self._reset(ErrorCodes.NO_ERROR)  # nobody reads the rest of it (RFC 9113, 8.1)

    async def refuse(self, status: int, reason: str) -> None:
        """Answer a request that no application should see."""
        body = error_body(status, f"the request was refused: {reason}")
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await self.send({"type": "http.response.start", "status": status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})

    def leave(self) -> None:
        """The application has returned: what it has not ended is reset."""
        if not self._has_ended:
            self._reset(ErrorCodes.INTERNAL_ERROR)
