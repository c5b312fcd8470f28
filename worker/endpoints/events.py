"""`WS /ws`: live events of the whole service, one a message, as `docs/events.md` lists them.

One task sends what the queue holds, one hears the client, who has nothing to say but pongs and a close.
"""

import time

import msgspec
import trio

from shared import VERSION, events
from shared.messages import ActiveSessions
from worker.asgi import HttpError, Request, WebSocket
from worker.dialects.fault import quoted
from worker.endpoints.pulse import SEND_BUFFER_BYTES, Pulse, check_websocket
from worker.gateway import Gateway
from worker.listeners import SERVICE_RESTART, Listener
from worker.websocket import text_frame

SNAPSHOT_TIMEOUT = 2.0


async def listen(gateway: Gateway, request: Request) -> None:
    """`types=a,b` asks for these events only."""
    websocket = check_websocket(request, "live events are told over a WebSocket")
    types = wanted_types(request.query("types"))
    listener = Listener(websocket.connection, types)
    websocket.limit_send_buffer(SEND_BUFFER_BYTES)
    with gateway.listeners.joined(listener):
        if gateway.draining:  # its listeners have been sent away already
            listener.close(SERVICE_RESTART)
        # Who is accepted misses nothing from then on: by its answer the supervisor knows that somebody listens here.
        # What happens meanwhile stands behind the snapshot, which may hold it already.
        hello = text_frame(await _hello(gateway))
        await websocket.accept()
        async with trio.open_nursery() as nursery:
            pulse = Pulse(gateway, websocket)
            nursery.start_soon(_hear, websocket, pulse, nursery.cancel_scope)
            await websocket.send_frames(hello)
            await _tell(websocket, listener, pulse)
            nursery.cancel_scope.cancel()
    if listener.close_code is not None:
        await websocket.close(listener.close_code, "connect again")


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


async def _hear(websocket: WebSocket, pulse: Pulse, scope: trio.CancelScope) -> None:
    """Until he leaves, which cancels `scope`."""
    while (await websocket.receive())["type"] != "websocket.disconnect":
        pulse.heard()
    scope.cancel()


async def _tell(websocket: WebSocket, listener: Listener, pulse: Pulse) -> None:
    """Send until the listener is to leave, or is cut off for his silence."""
    there = True
    silent_until = trio.current_time() + pulse.interval
    while there:
        await listener.wait(until=silent_until)
        if listener.close_code is not None:
            return
        now = trio.current_time()
        if frames := listener.take():
            await websocket.send_frames(frames)
        elif now >= silent_until:
            there = await pulse.beat()
        silent_until = now + pulse.interval
