"""`WS /ws`: live events of the whole service, one a message, as `docs/events.md` lists them.

One task sends what the queue holds, one hears the client, who has nothing to say but pongs and a close.
"""

import math
import time

import msgspec
import trio

from shared import VERSION, events
from shared.messages import ActiveSessions
from worker.asgi import HttpError, Request, WebSocket
from worker.dialects.fault import quoted
from worker.gateway import Gateway
from worker.listeners import SERVICE_RESTART, Listener
from worker.websocket import text_frame

SEND_BUFFER_BYTES = 128 * 1024
"""Of the socket.  The kernel would let it grow to megabytes: seconds in which a slow listener would not be noticed."""
SNAPSHOT_TIMEOUT = 2.0


async def listen(gateway: Gateway, request: Request) -> None:
    """`types=a,b` asks for these events only."""
    if not isinstance(request, WebSocket):
        raise HttpError(
            426,
            "live events are told over a WebSocket",
            headers=[(b"upgrade", b"websocket"), (b"connection", b"upgrade"), (b"sec-websocket-version", b"13")],
        )
    types = wanted_types(request.query("types"))
    listener = Listener(request.connection, types)
    request.limit_send_buffer(SEND_BUFFER_BYTES)
    await request.accept()
    with gateway.listeners.joined(listener):
        if gateway.draining:  # its listeners have been sent away already
            listener.close(SERVICE_RESTART)
        async with trio.open_nursery() as nursery:
            hearing = _Hearing(request, nursery.cancel_scope)
            nursery.start_soon(hearing.run)
            # It joined first: what happens meanwhile stands behind the snapshot, which may hold it already.
            await request.send_frames(text_frame(await _hello(gateway)))
            await _tell(gateway, request, listener, hearing)
            nursery.cancel_scope.cancel()
    if listener.close_code is not None:
        await request.close(listener.close_code, "connect again")


def wanted_types(text: str | None) -> frozenset[str] | None:
    """What `?types=` asks for; None: all."""
    if text is None:
        return None
    types = frozenset(part.strip() for part in text.split(",") if part.strip())
    if unknown := types.difference(events.TYPES):
        raise HttpError(400, f"`types`: there is no event {quoted(min(unknown))}; there are {', '.join(events.TYPES)}")
    return types


async def _hello(gateway: Gateway) -> bytes:
    """The first event, with the live streams of the whole service."""
    sessions = b"null"
    try:
        told = await gateway.questions.ask(ActiveSessions(), SNAPSHOT_TIMEOUT)
        if told.status == 200:
            sessions = told.body
    except HttpError:
        pass
    hello = events.Hello(timestamp=time.time(), version=VERSION, worker=gateway.worker, sessions=msgspec.Raw(sessions))
    return events.encode(hello)


class _Hearing:
    """The client's side: that he lives, and that he leaves, which cancels `scope`."""

    def __init__(self, websocket: WebSocket, scope: trio.CancelScope) -> None:
        self._websocket = websocket
        self._scope = scope
        self.heard = trio.current_time()

    async def run(self) -> None:
        """Until he leaves."""
        while (await self._websocket.receive())["type"] != "websocket.disconnect":
            self.heard = trio.current_time()
        self._scope.cancel()


async def _tell(gateway: Gateway, websocket: WebSocket, listener: Listener, hearing: _Hearing) -> None:
    """Send until the listener is to leave.  One who has not answered to a ping for too long is cut off."""
    pinged = math.inf
    interval = gateway.config.streaming.ping_interval or math.inf
    silent_until = trio.current_time() + interval
    while True:
        await listener.wait(until=silent_until)
        if listener.close_code is not None:
            return
        now = trio.current_time()
        if frames := listener.take():
            await websocket.send_frames(frames)
        elif now >= silent_until:
            if hearing.heard > pinged:
                pinged = math.inf
            if now - pinged > gateway.config.server.send_timeout:
                websocket.connection.abort()
                return
            pinged = min(pinged, now)
            await websocket.ping()
        silent_until = now + interval
