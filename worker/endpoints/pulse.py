"""What the routes of WebSockets share: what is none is refused, and who is silent is cut off."""

import math

import trio

from worker.asgi import HttpError, Request, WebSocket
from worker.gateway import Gateway

SEND_BUFFER_BYTES = 128 * 1024
"""Of the socket.  The kernel would let it grow to megabytes: seconds in which a slow client would not be noticed."""


def check_websocket(request: Request, message: str) -> WebSocket:
    """`request`; `HttpError` 426 with `message` if it is no handshake."""
    if not isinstance(request, WebSocket):
        headers = [(b"upgrade", b"websocket"), (b"connection", b"upgrade"), (b"sec-websocket-version", b"13")]
        raise HttpError(426, message, headers=headers)
    return request


class Pulse:
    """Pings, and what the client lets hear of himself.

    The route calls `heard` for whatever comes, and `beat` when nothing has been said to him for `interval` seconds.
    """

    def __init__(self, gateway: Gateway, websocket: WebSocket) -> None:
        self.interval = gateway.config.streaming.ping_interval or math.inf
        """Seconds between pings."""
        self._patience = gateway.config.server.send_timeout
        self._websocket = websocket
        self._heard = trio.current_time()
        self._pinged = math.inf
        """trio time of the first ping that has had no answer."""

    def heard(self) -> None:
        """Something came from the client."""
        self._heard = trio.current_time()

    async def beat(self) -> bool:
        """Ping; or cut him off, and return False, if he has been silent to pings for `send_timeout` seconds."""
        now = trio.current_time()
        if self._heard > self._pinged:
            self._pinged = math.inf
        if now - self._pinged > self._patience:
            self._websocket.connection.abort()
            return False
        self._pinged = min(self._pinged, now)
        await self._websocket.ping()
        return True
