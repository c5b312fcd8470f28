"""The client's side of a stream: when the response is committed, and the pings that keep it alive."""

import math

import trio

from worker.asgi import JSON, Header, Request

STREAM_HEADERS: list[Header] = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache, no-store, must-revalidate, max-age=0"),
    (b"x-accel-buffering", b"no"),
    (b"pragma", b"no-cache"),
    (b"expires", b"0"),
    (b"x-content-type-options", b"nosniff"),
]
KEEP_ALIVE: Header = (b"connection", b"keep-alive")


class Downstream:
    """Sends an answer.  Until the first byte nothing is committed, and any other response may still be given.

    One task sends; `ping` may run beside it, and never gets between the head and the first byte, or into an event.
    """

    def __init__(self, request: Request, *, ping: bytes | None, ping_interval: float) -> None:
        """`ping` is what keeps a silent stream alive; None: the answer is one body."""
        self._request = request
        self._streaming = ping is not None
        self._ping = ping or b""
        self._ping_interval = ping_interval if ping and ping_interval > 0 else math.inf
        self._pinging = trio.Lock()
        self._sending = False
        self._last_sent = trio.current_time()
        self.may_ping = False
        """Whether a ping may commit 200: the upstream has accepted the request, or `early_ping` is set."""
        self.committed = False
        self.ended = False
        self.extra_headers: list[Header] = []
        """Sent with an answer, not with a refusal."""

    async def send(self, data: bytes) -> None:
        """Whole events for the client; the first ones commit the response."""
        if self._pinging.locked():
            async with self._pinging:
                pass
        self._sending = True
        try:
            if not self.committed:
                await self._commit()
            self._last_sent = trio.current_time()
            await self._request.send(data)
        finally:
            self._sending = False

    async def finish(self, data: bytes = b"") -> None:
        """The rest of the answer, and its end; none of it if the stream is cancelled by now."""
        await trio.lowlevel.checkpoint_if_cancelled()  # or all of it would go out, and the record say otherwise
        self.ended = True
        if not self._streaming:
            self.committed = True
            await self._request.respond(200, data, [JSON, *self.extra_headers])
            return
        if data:
            await self.send(data)
        elif not self.committed:
            await self._commit()
        await self._request.send(b"", more=False)

    async def refuse(self, status: int, body: bytes, headers: list[Header]) -> None:
        """An error response in place of an answer; only while nothing is committed.  Cancellation as in `finish`."""
        await trio.lowlevel.checkpoint_if_cancelled()
        self.ended = self.committed = True
        await self._request.respond(status, body, headers)

    def is_ping_due(self, now: float) -> bool:
        """Whether the client has heard nothing for too long and a ping could be sent right now."""
        return (
            now - self._last_sent >= self._ping_interval
            and (self.committed or self.may_ping)
            and not (self._sending or self.ended or self._pinging.locked())
        )

    async def ping(self) -> None:
        """Send one ping."""
        async with self._pinging:
            if self._sending or self.ended:
                return
            self._last_sent = trio.current_time()
            if not self.committed:
                await self._commit()
            await self._request.send(self._ping)

    async def _commit(self) -> None:
        self.committed = True
        headers = STREAM_HEADERS
        if self._request.scope["http_version"] == "1.1" and not self._request.closes_connection:
            headers = [*headers, KEEP_ALIVE]
        if self.extra_headers:
            headers = [*headers, *self.extra_headers]
        await self._request.start(200, headers)
